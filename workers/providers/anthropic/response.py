"""Anthropic's answer as OpenAI's `chat.completion`.

https://platform.claude.com/docs/en/api/messages/create#response
"""

from collections.abc import Mapping
from typing import Any

import orjson

from workers.providers.anthropic import errors
from workers.providers.anthropic.request import stands_in_for_json, wanted
from workers.providers.anthropic.tools import JSON_TOOL, Names
from workers.providers.anthropic.usage import UsageMeter
from workers.providers.base import Call, Completion

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "pause_turn": "length",
    "compaction": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_SELF_EXPLANATORY = ("end_turn", "max_tokens", "tool_use")
"""Stop reasons that OpenAI's finish reason repeats in full; the native one of any other is handed on beside it."""


def completion(call: Call, body: bytes) -> Completion:
    """Raises `UpstreamBroken` for what is not an answer, and the error of an error object."""
    answer = _parsed(body)
    request = wanted(call)
    json_mode = stands_in_for_json(request, call.deployment.model)
    names = Names.of(request)
    meter = UsageMeter()
    meter.read(answer.get("usage"))

    message = _Message(json_mode=json_mode, names=names)
    for block in answer["content"]:
        message.add(block)
    meter.thinking_characters = len(message.thinking)
    finish = finish_reason(answer["stop_reason"], only_json=message.json is not None and not message.calls)
    model = str(answer.get("model") or call.deployment.model)
    completed = {
        "id": call.id,
        "object": "chat.completion",
        "created": call.created,
        "model": model,
        "choices": [{"index": 0, "message": message.to_openai(answer), "finish_reason": finish, "logprobs": None}],
        "usage": meter.to_openai(),
    }
    return Completion(orjson.dumps(completed), meter.usage, model, call.id)


def finish_reason(stop_reason: object, *, only_json: bool) -> str:
    """`only_json`: the one tool called is the stand-in for structured outputs, which the client knows nothing of.

    A reason from after this was written means that the model stopped by itself, as every reason did that says no more.
    """
    if stop_reason == "tool_use" and only_json:
        return "stop"
    return _FINISH_REASONS.get(str(stop_reason), "stop")


def stop_fields(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the end, as provider_specific_fields, from a message or the delta that closes one."""
    fields: dict[str, Any] = {}
    if answer.get("stop_reason") not in (*_SELF_EXPLANATORY, None):
        fields["native_finish_reason"] = answer["stop_reason"]
    for name in ("stop_sequence", "stop_details", "container", "context_management"):
        if answer.get(name) is not None:
            fields[name] = answer[name]
    return fields


def refusal(answer: Mapping[str, Any]) -> str | None:
    """The vendor's words for a refusal, for OpenAI's `refusal`."""
    details = answer.get("stop_details")
    if answer.get("stop_reason") != "refusal" or not isinstance(details, Mapping):
        return None
    words = details.get("explanation")
    return words if isinstance(words, str) else None


def result_field(kind: str) -> str | None:
    """The provider-specific field for the results of tools that Anthropic ran; None for other blocks."""
    if kind == "web_search_tool_result":
        return "web_search_results"
    return "tool_results" if kind.endswith("_tool_result") else None


class _Message:
    """Gathers content blocks."""

    def __init__(self, *, json_mode: bool, names: Names) -> None:
        self._json_mode = json_mode
        self._names = names
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._thinking_blocks: list[dict[str, Any]] = []
        self._fields: dict[str, list[Any]] = {}
        self.calls: list[dict[str, Any]] = []
        self.json: str | None = None

    @property
    def thinking(self) -> str:
        return "".join(self._thoughts)

    def add(self, block: Any) -> None:
        if not isinstance(block, Mapping):
            raise errors.broken("the answer holds a content block that is not an object")
        match block.get("type"):
            case "text":
                self._texts.append(str(block.get("text") or ""))
                if block.get("citations"):
                    self._fields.setdefault("citations", []).append(block["citations"])
            case "thinking":
                self._thoughts.append(str(block.get("thinking") or ""))
                self._thinking_blocks.append(dict(block))
            case "redacted_thinking":
                self._thinking_blocks.append(dict(block))
            case "tool_use" if self._json_mode and block.get("name") == JSON_TOOL:
                self.json = _arguments(block)
            case "tool_use" | "server_tool_use":
                self.calls.append(self._call(block))
            case kind:
                if field := result_field(str(kind)):
                    self._fields.setdefault(field, []).append(block)

    def to_openai(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        text = "".join(self._texts) if self.json is None else self.json
        message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": refusal(answer)}
        if self.calls:
            message["tool_calls"] = self.calls
        if self.thinking:
            message["reasoning_content"] = self.thinking
        if self._thinking_blocks:
            message["thinking_blocks"] = self._thinking_blocks
        if fields := {**self._fields, **stop_fields(answer)}:
            message["provider_specific_fields"] = fields
        return message

    def _call(self, block: Mapping[str, Any]) -> dict[str, Any]:
        name = self._names.original(str(block.get("name")))
        function = {"name": name, "arguments": _arguments(block)}
        return {"id": str(block.get("id")), "type": "function", "function": function, "index": len(self.calls)}


def _arguments(block: Mapping[str, Any]) -> str:
    return orjson.dumps(block.get("input") or {}).decode()


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise errors.broken(f"status 200 {errors.snippet(body)}") from exc
    if not isinstance(answer, dict):
        raise errors.broken("status 200 with JSON that is not an object")
    if answer.get("type") == "error" or isinstance(answer.get("error"), dict):
        raise errors.from_error_object(answer.get("error"))
    if not isinstance(answer.get("content"), list) or not isinstance(answer.get("stop_reason"), str):
        raise errors.broken("status 200 with an object that is not a finished message")
    return answer
