"""OpenAI's answer, and what vendors that claim its dialect leave out of it or call by other names."""

from typing import Any

import orjson

from shared.errors import UpstreamBroken, UpstreamOverloaded, UpstreamServerError
from shared.jobs import Usage
from workers.providers.base import Call, Completion
from workers.providers.openai_errors import error_in, is_error, snippet

FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
_VENDOR_FINISH_REASONS = {
    "eos": "stop",  # Together
    "stop_sequence": "stop",
    "end_turn": "stop",
    "model_length": "length",  # Mistral
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "safety": "content_filter",
}

_STANDARD_TIERS = frozenset({"", "auto", "default", "standard", "on_demand"})
"""What vendors call the service tier that everybody gets: OpenAI `default`, Groq `on_demand`."""


def finish_reason(reason: Any, provider: str) -> str:
    """OpenAI's word for a vendor's finish reason. Raises when the reason is that the vendor failed."""
    match reason:
        case str() if reason in FINISH_REASONS:
            return reason
        case "insufficient_system_resource":  # DeepSeek broke off for want of capacity
            raise UpstreamOverloaded(f"The provider broke off: {reason}.", provider=provider, status=503)
        case "error" | "abort":  # Mistral and OpenRouter; vLLM and SGLang
            raise UpstreamServerError(f"The provider broke off: finish reason {reason!r}.", provider=provider)
        case str():
            # An unknown reason is still an end; `stop` is the one that claims nothing more.
            return _VENDOR_FINISH_REASONS.get(reason.lower(), "stop")
        case _:
            return "stop"


def usage_of(usage: Any, tier: Any = None) -> Usage | None:
    """Disjoint classes from OpenAI's overlapping ones; None when there is nothing in it.

    `prompt_tokens` includes what was read from the cache and what was written to it. `completion_tokens` includes the
    reasoning, except at xAI, whose total gives it away.
    """
    if not isinstance(usage, dict):
        return None
    prompt = _count(usage, "prompt_tokens")
    output = _count(usage, "completion_tokens")
    if not prompt and not output:
        return None
    details = usage.get("prompt_tokens_details") or {}
    cached = (
        _count(details, "cached_tokens")
        or _count(usage, "prompt_cache_hit_tokens")  # DeepSeek
        or _count(usage, "cached_tokens")  # Moonshot
    )
    cached = min(cached, prompt)
    written = min(_count(details, "cache_write_tokens"), prompt - cached)
    reasoning = _count(usage.get("completion_tokens_details") or {}, "reasoning_tokens")
    if reasoning and _count(usage, "total_tokens") == prompt + output + reasoning:
        output += reasoning
    return Usage(
        input=prompt - cached - written,
        cache_read=cached,
        cache_write=written,
        output=output,
        reasoning=min(reasoning, output),
        tier=tier if isinstance(tier, str) and tier not in _STANDARD_TIERS else "",
    )


def add_reasoning_content(message: dict[str, Any]) -> bool:
    """Whether `message`, or a delta, had to get `reasoning_content`: Groq, OpenRouter, Together and vLLM call it
    `reasoning`, which stays."""
    reasoning = message.get("reasoning")
    if not isinstance(reasoning, str) or "reasoning_content" in message:
        return False
    message["reasoning_content"] = reasoning
    return True


