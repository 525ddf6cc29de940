"""An OpenAI chat request -> `generateContent` (https://ai.google.dev/api/generate-content)."""

import re
from typing import Any
from urllib.parse import quote

import orjson

from workers.providers.base import Call, UpstreamRequest
from workers.providers.gemini.contents import to_contents
from workers.providers.gemini.model import Model
from workers.providers.gemini.naming import camel
from workers.providers.gemini.parameters import (
    SERVICE_TIERS,
    TOP_LEVEL,
    generation_config,
    native_value,
    supported,
)
from workers.providers.gemini.tools import to_tool_config, to_tools

_DEFAULT_BASE = "https://generativelanguage.googleapis.com/v1beta"
_VERSIONED = re.compile(r"/v\d+[a-z0-9]*(/|$)")


def to_request(call: Call) -> UpstreamRequest:
    deployment = call.deployment
    model = Model.named(deployment.model)
    headers = {"content-type": "application/json"}
    if deployment.api_key:
        headers["x-goog-api-key"] = deployment.api_key
    headers |= {name.lower(): value for name, value in deployment.headers.items()}
    return UpstreamRequest(_url(call, model), headers, orjson.dumps(_body(call, model)))


def _url(call: Call, model: Model) -> str:
    base = call.deployment.api_base.rstrip("/") or _DEFAULT_BASE
    if not _VERSIONED.search(base):
        base += "/v1beta"
    method = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
    return f"{base}/{quote(model.path)}:{method}"


def _body(call: Call, model: Model) -> dict[str, Any]:
    parameters = supported(call.body, model, call.deployment)
    contents, instruction = to_contents(parameters.get("messages"), model)
    tools = to_tools(parameters, model)
    body: dict[str, Any] = {
        "contents": contents,
        "systemInstruction": instruction,
        "tools": tools,  # an empty list is a 400
        "toolConfig": to_tool_config(parameters, tools, model),
        "generationConfig": generation_config(parameters, model),
        "serviceTier": SERVICE_TIERS.get(parameters.get("service_tier", "")),
    }
    body = {name: value for name, value in body.items() if value}
    native = {wire: value for name, value in parameters.items() if (wire := camel(name)) in TOP_LEVEL}
    body = _merged(body, {name: native_value(name, value) for name, value in native.items()})

    extra = call.body.get("extra_body")
    return _merged(body, extra) if isinstance(extra, dict) else body


def _merged(body: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """`body` with `extra` laid over it: objects merge, anything else is replaced."""
    merged = dict(body)
    for name, value in extra.items():
        below = merged.get(name)
        merged[name] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
