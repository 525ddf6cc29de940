"""What the tests of OpenAI's dialect share: calls, fixtures as wire bytes, and a reader that checks every chunk."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from shared.catalog import Deployment
from shared.jobs import Usage
from tests.providers.openai_schema import check_chunk
from workers.providers import registry
from workers.providers.base import Call, Chunk
from workers.sse import SseDecoder

FIXTURES = Path(__file__).parents[1] / "fixtures" / "providers"


def deployment(provider: str = "openai", model: str = "gpt-4o", **fields: Any) -> Deployment:
    return Deployment(id="d", group="g", provider=provider, model=model, api_key="sk-test", **fields)


def call(to: Deployment | None = None, **body: Any) -> Call:
    body = {"model": "alias", "messages": [{"role": "user", "content": "Hello"}]} | body
    return Call(body=body, deployment=to or deployment(), id="chatcmpl-own", created=1_700_000_000, client_headers={})


def request_body(to: Deployment | None = None, **body: Any) -> dict[str, Any]:
    """The body that goes upstream."""
    made = call(to, **body)
    sent: dict[str, Any] = orjson.loads(registry.adapter(made.deployment.provider).request(made).body)
    return sent


@dataclass
class Stream:
    """One stream as its client sees it. `chunks` has passed the schema."""

    chunks: list[dict[str, Any]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    notes: list[Chunk] = field(default_factory=list)
    """Everything the decoder yielded."""

    def take(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            self.notes.append(chunk)
            if chunk.data:
                check_chunk(chunk.data)
                self.raw.append(chunk.data)
                self.chunks.append(orjson.loads(chunk.data))

    def text(self, name: str = "content", index: int = 0) -> str:
        return "".join(choice["delta"].get(name) or "" for choice in self._choices() if choice["index"] == index)

    def finishes(self) -> list[tuple[int, str]]:
        return [(each["index"], each["finish_reason"]) for each in self._choices() if each["finish_reason"]]

    def tool_calls(self) -> dict[int, tuple[str, str, str]]:
        """Id, name and arguments by index."""
        calls: dict[int, tuple[str, str, str]] = {}
        for choice in self._choices():
            for part in choice["delta"].get("tool_calls") or ():
                call_id, name, arguments = calls.get(part["index"], ("", "", ""))
                function: Mapping[str, str] = part.get("function") or {}
                calls[part["index"]] = (
                    call_id or part.get("id") or "",
                    name or function.get("name") or "",
                    arguments + (function.get("arguments") or ""),
                )
        return calls

    @property
    def usage(self) -> Usage | None:
        """The last one wins."""
        return next((each.usage for each in reversed(self.notes) if each.usage), None)

    def _choices(self) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks for choice in chunk["choices"]]


def read(made: Call, wire: bytes, cuts: Iterable[int] = ()) -> Stream:
    """Run `wire` through the SSE decoder and the call's own, in reads that end at `cuts`. Raises what they raise."""
    sse, decoder, stream = SseDecoder(), registry.adapter(made.deployment.provider).decoder(made), Stream()
    edges = [0, *sorted(cuts), len(wire)]
    for start, end in pairwise(edges):
        for event in sse.feed(wire[start:end]):
            stream.take(decoder.feed(event))
    for event in sse.close():
        stream.take(decoder.feed(event))
    stream.take(decoder.close())
    return stream


def events(*chunks: dict[str, Any] | bytes, done: bool = True) -> bytes:
    """Chunks as SSE; bytes stand as the data of an event."""
    data = [each if isinstance(each, bytes) else orjson.dumps(each) for each in chunks]
    return b"".join(b"data: " + each + b"\n\n" for each in data + ([b"[DONE]"] if done else []))


def chunk(delta: dict[str, Any] | None, finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    """One chunk as OpenAI sends it; without `delta` when that is None."""
    choice = {"index": index, "finish_reason": finish} | ({} if delta is None else {"delta": delta})
    own = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_741_570_283, "model": "gpt-4o"}
    return own | {"choices": [choice]} | fields
