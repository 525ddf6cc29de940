"""OpenAI's stream of chunks. Chunks that conform pass as the bytes they are; the others are mended one by one.

https://platform.openai.com/docs/api-reference/chat-streaming
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from shared.errors import UpstreamBroken
from shared.jobs import Usage
from workers.providers.base import Call, Chunk, ServerSentEvent
from workers.providers.openai_answer import (
    FINISH_REASONS,
    add_reasoning_content,
    finish_reason,
    mend_usage,
    usage_of,
    without_nulls,
)
from workers.providers.openai_errors import error_in, is_error

_DONE = b"[DONE]"
_OBJECT = "chat.completion.chunk"
_TEXTS = ("content", "reasoning_content", "refusal")
_OTHER_OUTPUT = ("function_call", "audio", "images")

Prepare = Callable[[dict[str, Any]], bool]
"""Turns a vendor's chunk into OpenAI's, in place, and says whether it changed anything."""


class ChunkDecoder:
    """A `StreamDecoder` for OpenAI's dialect, and with `prepare` for its near relatives."""

    def __init__(self, call: Call, prepare: Prepare | None = None) -> None:
        self._call = call
        self._provider = call.deployment.provider
        self._prepare = prepare
        self._wanted = n if isinstance(n := call.body.get("n"), int) else 1
        self._identity: tuple[str, int, str] | None = None  # id, created and model: those of the first chunk
        self._choices: dict[int, _Choice] = {}
        self._open = 0  # choices that have begun and not finished
        self._usage: dict[str, Any] | None = None
        self._tier: Any = None
        self._done = False

    @property
    def done(self) -> bool:
        return self._done

    def feed(self, event: ServerSentEvent) -> Iterable[Chunk]:
        data = event.data
        if self._done:
            return ()
        if data.startswith(_DONE):
            self._done = True
            return ()
        mended = b"\n" in data  # one object over several `data:` lines has to become one line
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            chunk = _lenient(data)
            mended = True
        if not isinstance(chunk, dict):
            return ()
        if event.event == "error" or is_error(chunk):
            raise error_in(self._provider, chunk)
        if self._prepare is not None:
            mended |= self._prepare(chunk)
        return self._chunk(chunk, data, mended)

    def close(self) -> Iterable[Chunk]:
        if not self._choices or self._open:
            raise UpstreamBroken(
                "The stream ended before its answer was complete.", provider=self._provider, status=200
            )
        if self._usage is None or not self._call.include_usage:
            return ()
        mend_usage(self._usage)
        chunk_id, created, model = self._identity or self._own_identity()
        chunk = {"id": chunk_id, "object": _OBJECT, "created": created, "model": model, "choices": []}
        return (Chunk(orjson.dumps(chunk | {"usage": self._usage}), usage=usage_of(self._usage, self._tier)),)

    def _chunk(self, chunk: dict[str, Any], data: bytes, mended: bool) -> Iterable[Chunk]:
        usage = None
        self._tier = chunk.get("service_tier") or self._tier
        if chunk.get("usage"):
            usage = self._take_usage(chunk)
            mended = True
        choices = chunk.get("choices")
        if not choices or not isinstance(choices, list):
            # The usage chunk, which is due at the end, or Azure's leading prompt_filter_results.
            return (Chunk(b"", usage=usage),) if usage else ()
        mended |= self._identify(chunk)
        content = finish = False
        text = 0
        kept: list[dict[str, Any]] = []
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            state = self._state(choice)
            if state.finished:
                continue
            kept.append(choice)
            mended |= state.mend(choice)
            has_content, characters = _output(choice["delta"])
            content |= has_content
            text += characters
            if choice["finish_reason"] is not None:
                mended |= self._finish(state, choice)
                finish = True
        if not kept:
            return (Chunk(b"", usage=usage),) if usage else ()
        if mended or len(kept) < len(choices):
            data = orjson.dumps(chunk | {"choices": kept})
        last = finish and not self._open and len(self._choices) >= self._wanted
        return (Chunk(data, content, last, usage, text),)

    def _take_usage(self, chunk: dict[str, Any]) -> Usage | None:
        """Some vendors send usage with the last content, some a running total with every chunk: the last one wins."""
        reported = chunk.pop("usage")
        usage = usage_of(reported, self._tier)
        if usage is not None:
            self._usage = reported
        return usage

    def _identify(self, chunk: dict[str, Any]) -> bool:
        """Whether the chunk had to be given the id, time and model of the first one, or its object."""
        if self._identity is None:
            own = self._own_identity()
            chunk_id, created, model = chunk.get("id"), chunk.get("created"), chunk.get("model")
            self._identity = (
                chunk_id if isinstance(chunk_id, str) and chunk_id else own[0],
                created if isinstance(created, int) and created else own[1],
                model if isinstance(model, str) and model else own[2],
            )
        chunk_id, created, model = self._identity
        if (
            chunk.get("id") == chunk_id
            and chunk.get("created") == created
            and chunk.get("model") == model
            and chunk.get("object") == _OBJECT
        ):
            return False
        chunk.update(id=chunk_id, created=created, model=model, object=_OBJECT)
        return True

    def _own_identity(self) -> tuple[str, int, str]:
        return self._call.id, self._call.created, self._call.deployment.model

    def _state(self, choice: dict[str, Any]) -> "_Choice":
        index = choice.get("index")
        state = self._choices.get(index) if isinstance(index, int) else self._choices.get(0)
        if state is None:
            state = _Choice(index if isinstance(index, int) else 0)
            self._choices[state.index] = state
            self._open += 1
        return state

    def _finish(self, state: "_Choice", choice: dict[str, Any]) -> bool:
        reason = choice["finish_reason"]
        mended = reason not in FINISH_REASONS
        if mended:
            choice["finish_reason"] = finish_reason(reason, self._provider)
        state.finished = True
        self._open -= 1
        return mended


