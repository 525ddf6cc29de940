"""The parts of a candidate -> what an OpenAI message, or a delta of one, carries."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from workers.providers.base import Call
from workers.providers.gemini.signatures import with_signature

_SERVER_PARTS = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse")

Part = dict[str, Any]


@dataclass(slots=True)
class Reply:
    """What some parts of one candidate say."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    thinking_blocks: list[dict[str, Any]] = field(default_factory=list)
    signatures: list[str] = field(default_factory=list)
    """Signatures of parts that are not function calls."""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    audio: list[str] = field(default_factory=list)
    """Base64."""
    server_parts: list[Part] = field(default_factory=list)
    """Code and results of tools that ran at Google, as they came."""

    @property
    def content(self) -> bool:
        """Whether there is anything here that a client is waiting for."""
        return bool(self.text or self.reasoning or self.tool_calls or self.images or self.audio)

    @property
    def characters(self) -> int:
        arguments = sum(len(call["function"]["arguments"]) for call in self.tool_calls)
        return sum(map(len, self.text)) + sum(map(len, self.reasoning)) + arguments

    @property
    def provider_fields(self) -> dict[str, Any]:
        fields = {"thought_signatures": self.signatures, "server_parts": self.server_parts}
        return {name: value for name, value in fields.items() if value}


def read_parts(parts: Iterable[Any], call: Call, choice: int, calls_before: int = 0) -> Reply:
    """`choice` is the candidate's index, `calls_before` the number of its function calls in earlier chunks."""
    reply = Reply()
    for part in parts:
        if isinstance(part, dict):
            _read(part, reply, f"{call.id}:{choice}:{calls_before + len(reply.tool_calls)}")
    return reply


def parts_of(candidate: dict[str, Any]) -> list[Any]:
    """A candidate's parts. Gemini leaves out `content` or `parts` when it has nothing to say."""
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    return parts if isinstance(parts, list) else []


def _read(part: Part, reply: Reply, seed: str) -> None:
    signature = part.get("thoughtSignature")
    if isinstance(part.get("functionCall"), dict):
        reply.tool_calls.append(_tool_call(part["functionCall"], signature, seed))
        return
    text = part.get("text")
    if part.get("thought"):
        if isinstance(text, str) and text:
            reply.reasoning.append(text)
            block = {"type": "thinking", "thinking": text} | ({"signature": signature} if signature else {})
            reply.thinking_blocks.append(block)
        return
    if any(key in part for key in _SERVER_PARTS):
        reply.server_parts.append(part)
        return
    if isinstance(text, str) and text:
        reply.text.append(text)
    elif isinstance(blob := part.get("inlineData"), dict):
        _read_blob(blob, reply)
    if isinstance(signature, str) and signature:
        reply.signatures.append(signature)


def _tool_call(call: dict[str, Any], signature: str | None, seed: str) -> dict[str, Any]:
    """A signature goes into the id as well, for clients that drop the fields they do not know."""
    id = call.get("id") or "call_" + hashlib.sha256(seed.encode()).hexdigest()[:28]
    arguments = orjson.dumps(call.get("args") or {}).decode()
    translated: dict[str, Any] = {
        "id": with_signature(str(id), signature),
        "type": "function",
        "function": {"name": str(call.get("name") or ""), "arguments": arguments},
    }
    if signature:
        translated["provider_specific_fields"] = {"thought_signature": signature}
    return translated


def _read_blob(blob: dict[str, Any], reply: Reply) -> None:
    mime_type, data = str(blob.get("mimeType") or ""), str(blob.get("data") or "")
    if mime_type.startswith("audio/"):
        reply.audio.append(data)
    else:
        url = {"url": f"data:{mime_type};base64,{data}"}
        reply.images.append({"type": "image_url", "image_url": url, "index": len(reply.images)})
