"""A whole `GenerateContentResponse` -> OpenAI's `chat.completion`."""

import base64
import binascii
from typing import Any

import orjson

from workers.providers.base import Call, Completion
from workers.providers.gemini import finish, grounding
from workers.providers.gemini.errors import broken, error_object, from_object
from workers.providers.gemini.logprobs import read_logprobs
from workers.providers.gemini.parts import Reply, parts_of, read_parts
from workers.providers.gemini.usage import openai_usage, read_usage

_CARRIERS = ("content", "tool_calls", "reasoning_content", "images", "audio", "provider_specific_fields")

Answer = dict[str, Any]
Candidate = dict[str, Any]


def to_completion(call: Call, body: bytes) -> Completion:
    answer = _parsed(body)
    candidates = candidates_of(answer)
    if candidates:
        choices = [_choice(call, candidate, at) for at, candidate in enumerate(candidates)]
        _check(call, candidates, choices)
    elif blocked := finish.prompt_block(answer):
        choices = [_blocked_choice(*blocked)]
    else:
        raise broken("Gemini answered without candidates and without a reason")

    model = str(answer.get("modelVersion") or call.deployment.model)
    completion = {
        "id": str(answer.get("responseId") or call.id),
        "object": "chat.completion",
        "created": call.created,
        "model": model,
        "choices": choices,
        **grounding.extra_fields(candidates),
    }
    usage = None
    if isinstance(metadata := answer.get("usageMetadata"), dict):
        grounded = any(map(grounding.is_grounded, candidates))
        usage = read_usage(metadata, grounded=grounded, asked_tier=call.body.get("service_tier"))
        completion["usage"] = openai_usage(metadata, usage)
    return Completion(orjson.dumps(completion), usage, model, str(completion["id"]))


def candidates_of(answer: Answer) -> list[Candidate]:
    candidates = answer.get("candidates")
    return [each for each in candidates if isinstance(each, dict)] if isinstance(candidates, list) else []


def index_of(candidate: Candidate, default: int) -> int:
    """Gemini leaves out the index of the first candidate."""
    index = candidate.get("index")
    return index if isinstance(index, int) and not isinstance(index, bool) else default


def message_fields(call: Call, reply: Reply) -> dict[str, Any]:
    """The fields that a message and a delta share, for what is not plain text or a tool call."""
    fields: dict[str, Any] = {}
    if reply.reasoning:
        fields["reasoning_content"] = "".join(reply.reasoning)
        fields["thinking_blocks"] = reply.thinking_blocks
    if reply.images:
        fields["images"] = reply.images
    if reply.audio:
        fields["audio"] = {
            "id": f"audio-{call.id}",
            "data": _joined(reply.audio),
            "transcript": "",
            "expires_at": call.created,  # Gemini keeps no copy to refer to later
        }
    if reply.provider_fields:
        fields["provider_specific_fields"] = reply.provider_fields
    return fields


def _parsed(body: bytes) -> Answer:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise broken(f"Gemini's answer is not JSON: {exc}") from exc
    if (error := error_object(answer)) is not None:
        raise from_object(error)
    if not isinstance(answer, dict):
        raise broken("Gemini's answer is not a JSON object")
    return answer


def _choice(call: Call, candidate: Candidate, at: int) -> dict[str, Any]:
    index = index_of(candidate, at)
    native = str(candidate.get("finishReason") or finish.UNSPECIFIED)
    reply = read_parts(parts_of(candidate), call, index)
    text = "".join(reply.text)
    reason = finish.finish_reason(native, tool_calls=bool(reply.tool_calls))
    withheld = reason == "content_filter" and not reply.content
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not (reply.content or withheld) else None,
        "refusal": finish.refusal(candidate, native) if withheld else None,
        **message_fields(call, reply),
    }
    if reply.tool_calls:
        message["tool_calls"] = reply.tool_calls
    if cited := grounding.annotations(candidate, text):
        message["annotations"] = cited
    return {
        "index": index,
        "message": message,
        "finish_reason": reason,
        "logprobs": read_logprobs(candidate),
        "provider_specific_fields": {"native_finish_reason": native},
    }


def _check(call: Call, candidates: list[Candidate], choices: list[dict[str, Any]]) -> None:
    """Raises `UpstreamBroken` when no candidate has content and the first one's ending is no excuse."""
    if any(choice["message"].get(name) for choice in choices for name in _CARRIERS):
        return
    native = choices[0]["provider_specific_fields"]["native_finish_reason"]
    spoke = any(parts_of(candidate) for candidate in candidates)
    finish.check_not_empty(candidates[0], native, may_be_empty=spoke or bool(call.body.get("stop")))


def _blocked_choice(native: str, sentence: str) -> dict[str, Any]:
    return {
        "index": 0,
        "message": {"role": "assistant", "content": None, "refusal": sentence},
        "finish_reason": "content_filter",
        "logprobs": None,
        "provider_specific_fields": {"native_finish_reason": native},
    }


def _joined(pieces: list[str]) -> str:
    """Base64 does not concatenate; the bytes do."""
    if len(pieces) == 1:
        return pieces[0]
    try:
        return base64.b64encode(b"".join(base64.b64decode(piece) for piece in pieces)).decode()
    except binascii.Error as exc:
        raise broken("Gemini's audio is not base64") from exc
