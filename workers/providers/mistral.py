"""Mistral's chat completions: OpenAI's dialect with differences. https://docs.mistral.ai/api/endpoint/chat"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import orjson

from shared.errors import UnsupportedParameter, UpstreamError
from shared.providers import Provider
from workers.providers.base import Call, Completion, StreamDecoder, UpstreamRequest
from workers.providers.openai import base_body, chat_url, headers, refuse, rename, with_extra_body
from workers.providers.openai_answer import completion_of, parsed
from workers.providers.openai_errors import error_of
from workers.providers.openai_stream import ChunkDecoder

_RENAMED = {"seed": "random_seed", "max_completion_tokens": "max_tokens"}

# Mistral refuses fields that it does not know. These ask for nothing that changes the answer, so they are left out;
# usage always comes with the last chunk of a stream.
_LEFT_OUT = ("stream_options", "user", "safety_identifier", "store")

_MESSAGE_FIELDS = {
    "system": ("role", "content"),
    "user": ("role", "content"),
    "assistant": ("role", "content", "tool_calls", "prefix"),
    "tool": ("role", "content", "tool_call_id", "name"),
}
_TOOL_CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")  # anything else is refused
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}  # required, where OpenAI lets it be absent


class Mistral:
    """The adapter for Mistral's row of the provider table."""

    def __init__(self, row: Provider) -> None:
        self._row = row

    def request(self, call: Call) -> UpstreamRequest:
        return UpstreamRequest(
            url=chat_url(call.deployment, self._row),
            headers=headers(call.deployment),
            body=orjson.dumps(self._body(call)),
        )

    def completion(self, call: Call, body: bytes) -> Completion:
        answer = parsed(body, self._row.name)
        changed = _openai_content(answer)
        return completion_of(call, answer, None if changed else body)

    def decoder(self, call: Call) -> StreamDecoder:
        return ChunkDecoder(call, prepare=_openai_content)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        return error_of(self._row.name, status, body)

    def _body(self, call: Call) -> dict[str, Any]:
        body = base_body(call)
        for name in _LEFT_OUT:
            body.pop(name, None)
        refuse(body, self._row.unsupported, call.deployment, self._row.label)
        for theirs, ours in _RENAMED.items():
            rename(body, theirs, ours)
        if body.get("tool_choice") == "required":
            body["tool_choice"] = "any"
        if isinstance(body.get("messages"), list):
            body["messages"] = [_message(each) if isinstance(each, dict) else each for each in body["messages"]]
        if isinstance(body.get("tools"), list):
            body["tools"] = self._tools(body["tools"], drop=call.deployment.drop_params)
            if not body["tools"]:
                del body["tools"]
                body.pop("tool_choice", None)
        if isinstance(prediction := body.get("prediction"), dict):
            body["prediction"] = {**prediction, "content": _text(prediction.get("content"))}
        return with_extra_body(body, call)

    def _tools(self, tools: list[dict[str, Any]], *, drop: bool) -> list[dict[str, Any]]:
        functions = [each for each in tools if each.get("type", "function") == "function" and "function" in each]
        if len(functions) < len(tools) and not drop:
            raise UnsupportedParameter(
                f"{self._row.label} supports only tools of type 'function': leave the others out, or set drop_params.",
                param="tools",
            )
        return [{"type": "function", "function": _function(each["function"])} for each in functions]


def _function(function: dict[str, Any]) -> dict[str, Any]:
    kept = {name: function[name] for name in ("name", "description", "strict") if function.get(name) is not None}
    return kept | {"parameters": function.get("parameters") or dict(_NO_PARAMETERS)}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    role = "system" if message.get("role") == "developer" else message.get("role")
    fields = _MESSAGE_FIELDS.get(role) if isinstance(role, str) else None
    if fields is None:  # a role that we do not know: Mistral says what it thinks of it
        return message
    kept = {name: message[name] for name in fields if message.get(name) is not None}
    kept["role"] = role
    if isinstance(kept.get("content"), list):
        kept["content"] = [_part(each) if isinstance(each, dict) else each for each in kept["content"]]
    if calls := kept.get("tool_calls"):
        kept["tool_calls"] = [_tool_call(each) for each in calls]
    elif "content" not in kept:
        kept["content"] = ""
    if "tool_call_id" in kept:
        kept["tool_call_id"] = _tool_call_id(kept["tool_call_id"])
    return kept


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    return {
        "id": _tool_call_id(str(call.get("id"))),
        "type": "function",
        "function": {"name": function.get("name", ""), "arguments": function.get("arguments") or "{}"},
    }


def _tool_call_id(call_id: str) -> str:
    """The same short id for the same id each time, so that a result still finds its call."""
    return call_id if _TOOL_CALL_ID.fullmatch(call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    match part:
        case {"type": "text" | "refusal" as kind}:
            return {"type": "text", "text": part.get(kind) or ""}
        case {"type": "image_url", "image_url": url}:
            return {"type": "image_url", "image_url": url}
        case {"type": "input_audio", "input_audio": {"data": data}}:
            return {"type": "input_audio", "input_audio": data}
        case {"type": "file", "file": dict() as file}:
            return _document(file)
    return part


def _document(file: dict[str, Any]) -> dict[str, Any]:
    url = file.get("file_data") or file.get("file_id") or ""
    if not str(url).startswith(("data:", "http://", "https://")):
        return {"type": "file", "file_id": url}
    name = {"document_name": file["filename"]} if file.get("filename") else {}
    return {"type": "document_url", "document_url": url, **name}


def _openai_content(answer: dict[str, Any]) -> bool:
    """Turn the content of every choice into OpenAI's, in an answer or in a chunk; whether that changed anything."""
    changed = False
    for choice in answer.get("choices") or ():
        message = (choice.get("message") or choice.get("delta")) if isinstance(choice, dict) else None
        if isinstance(message, dict):
            changed |= _split_content(message)
    return changed


def _split_content(message: dict[str, Any]) -> bool:
    """Reasoning models answer with a list: `thinking` and `text` chunks, and references to sources, which have no
    counterpart."""
    content = message.get("content")
    if not isinstance(content, list):
        return False
    thinking = "".join(
        _text(each.get("thinking")) for each in content if isinstance(each, dict) and each.get("type") == "thinking"
    )
    message["content"] = _text(content)
    if thinking:
        message["reasoning_content"] = thinking
    return True


def _text(content: Any) -> str:
    """The text of a string, or of the text parts in a list."""
    if isinstance(content, list):
        return "".join(
            str(each.get("text") or "") for each in content if isinstance(each, dict) and each.get("type") == "text"
        )
    return content if isinstance(content, str) else ""
