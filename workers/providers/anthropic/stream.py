"""Anthropic's event stream as OpenAI's chunks.

https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from shared.jobs import Usage
from workers.providers.anthropic import errors
from workers.providers.anthropic.request import stands_in_for_json, wanted
from workers.providers.anthropic.response import finish_reason, refusal, result_field, stop_fields
from workers.providers.anthropic.tools import JSON_TOOL, Names
from workers.providers.anthropic.usage import UsageMeter
from workers.providers.base import Call, Chunk, ServerSentEvent


@dataclass(slots=True)
class _ToolBlock:
    """A tool call that is being streamed."""

    index: int | None
    """Its place among the client's tool calls; None for the stand-in for structured outputs."""
    input: Any
    """What the block started with; empty unless the vendor sends the arguments at once."""
    streamed: bool = False


class AnthropicStream:
    """A `StreamDecoder`."""

    def __init__(self, call: Call) -> None:
        request = wanted(call)
        self._call = call
        self._names = Names.of(request)
        self._json_mode = stands_in_for_json(request, call.deployment.model)
        self._model = call.deployment.model
        self._meter = UsageMeter()
        self._role: dict[str, str] = {"role": "assistant"}
        self._tools: dict[object, _ToolBlock] = {}
        self._calls = 0
        self._json = False
        self._held: list[
            str
        ] = []  # text that json mode keeps back: if the tool is called, its arguments are the content
        self._finished = False
        self._done = False

    def feed(self, event: ServerSentEvent) -> list[Chunk]:
        try:
            data = orjson.loads(event.data)
        except orjson.JSONDecodeError as exc:
            if event.event == "error" and not self._finished:
                raise errors.broken(f"an error event {errors.snippet(event.data)}") from exc
            return []
        return list(self._on(data)) if isinstance(data, dict) and not self._done else []

    @property
    def done(self) -> bool:
        return self._done

    def close(self) -> list[Chunk]:
        if not self._finished:
            raise errors.broken("the stream ended before its message was finished")
        return list(self._end())

    def _on(self, data: dict[str, Any]) -> Iterable[Chunk]:
        match data.get("type"):
            case "content_block_delta" if not self._finished:
                return self._delta(data.get("index"), _object(data, "delta"))
            case "content_block_start" if not self._finished:
                return self._start(data.get("index"), _object(data, "content_block"))
            case "content_block_stop" if not self._finished:
                return self._stop(data.get("index"))
            case "message_start":
                return self._message_start(_object(data, "message"))
            case "message_delta":
                return self._message_delta(data)
            case "message_stop" if self._finished:
                return self._end()
            case "error" if not self._finished:
                raise errors.from_error_object(data.get("error"))
        return ()  # ping, what follows the finish, and events from after this was written, which may be ignored

    def _message_start(self, message: Mapping[str, Any]) -> Iterable[Chunk]:
        self._model = str(message.get("model") or self._model)
        self._meter.read(message.get("usage"))
        if self._role:
            yield self._chunk({"content": ""}, usage=self._meter.usage)

    def _start(self, index: object, block: Mapping[str, Any]) -> Iterable[Chunk]:
        match block.get("type"):
            case "text":
                yield from self._text(block.get("text"))
            case "thinking":
                yield from self._thinking(block.get("thinking"))
            case "redacted_thinking":
                yield self._chunk({"reasoning_content": "", "thinking_blocks": [dict(block)]}, content=True)
            case "tool_use" if self._json_mode and block.get("name") == JSON_TOOL:
                self._json = True
                self._tools[index] = _ToolBlock(None, block.get("input"))
            case "tool_use" | "server_tool_use":
                yield self._call_start(index, block)
            case kind:
                if field := result_field(str(kind)):
                    yield self._chunk({"provider_specific_fields": {field: [dict(block)]}})

    def _delta(self, index: object, delta: Mapping[str, Any]) -> Iterable[Chunk]:
        match delta.get("type"):
            case "text_delta":
                yield from self._text(delta.get("text"))
            case "thinking_delta":
                yield from self._thinking(delta.get("thinking"))
            case "signature_delta":
                block = {"type": "thinking", "thinking": "", "signature": delta.get("signature")}
                yield self._chunk({"reasoning_content": "", "thinking_blocks": [block]})
            case "input_json_delta":
                yield from self._arguments(index, delta.get("partial_json"))
            case "citations_delta":
                yield self._chunk({"provider_specific_fields": {"citation": delta.get("citation")}})

    def _stop(self, index: object) -> Iterable[Chunk]:
        tool = self._tools.get(index)
        if tool is not None and not tool.streamed:
            yield from self._arguments(index, orjson.dumps(tool.input or {}).decode())

    def _message_delta(self, data: Mapping[str, Any]) -> Iterable[Chunk]:
        self._meter.read(data.get("usage"))
        delta = _object(data, "delta")
        if self._finished or not isinstance(delta.get("stop_reason"), str):
            yield Chunk(b"", usage=self._meter.usage)
            return
        if self._held and not self._json:
            yield self._chunk({"content": "".join(self._held)}, content=True)
        self._finished = True
        yield self._finish(delta)

    def _finish(self, delta: Mapping[str, Any]) -> Chunk:
        last: dict[str, Any] = {}
        if words := refusal(delta):
            last["refusal"] = words
        if fields := stop_fields(delta):
            last["provider_specific_fields"] = fields
        reason = finish_reason(delta["stop_reason"], only_json=self._json and not self._calls)
        return Chunk(self._wire(last, reason), content=bool(words), finish=True, usage=self._meter.usage)

    def _end(self) -> Iterable[Chunk]:
        """Once, whether the stream names its end or merely stops after the finish."""
        if self._done:
            return ()
        self._done = True
        if not self._call.include_usage or self._meter.usage is None:
            return ()
        data = orjson.dumps({**self._head(), "choices": [], "usage": self._meter.to_openai()})
        return (Chunk(data, usage=self._meter.usage),)

    def _text(self, text: object) -> Iterable[Chunk]:
        if not isinstance(text, str) or not text:
            return
        if self._json_mode:
            self._held.append(text)
            yield Chunk(b"", text=len(text))
        else:
            yield self._chunk({"content": text}, content=True, text=len(text))

    def _thinking(self, thought: object) -> Iterable[Chunk]:
        if isinstance(thought, str) and thought:
            self._meter.thinking_characters += len(thought)
            block = {"type": "thinking", "thinking": thought}
            yield self._chunk(
                {"reasoning_content": thought, "thinking_blocks": [block]}, content=True, text=len(thought)
            )

    def _call_start(self, index: object, block: Mapping[str, Any]) -> Chunk:
        self._tools[index] = _ToolBlock(self._calls, block.get("input"))
        call = {
            "index": self._calls,
            "id": str(block.get("id")),
            "type": "function",
            "function": {"name": self._names.original(str(block.get("name"))), "arguments": ""},
        }
        self._calls += 1
        return self._chunk({"tool_calls": [call]}, content=True)

    def _arguments(self, index: object, piece: object) -> Iterable[Chunk]:
        tool = self._tools.get(index)
        if tool is None or not isinstance(piece, str) or not piece:
            return
        tool.streamed = True
        if tool.index is None:
            yield self._chunk({"content": piece}, content=True, text=len(piece))
            return
        call = {"index": tool.index, "function": {"arguments": piece}}
        yield self._chunk({"tool_calls": [call]}, content=True, text=len(piece))

    def _chunk(
        self, delta: dict[str, Any], *, content: bool = False, text: int = 0, usage: Usage | None = None
    ) -> Chunk:
        return Chunk(self._wire(delta, None), content=content, usage=usage, text=text)

    def _wire(self, delta: dict[str, Any], finish: str | None) -> bytes:
        if self._role:  # on the first delta only
            delta = {**self._role, **delta}
            self._role = {}
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return orjson.dumps({**self._head(), "choices": [choice]})

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._call.id,
            "object": "chat.completion.chunk",
            "created": self._call.created,
            "model": self._model,
        }


def _object(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    return value if isinstance(value, Mapping) else {}
