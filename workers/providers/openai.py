"""OpenAI's chat completions, and every vendor that serves the same dialect: nearly a pass-through.

https://platform.openai.com/docs/api-reference/chat and, for the vendors, the pages named in `shared/providers.toml`.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import orjson

from shared.catalog import Deployment
from shared.errors import UnsupportedParameter, UpstreamError
from shared.providers import Provider
from workers.providers.base import Call, Completion, StreamDecoder, UpstreamRequest
from workers.providers.openai_answer import completion_of, parsed
from workers.providers.openai_errors import error_of
from workers.providers.openai_stream import ChunkDecoder

_ENDPOINT = "/chat/completions"

# The o series and GPT-5 refuse max_tokens; the models before them know both names.
_REASONING_MODEL = re.compile(r"(?:^|[/:])(?:o\d|gpt-[5-9])")

# Values that ask for what happens anyway: a vendor that refuses the parameter loses nothing without it.
_NEUTRAL: Mapping[str, Any] = {
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "logit_bias": {},
    "frequency_penalty": 0,
    "presence_penalty": 0,
}


class OpenAI:
    """The adapter for one row of the provider table."""

    def __init__(self, row: Provider) -> None:
        self._row = row

    def request(self, call: Call) -> UpstreamRequest:
        return UpstreamRequest(
            url=chat_url(call.deployment, self._row),
            headers=headers(call.deployment),
            body=orjson.dumps(self._body(call)),
        )

    def completion(self, call: Call, body: bytes) -> Completion:
        return completion_of(call, parsed(body, self._row.name), body)

    def decoder(self, call: Call) -> StreamDecoder:
        return ChunkDecoder(call)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        return error_of(self._row.name, status, body)

    def _body(self, call: Call) -> dict[str, Any]:
        body = base_body(call)
        refuse(body, self._row.unsupported, call.deployment, self._row.label)
        for theirs, ours in self._row.rename.items():
            rename(body, theirs, ours)
        if self._row.name == "openai" and _REASONING_MODEL.search(call.deployment.model):
            rename(body, "max_tokens", "max_completion_tokens")
        set_stream_options(body, accepted=self._row.stream_options)
        return with_extra_body(body, call)


def base_body(call: Call) -> dict[str, Any]:
    """The client's body for the deployment's model, without what belongs elsewhere or is to be dropped."""
    body = {**call.body, "model": call.deployment.model}
    for name in ("extra_body", "organization", *call.deployment.additional_drop_params):
        body.pop(name, None)
    return body


def refuse(body: dict[str, Any], unsupported: frozenset[str], deployment: Deployment, label: str) -> None:
    """Take `unsupported` parameters out of `body`. Raises `UnsupportedParameter` for one that asks for something,
    unless `drop_params` is on."""
    for name in sorted(unsupported & body.keys()):
        value = body.pop(name)
        if value is None or deployment.drop_params or (name in _NEUTRAL and value == _NEUTRAL[name]):
            continue
        raise UnsupportedParameter(
            f"{label} does not support the parameter {name!r}: leave it out, or set drop_params.", param=name
        )


def rename(body: dict[str, Any], old: str, new: str) -> None:
    """`body[old]` becomes `body[new]`, unless that is given too."""
    if old in body:
        value = body.pop(old)
        body.setdefault(new, value)


def set_stream_options(body: dict[str, Any], *, accepted: bool) -> None:
    """Streams always ask for usage, which the ledger needs; the decoder strips it if the client did not ask."""
    options = body.pop("stream_options", None)
    if body.get("stream") and accepted:
        body["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}


def with_extra_body(body: dict[str, Any], call: Call) -> dict[str, Any]:
    """`extra_body` goes out as it is: it is the way to parameters that we do not know."""
    extra = call.body.get("extra_body")
    return {**body, **extra} if isinstance(extra, dict) else body


def headers(deployment: Deployment) -> dict[str, str]:
    """The deployment's own headers replace ours, whatever their case."""
    ours = {"Content-Type": "application/json"}
    if deployment.api_key:
        ours["Authorization"] = f"Bearer {deployment.api_key}"
    if organization := deployment.params.get("organization"):
        ours["OpenAI-Organization"] = str(organization)
    if not deployment.headers:
        return ours
    replaced = {name.lower() for name in deployment.headers}
    return {name: value for name, value in ours.items() if name.lower() not in replaced} | dict(deployment.headers)


def chat_url(deployment: Deployment, row: Provider) -> str:
    return _chat_url(deployment.api_base or row.base, row.base_path)


@lru_cache(maxsize=1024)
def _chat_url(base: str, path: str) -> str:
    """People configure the address with and without the version, and some name the endpoint itself."""
    base = base.rstrip("/")
    if base.endswith(_ENDPOINT):
        return base
    return base + ("" if urlsplit(base).path else path) + _ENDPOINT
