"""A client of a stream that remembers how far it came."""

import json
from dataclasses import dataclass, field

import aiohttp


@dataclass
class Reader:
    """Reads server-sent events as the standard says."""

    job_id: str = ""
    last_id: str = ""
    numbers: list[int] = field(default_factory=list)
    text: str = ""
    failure: str = ""
    """The message of the error with which the job ended."""
    trouble: str = ""
    """The message of an error without a number: the connection's, not the job's."""
    done: bool = False

    async def read(self, response: aiohttp.ClientResponse, most: int | None = None) -> None:
        """At most so many frames, and no byte more."""
        assert response.status == 200, await response.text()
        self.job_id = response.headers["x-headrace-job-id"]
        data, read, number = "", 0, ""
        while read != most and (line := (await response.content.readline()).decode()):
            name, _, value = line.rstrip("\n").partition(": ")
            if name == "data":
                data = value
            elif name == "id":
                number = value
            elif not line.strip():
                self._take(data, number)
                data, number, read = "", "", read + 1

    def _take(self, data: str, last_id: str) -> None:
        if data == "[DONE]":
            self.done = True
            return
        frame = json.loads(data)
        error = frame.get("error", {}).get("message", "")
        job_id, _, number = last_id.rpartition(":")
        if error and (not number or int(number) <= max(self.numbers, default=0)):  # at most the stream's opening line
            self.trouble = error
            return
        assert job_id == self.job_id, f"a frame of {last_id!r}: {data[:200]}"
        self.last_id = last_id
        self.numbers.append(int(number))
        self.failure = error
        self.text += "".join(choice["delta"].get("content") or "" for choice in frame.get("choices", ()))

    @property
    def ended(self) -> bool:
        return self.done or bool(self.failure)

    @property
    def gapless(self) -> bool:
        """Every number once, from 1 on, in order."""
        return self.numbers == list(range(1, len(self.numbers) + 1))
