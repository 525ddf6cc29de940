"""From a job and the deployment that will serve it to the adapter's `Call`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from shared import token_estimates
from shared.catalog import Deployment
from shared.errors import InvalidRequest
from shared.jobs import Job
from workers.providers.base import Call
from workers.providers.gemini.signatures import SEPARATOR, without_signature

_BROKER_FIELDS = frozenset({
    "timeout", "stream_timeout", "num_retries", "max_retries", "fallbacks", "context_window_fallbacks", "tags",
    "mock_response", "guardrails", "cache", "caching", "priority", "api_key", "api_base", "base_url", "api_version",
    "drop_params", "allowed_openai_params", "additional_drop_params", "custom_llm_provider", "user_api_key_dict",
    "disable_fallbacks", "model_info", "proxy_server_request", "secret_fields",
})  # fmt: skip
"""What LiteLLM's clients put into a body for the proxy itself; it never reaches a provider."""


def parse(body: bytes) -> dict[str, Any]:
    """The request as the api validated it. Raises `InvalidRequest` for what is not a JSON object after all."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"The job's body is not JSON: {exc}") from exc
    if not isinstance(request, dict):
        raise InvalidRequest("The job's body is not a JSON object.")
    return request


def call(job: Job, request: Mapping[str, Any], deployment: Deployment, now: float) -> Call:
    """The call that `deployment` gets: its defaults under the client's parameters, broker-only fields taken out."""
    body = {**deployment.params, **request} if deployment.params else dict(request)
    if "mock_response" in request:
        deployment = replace(deployment, provider="simulated", api_base="", headers={})
        body["simulated"] = {"reply": str(request["mock_response"])}
    for name in _BROKER_FIELDS.intersection(body):
        del body[name]
    if SEPARATOR.encode() in job.body and deployment.provider != "gemini":
        body["messages"] = _without_signatures(body["messages"])
    if not body.get("store"):
        body.pop("metadata", None)  # OpenAI takes it for stored completions only; otherwise it is meant for the proxy
    return Call(
        body=body,
        deployment=deployment,
        id=f"chatcmpl-{job.id}",
        created=int(now),
        client_headers=job.headers_in or {},
    )


def _without_signatures(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history of a conversation with Gemini, whose tool call ids carry signatures that others would refuse."""
    return [
        message
        | {
            name: value
            for name, value in (
                ("tool_call_id", _short(message.get("tool_call_id"))),
                ("tool_calls", [each | {"id": _short(each.get("id"))} for each in message.get("tool_calls") or ()]),
            )
            if value
        }
        for message in messages
    ]


def _short(id: object) -> str:
    return without_signature(id) if isinstance(id, str) else ""


def most_output(request: Mapping[str, Any], deployment: Deployment) -> int:
    """The most tokens that the request, or else the deployment, lets the model write."""
    if deployment.params:
        request = {**deployment.params, **request}
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    return token_estimates.most_output(limit, request.get("n"))
