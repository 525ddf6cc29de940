"""OpenAI's request parameters as Anthropic's, and what becomes of those that have no counterpart.

https://platform.claude.com/docs/en/api/messages/create
"""

import re
from collections.abc import Mapping
from typing import Any

from shared.errors import InvalidRequest
from workers.providers.anthropic.models import Model
from workers.providers.anthropic.thinking import ANSWER_TOKENS, Thinking
from workers.providers.anthropic.unsupported import Unsupported

NATIVE = ("cache_control", "container", "context_management", "diagnostics", "inference_geo", "mcp_servers", "speed")
"""Anthropic's own parameters, passed as they are. Anything else that is unknown goes through `extra_body`."""

_HARMLESS: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "seed": (),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "functions": ([],),
    "function_call": ("none",),
}
"""Parameters without a counterpart, each with the values that ask for nothing."""

_SERVICE_TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
_PERSONAL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+|\+?[\d\s().-]{7,}")
"""An e-mail address or a phone number, which the vendor forbids in `metadata.user_id`."""


def check_unsupported(body: Mapping[str, Any], unsupported: Unsupported) -> None:
    for name, harmless in _HARMLESS.items():
        value = body.get(name)
        if value is not None and value not in harmless:
            unsupported.refuse(name, "Anthropic has no counterpart")


def max_tokens(body: Mapping[str, Any], model: Model, thinking: Thinking) -> int:
    given = next((body[name] for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None), None)
    if given is None:
        given = model.max_tokens
    if not isinstance(given, int) or given < 0:
        raise InvalidRequest("max_tokens must be a whole number of tokens", param="max_tokens")
    return given if given > thinking.budget else thinking.budget + ANSWER_TOKENS


def sampling(body: Mapping[str, Any], model: Model, thinking: Thinking, unsupported: Unsupported) -> dict[str, Any]:
    """temperature, top_p and top_k, as far as the model takes them. Default values ask for nothing and are left out
    where the vendor would reject the mere mention."""
    given = {name: body[name] for name in ("temperature", "top_p", "top_k") if body.get(name) is not None}
    if not model.sampling or thinking.on:
        reason = "thinking rules it out" if model.sampling else "this model has a fixed one"
        for name, value in list(given.items()):
            if name == "top_k" or value != 1:
                unsupported.refuse(name, reason)
            del given[name]
    elif model.one_sampler and "temperature" in given and "top_p" in given:
        if given["temperature"] == 1:
            del given["temperature"]
        else:
            if given["top_p"] != 1:
                unsupported.refuse("top_p", "this model takes temperature or top_p, not both")
            del given["top_p"]
    return given


def stop_sequences(stop: object, unsupported: Unsupported) -> list[str]:
    sequences = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(sequences, list) or not all(isinstance(each, str) for each in sequences):
        raise InvalidRequest("stop must be a string or a list of strings", param="stop")
    useful = [each for each in sequences if each.strip()]
    if len(useful) < len(sequences):
        unsupported.refuse("stop", "Anthropic takes no stop sequence of white space alone")
    return useful


def user_id(body: Mapping[str, Any]) -> str | None:
    """An opaque name of the end user, for `metadata.user_id`."""
    metadata = body.get("metadata")
    named = metadata.get("user_id") if isinstance(metadata, Mapping) else None
    name = named or body.get("user") or body.get("safety_identifier")
    return name if isinstance(name, str) and name and not _PERSONAL.fullmatch(name.strip()) else None


def service_tier(body: Mapping[str, Any], unsupported: Unsupported) -> str | None:
    tier = body.get("service_tier")
    if tier is None:
        return None
    if tier not in _SERVICE_TIERS:
        unsupported.refuse("service_tier", f"Anthropic has no tier {tier!r}")
    return _SERVICE_TIERS.get(tier)


def response_schema(response_format: object) -> dict[str, Any] | None:
    """The JSON schema that the answer must follow; None when any text will do."""
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": Mapping() as schema}}:
            return dict(schema)
        case {"type": "json_object" | "json_schema", "response_schema": Mapping() as schema}:
            return dict(schema)
        case {"type": "json_schema"}:
            raise InvalidRequest("response_format.json_schema needs a schema", param="response_format")
    return None