def parsed(body: bytes, provider: str) -> dict[str, Any]:
    """The JSON object of an answer with status 200. Raises the error that it describes, or `UpstreamBroken`."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise _broken(f"is not JSON: {snippet(body)}", provider) from exc
    if not isinstance(answer, dict):
        raise _broken(f"is not an object: {snippet(body)}", provider)
    if is_error(answer):
        raise error_in(provider, answer)
    return answer


def completion_of(call: Call, answer: dict[str, Any], body: bytes | None) -> Completion:
    """The completion in `answer`. `body`, its bytes if they still are, is passed on unless something had to be mended.

    Changes `answer`.
    """
    provider = call.deployment.provider
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise _broken("has no choices", provider)
    mended = False
    for position, choice in enumerate(choices):
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            raise _broken("has a choice without a message", provider)
        mended |= _mend_choice(choice, position, provider)
    mended |= _mend_envelope(answer, call)
    return Completion(
        body=orjson.dumps(answer) if mended or body is None else body,
        usage=usage_of(answer.get("usage"), answer.get("service_tier")),
        model=answer["model"],
        id=answer["id"],
    )


def mend_usage(usage: dict[str, Any]) -> bool:
    """Whether `usage` had to lose nulls (vLLM, Together) or to get one of the three counts."""
    mended = False
    for part in (usage, usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")):
        if isinstance(part, dict) and None in part.values():
            mended = _drop(part, [name for name, value in part.items() if value is None])
    mended |= _fill(usage, {"prompt_tokens": 0, "completion_tokens": 0})
    return mended | _fill(usage, {"total_tokens": _count(usage, "prompt_tokens") + _count(usage, "completion_tokens")})


def without_nulls(message: dict[str, Any]) -> bool:
    """Whether `message`, or a delta, had to lose fields that OpenAI leaves out rather than sending null."""
    return _drop(message, [name for name in _NEVER_NULL if name in message and message[name] is None])


_NEVER_NULL = ("tool_calls", "function_call", "annotations")


def _mend_choice(choice: dict[str, Any], position: int, provider: str) -> bool:
    message = choice["message"]
    reason = choice.get("finish_reason")
    if reason is None and not _has_output(message):
        raise _broken("is empty and gives no reason", provider)
    mended = add_reasoning_content(message) | without_nulls(message)
    for each in message.get("tool_calls") or ():
        mended |= isinstance(each, dict) and _mend_tool_call(each)
    mended |= _fill(message, {"role": "assistant", "content": None, "refusal": None})
    mended |= _fill(choice, {"index": position, "logprobs": None})
    if reason not in FINISH_REASONS:
        choice["finish_reason"] = finish_reason(reason, provider)
        mended = True
    return mended


def _mend_tool_call(call: dict[str, Any]) -> bool:
    """Mistral leaves out the type and may send the arguments as an object; OpenAI's are always JSON in a string."""
    mended = _fill(call, {"type": "function"})
    function = call.get("function")
    if isinstance(function, dict) and not isinstance(function.get("arguments"), str):
        function["arguments"] = orjson.dumps(function.get("arguments") or {}).decode()
        mended = True
    return mended


def _mend_envelope(answer: dict[str, Any], call: Call) -> bool:
    usage = answer.get("usage")
    if isinstance(usage, dict):
        mended = mend_usage(usage)
    elif mended := "usage" in answer:
        del answer["usage"]
    for name, kind, own in (
        ("id", str, call.id),
        ("created", int, call.created),
        ("model", str, call.deployment.model),
    ):
        if not isinstance(answer.get(name), kind) or answer[name] == "":
            answer[name] = own
            mended = True
    if answer.get("object") != "chat.completion":
        answer["object"] = "chat.completion"
        mended = True
    return mended


def _has_output(message: dict[str, Any]) -> bool:
    return any(
        message.get(name) for name in ("content", "tool_calls", "function_call", "refusal", "audio", "reasoning")
    )


def _fill(target: dict[str, Any], required: dict[str, Any]) -> bool:
    if required.keys() <= target.keys():
        return False
    for name in required.keys() - target.keys():
        target[name] = required[name]
    return True


def _drop(target: dict[str, Any], names: list[str]) -> bool:
    for name in names:
        del target[name]
    return bool(names)


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return int(value) if isinstance(value, int | float) and value > 0 else 0


def _broken(what: str, provider: str) -> UpstreamBroken:
    return UpstreamBroken(f"The provider's answer {what}", provider=provider, status=200)