class _Choice:
    """What is known of one choice so far."""

    __slots__ = ("_begun", "_tools", "finished", "index")

    def __init__(self, index: int) -> None:
        self.index = index
        self.finished = False
        self._begun = False
        self._tools: _Tools | None = None

    def mend(self, choice: dict[str, Any]) -> bool:
        """Give `choice` what OpenAI requires of it; whether anything was missing."""
        mended = False
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            choice["delta"] = delta = {}
            mended = True
        if "finish_reason" not in choice or choice.get("index") != self.index:
            choice.setdefault("finish_reason", None)
            choice["index"] = self.index
            mended = True
        if not self._begun:
            self._begun = True
            mended |= delta.get("role") != "assistant"
            delta["role"] = "assistant"
        elif "role" in delta:
            del delta["role"]
            mended = True
        if len(delta) == 1 and "content" in delta:  # the usual chunk: nothing else to look at
            return mended
        mended |= without_nulls(delta) | add_reasoning_content(delta)
        if calls := delta.get("tool_calls"):
            self._tools = self._tools or _Tools()
            mended |= self._tools.mend(calls)
        return mended


class _Tools:
    """Gives every tool call one index, counted from 0, whatever the vendor does with ids and indexes.

    A fragment begins a call if it has a name and its id is not that of the call at its index; all others go on.
    """

    def __init__(self) -> None:
        self._calls: list[tuple[Any, str]] = []  # the vendor's index and id, by our index

    def mend(self, calls: list[dict[str, Any]]) -> bool:
        mended = False
        for call in calls:
            function = call.get("function")
            if isinstance(function, dict) and not isinstance(function.get("arguments", ""), str):
                function["arguments"] = orjson.dumps(function["arguments"] or {}).decode()
                mended = True
            index = self._index(call)
            if call.get("index") != index:
                call["index"] = index
                mended = True
        return mended

    def _index(self, call: dict[str, Any]) -> int:
        index, call_id = call.get("index"), call.get("id") or ""
        known = self._known(index, call_id)
        named = bool((call.get("function") or {}).get("name"))
        if known is not None and (not named or call_id in ("", self._calls[known][1])):
            return known
        self._calls.append((index, call_id))
        return len(self._calls) - 1

    def _known(self, index: Any, call_id: str) -> int | None:
        """Our index of the latest call with this id, else with this index, else of the latest."""
        latest = range(len(self._calls) - 1, -1, -1)
        if call_id:
            for ours in latest:
                if self._calls[ours][1] == call_id:
                    return ours
        for ours in latest:
            if index is None or self._calls[ours][0] == index:
                return ours
        return None


def _output(delta: dict[str, Any]) -> tuple[bool, int]:
    """Whether the delta carries what the client waits for, and how many characters."""
    text = delta.get("content")
    if len(delta) == 1 and isinstance(text, str):  # the usual chunk
        return text != "", len(text)
    characters = sum(len(text) for name in _TEXTS if isinstance(text := delta.get(name), str))
    calls = delta.get("tool_calls")
    if calls:
        for call in calls:
            function = call.get("function") or {}
            characters += len(function.get("name") or "") + len(function.get("arguments") or "")
    return bool(characters or calls or any(delta.get(name) for name in _OTHER_OUTPUT)), characters


def _lenient(data: bytes) -> Any:
    """An event that is not strict JSON: half a character is replaced, as vendors that cut one between two events
    cannot be helped. Anything worse is None and skipped: whether the answer is whole shows at the end."""
    try:
        text = json.dumps(json.loads(data.decode(errors="replace")), ensure_ascii=False)
    except (ValueError, RecursionError):
        return None
    return orjson.loads(text.encode(errors="replace"))
