"""`usageMetadata` -> token classes for the ledger, and OpenAI's `usage` for the client."""

from typing import Any

from shared.jobs import Usage

Metadata = dict[str, Any]

_MODALITIES = {"AUDIO": "audio_tokens", "IMAGE": "image_tokens", "VIDEO": "video_tokens"}


_TIERS = {"ON_DEMAND_FLEX": "flex", "ON_DEMAND_PRIORITY": "priority"}
_ASKED_TIERS = ("flex", "priority")


def read_usage(metadata: Metadata, *, grounded: bool, asked_tier: object = None) -> Usage:
    """Disjoint classes. `grounded`: the answer used Google Search, whose results Google does not bill as tokens.
    `asked_tier`: the request's `service_tier`, which holds where the answer does not name one."""
    prompt = _count(metadata, "promptTokenCount")
    tool_prompt = _count(metadata, "toolUsePromptTokenCount")
    cached = min(_count(metadata, "cachedContentTokenCount"), prompt)
    candidates = _count(metadata, "candidatesTokenCount")
    thoughts = _count(metadata, "thoughtsTokenCount")
    # Some models count the thoughts among the candidates' tokens; the total tells.
    thoughts_inside = _count(metadata, "totalTokenCount") in (prompt + candidates, prompt + candidates + tool_prompt)
    if not grounded:
        prompt += tool_prompt
    return Usage(
        input=prompt - cached,
        cache_read=cached,
        output=max(candidates, thoughts) if thoughts_inside else candidates + thoughts,
        reasoning=thoughts,
        tier=_tier(metadata.get("trafficType"), asked_tier),
    )


def _tier(traffic: object, asked: object) -> str:
    if isinstance(traffic, str):
        return _TIERS.get(traffic, "")
    return asked if isinstance(asked, str) and asked in _ASKED_TIERS else ""


def openai_usage(metadata: Metadata, usage: Usage) -> dict[str, Any]:
    """The `usage` object of a completion or of the last chunk."""
    prompt = _by_modality(metadata, "promptTokensDetails", less="cacheTokensDetails")
    completion = _by_modality(metadata, "candidatesTokensDetails")
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": _count(metadata, "totalTokenCount") or usage.total,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            "text_tokens": max(usage.input - sum(prompt.values()), 0),
            **prompt,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "text_tokens": max(usage.output - usage.reasoning - sum(completion.values()), 0),
            **completion,
        },
    }


def _by_modality(metadata: Metadata, name: str, *, less: str = "") -> dict[str, int]:
    """Tokens that are not text, less those that came from a cache."""
    counts: dict[str, int] = {}
    for key, sign in ((name, 1), (less, -1)):
        details = metadata.get(key)
        for detail in details if isinstance(details, list) else []:
            field = _MODALITIES.get(str(detail.get("modality"))) if isinstance(detail, dict) else None
            if field:
                counts[field] = counts.get(field, 0) + sign * _count(detail, "tokenCount")
    return {field: max(count, 0) for field, count in counts.items()}


def _count(holder: Metadata, name: str) -> int:
    """A count of tokens; Gemini leaves out a zero."""
    value = holder.get(name)
    return value if isinstance(value, int) and value > 0 else 0
