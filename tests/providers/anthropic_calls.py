"""Calls for the tests of the Anthropic adapter, and what comes of them."""

from pathlib import Path
from typing import Any

import orjson

from shared.catalog import Deployment
from tests.providers.openai_schema import check_chunk
from workers.providers.anthropic import ANTHROPIC
from workers.providers.base import Call, Chunk
from workers.sse import SseDecoder

FIXTURES = Path(__file__).parents[1] / "fixtures" / "providers" / "anthropic"
HELLO = [{"role": "user", "content": "Hello"}]
MARK = {"cache_control": {"type": "ephemeral"}}
PNG = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0="


def call(body: dict[str, Any] | None = None, **deployment: Any) -> Call:
    """One attempt at a chat that says hello, changed by `body`."""
    settings = {
        "id": "d1",
        "group": "claude",
        "provider": "anthropic",
        "model": "claude-sonnet-4-5",
        "api_key": "sk-ant-api03-test",
        **deployment,
    }
    return Call(
        body={"model": "claude", "messages": HELLO, **(body or {})},
        deployment=Deployment(**settings),
        id="chatcmpl-1",
        created=1_700_000_000,
        client_headers={},
    )


def made_call(call_id: str, name: str = "f", arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(call_id: str, content: object = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def sent(body: dict[str, Any] | None = None, **deployment: Any) -> dict[str, Any]:
    """The JSON that goes to Anthropic."""
    wire: dict[str, Any] = orjson.loads(ANTHROPIC.request(call(body, **deployment)).body)
    return wire


def fixture(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def decode(made: Call, stream: bytes, sizes: list[int] | None = None) -> list[Chunk]:
    """All chunks of `stream`, read in pieces of `sizes` bytes; every one is checked against OpenAI's document."""
    sse, decoder = SseDecoder(limit=1024 * 1024), ANTHROPIC.decoder(made)
    chunks: list[Chunk] = []
    for piece in _pieces(stream, sizes or [len(stream)]):
        for event in sse.feed(piece):
            chunks += decoder.feed(event)
    for event in sse.close():
        chunks += decoder.feed(event)
    chunks += decoder.close()
    for chunk in chunks:
        if chunk.data:
            check_chunk(chunk.data)
    return chunks


def deltas(chunks: list[Chunk]) -> list[dict[str, Any]]:
    parsed = [orjson.loads(chunk.data) for chunk in chunks if chunk.data]
    return [each["choices"][0]["delta"] for each in parsed if each["choices"]]


def joined(chunks: list[Chunk], name: str) -> str:
    """A field of all deltas, joined: the content, the reasoning."""
    return "".join(delta.get(name) or "" for delta in deltas(chunks))


def tool_calls(chunks: list[Chunk]) -> list[dict[str, str]]:
    """The calls as a client puts them together: by index."""
    calls: dict[int, dict[str, str]] = {}
    for delta in deltas(chunks):
        for piece in delta.get("tool_calls", ()):
            made = calls.setdefault(piece["index"], {"id": "", "name": "", "arguments": ""})
            made["id"] += piece.get("id", "")
            made["name"] += piece["function"].get("name", "")
            made["arguments"] += piece["function"]["arguments"]
    return [calls[index] for index in sorted(calls)]


def finish_reasons(chunks: list[Chunk]) -> list[str]:
    parsed = [orjson.loads(chunk.data) for chunk in chunks if chunk.data]
    return [choice["finish_reason"] for each in parsed for choice in each["choices"] if choice["finish_reason"]]


def _pieces(stream: bytes, sizes: list[int]) -> list[bytes]:
    pieces: list[bytes] = []
    at = 0
    while at < len(stream):
        size = max(1, sizes[len(pieces) % len(sizes)])
        pieces.append(stream[at : at + size])
        at += size
    return pieces
