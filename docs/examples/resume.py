"""A stream that survives cuts: where it breaks off, it goes on.

    make run                                                   # in one terminal
    .venv/bin/python docs/examples/resume.py --cut-every 10    # in another

The answer belongs to a job, which runs on while nobody is connected. Each frame has an id, and whoever shows the last
one that arrived gets the frames after it. `--cut-every` hangs up on purpose, so that there is something to survive.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aiohttp

LONGEST_LINE = 1024 * 1024  # bytes
SILENCE = 30.0  # seconds without a byte; on a stream that waits Headrace sends a comment every 5
TRIES = 8  # connections in a row that bring nothing new
PAUSES = (0.0, 0.1, 0.5, 1.0, 2.0)  # seconds before the next connection, by how many brought nothing; then the last


class Failed(Exception):
    """The answer ended with an error, or the server stayed away."""


@dataclass(frozen=True, slots=True)
class Frame:
    id: str
    data: str


async def follow(
    session: aiohttp.ClientSession, body: dict[str, Any], cut_every: int = 0
) -> AsyncIterator[dict[str, Any]]:
    """The chunks of one answer, in order, each once, over as many connections as it takes. Raises `Failed`."""
    key, last_id, fruitless = str(uuid4()), "", 0
    while fruitless < TRIES:
        await asyncio.sleep(PAUSES[min(fruitless, len(PAUSES) - 1)])
        fruitless += 1
        try:
            async with connect(session, body, key, last_id) as response:
                await refuse_errors(response)
                number = 0
                async for frame in frames(response.content):
                    if frame.data == "[DONE]":
                        return
                    last_id, fruitless, number = frame.id, 0, number + 1
                    yield chunk(frame)
                    if number == cut_every:
                        note("cut")
                        break
        except (aiohttp.ClientError, TimeoutError) as error:
            note(type(error).__name__)
    raise Failed(f"{TRIES} connections in a row brought nothing new")


def connect(
    session: aiohttp.ClientSession, body: dict[str, Any], key: str, last_id: str
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """The answer from its beginning, or from behind the last frame that arrived."""
    if last_id:
        job_id, _, _ = last_id.rpartition(":")
        return session.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": last_id})
    # Nobody knows the job's id yet. Under one key the same request is one job, however often it is sent.
    headers = {"Idempotency-Key": key, "x-headrace-on-disconnect": "continue"}
    return session.post("/v1/chat/completions", headers=headers, json=body)


async def refuse_errors(response: aiohttp.ClientResponse) -> None:
    """A server that is away for a moment (5xx) is worth another try; what it refuses once it refuses again."""
    if response.status >= 500:
        response.raise_for_status()
    if response.status >= 400:
        raise Failed((await response.json())["error"]["message"])


async def frames(lines: AsyncIterable[bytes]) -> AsyncIterator[Frame]:
    """Server-sent events. Only a blank line makes a frame whole: half a one is sent again."""
    data, last_id = "", ""
    async for raw in lines:
        line = raw.decode().rstrip("\n")
        name, _, value = line.partition(": ")
        if name == "data":
            data = value
        elif name == "id":
            last_id = value
        elif not line and data:
            yield Frame(last_id, data)
            data = ""


def chunk(frame: Frame) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(frame.data)
    if "error" in content:
        raise Failed(content["error"]["message"])
    return content


def note(text: str) -> None:
    print(f"[{text}]", end="", file=sys.stderr, flush=True)


async def run(base_url: str, model: str, cut_every: int) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "What is a headrace?"}], "stream": True}
    headers = {"Authorization": f"Bearer {os.environ.get('HEADRACE_API_KEY', 'sk-anything')}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=SILENCE)
    async with aiohttp.ClientSession(base_url, headers=headers, timeout=timeout, read_bufsize=LONGEST_LINE) as session:
        async for each in follow(session, body, cut_every):
            for choice in each["choices"]:
                print(choice["delta"].get("content") or "", end="", flush=True)
    print()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base-url", default="http://127.0.0.1:4000", help="of the server (default: %(default)s)")
    parser.add_argument("--model", default="slow", help="(default: %(default)s)")
    parser.add_argument("--cut-every", type=int, default=0, metavar="N", help="hang up after N frames")
    given = parser.parse_args()
    try:
        asyncio.run(run(given.base_url, given.model, given.cut_every))
    except Failed as error:
        print(f"\nThe stream failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
