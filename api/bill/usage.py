"""The tokens that an answer in OpenAI's shape says it took."""

from collections.abc import Mapping
from typing import Any

from shared.errors import InvalidRequest
from shared.jobs import Usage

_MOST = 10**12  # tokens of one answer


def usage_of(completion: Mapping[str, Any]) -> tuple[str, Usage, str]:
    """The model, its tokens by class, and the service tier, empty for the standard one. `prompt_tokens` has all input
    in it, cached or not. Raises `InvalidRequest`."""
    model = completion.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("completion_response.model must be the name of a model.", param="completion_response")
    usage = _object(completion, "usage")
    prompt, completed = _object(usage, "prompt_tokens_details"), _object(usage, "completion_tokens_details")
    kinds = _object(prompt, "cache_creation_token_details")
    read = _count(prompt, "cached_tokens") or _count(usage, "cache_read_input_tokens")
    written = _count(prompt, "cache_creation_tokens") or _count(usage, "cache_creation_input_tokens")
    hour = min(_count(kinds, "ephemeral_1h_input_tokens"), written)
    tier = completion.get("service_tier")
    return (
        model,
        Usage(
            input=max(_count(usage, "prompt_tokens") - read - written, 0),
            cache_read=read,
            cache_write=written - hour,
            cache_write_1h=hour,
            output=_count(usage, "completion_tokens"),
            reasoning=_count(completed, "reasoning_tokens"),
        ),
        tier if isinstance(tier, str) else "",
    )


def _object(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = of.get(name)
    return value if isinstance(value, Mapping) else {}


def _count(of: Mapping[str, Any], name: str) -> int:
    value = of.get(name) or 0
    if not isinstance(value, int) or not 0 <= value <= _MOST:
        raise InvalidRequest(
            f"completion_response.usage: {name} must be a number of tokens.", param="completion_response"
        )
    return value
