"""An OpenAI chat request as a request to Anthropic's Messages API.

https://platform.claude.com/docs/en/api/messages/create
"""

from collections.abc import Mapping
from typing import Any

import orjson

from workers.providers.anthropic import tools as toolbox
from workers.providers.anthropic.headers import headers, url
from workers.providers.anthropic.messages import Conversation, translate
from workers.providers.anthropic.models import Model, model
from workers.providers.anthropic.parameters import (
    NATIVE,
    check_unsupported,
    max_tokens,
    response_schema,
    sampling,
    service_tier,
    stop_sequences,
    user_id,
)
from workers.providers.anthropic.schema import strict_schema, tool_schema
from workers.providers.anthropic.thinking import Thinking, thinking
from workers.providers.anthropic.unsupported import Unsupported
from workers.providers.base import Call, UpstreamRequest


def build(call: Call) -> UpstreamRequest:
    deployment = call.deployment
    body = wanted(call)
    wire = translate_body(body, deployment.model, drop_params=deployment.drop_params)
    if call.stream:
        wire["stream"] = True
    extra = body.get("extra_body")
    if isinstance(extra, Mapping):
        wire.update(extra)
    return UpstreamRequest(url=url(deployment.api_base), headers=headers(call, wire), body=orjson.dumps(wire))


def wanted(call: Call) -> Mapping[str, Any]:
    """The request without what the deployment drops by name."""
    dropped = call.deployment.additional_drop_params
    return {key: value for key, value in call.body.items() if key not in dropped} if dropped else call.body


def translate_body(body: Mapping[str, Any], model_name: str, *, drop_params: bool) -> dict[str, Any]:
    """Everything but `stream` and `extra_body`."""
    kind = model(model_name)
    unsupported = Unsupported(drop=drop_params)
    check_unsupported(body, unsupported)
    names = toolbox.Names.of(body)
    conversation = translate(body.get("messages"), names, system_messages=kind.system_messages)
    tooling = _tooling(body, kind, conversation, names)
    thought = _thinking(body, kind, conversation, tooling, unsupported)
    if json_schema := _fallback_schema(body, kind):
        _demand_json(tooling, json_schema, forced=not thought.on)

    wire: dict[str, Any] = {
        "model": model_name,
        "messages": [turn.to_wire() for turn in conversation.turns],
        "max_tokens": max_tokens(body, kind, thought),
        **sampling(body, kind, thought, unsupported),
        **{name: body[name] for name in NATIVE if body.get(name) is not None},
        **tooling,
    }
    optional = {
        "system": conversation.system,
        "stop_sequences": stop_sequences(body.get("stop"), unsupported),
        "thinking": thought.config,
        "output_config": _output_config(body, kind, thought),
        "service_tier": service_tier(body, unsupported),
        "metadata": {"user_id": name} if (name := user_id(body)) else None,
    }
    wire.update({key: value for key, value in optional.items() if value})
    return wire


def stands_in_for_json(body: Mapping[str, Any], model_name: str) -> bool:
    """Whether the answer to `body` comes as a call of `JSON_TOOL`."""
    return _fallback_schema(body, model(model_name)) is not None


def _tooling(body: Mapping[str, Any], kind: Model, conversation: Conversation, names: toolbox.Names) -> dict[str, Any]:
    """tools, tool_choice and mcp_servers."""
    local, servers = toolbox.translate(body.get("tools"), names)
    if body.get("web_search_options") is not None:
        local.append(toolbox.web_search(body["web_search_options"]))
    tooling: dict[str, Any] = {}
    if servers:
        tooling["mcp_servers"] = [*(body.get("mcp_servers") or []), *servers]
    if local:
        tooling["tools"] = local
    elif conversation.uses_tools:
        return {**tooling, "tools": [toolbox.HISTORY_TOOL], "tool_choice": {"type": "none"}}
    if local or servers:  # a choice without tools is rejected
        choice = toolbox.choice(body.get("tool_choice"), body.get("parallel_tool_calls"), names)
        if choice is not None:
            tooling["tool_choice"] = choice
    return tooling


def _thinking(
    body: Mapping[str, Any],
    kind: Model,
    conversation: Conversation,
    tooling: Mapping[str, Any],
    unsupported: Unsupported,
) -> Thinking:
    possible = not toolbox.forces(tooling.get("tool_choice"))
    if not kind.adaptive_thinking and conversation.continues_without_thinking:
        possible = False
    return thinking(body, kind, unsupported, possible=possible)


def _fallback_schema(body: Mapping[str, Any], kind: Model) -> dict[str, Any] | None:
    return None if kind.structured_outputs else response_schema(body.get("response_format"))


def _demand_json(tooling: dict[str, Any], schema: dict[str, Any], *, forced: bool) -> None:
    """Add the tool whose arguments are the answer. With tools of the client's the model may call one of those instead;
    with thinking on the vendor allows no force, and the description has to do."""
    given = tooling.get("tools", [])
    json_tool = {
        "type": "custom",
        "name": toolbox.JSON_TOOL,
        "description": "Always give the final answer by calling this tool.",
        "input_schema": tool_schema(schema),
    }
    callable_tools = bool(given) and tooling.get("tool_choice", {}).get("type") != "none"
    tooling["tools"] = [*given, json_tool]
    if not forced:
        tooling.pop("tool_choice", None)
    elif not callable_tools:
        tooling["tool_choice"] = {"type": "tool", "name": toolbox.JSON_TOOL}
    elif not toolbox.forces(tooling.get("tool_choice")):
        tooling["tool_choice"] = {**tooling.get("tool_choice", {}), "type": "any"}


def _output_config(body: Mapping[str, Any], kind: Model, thought: Thinking) -> dict[str, Any]:
    given = body.get("output_config")
    config: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    if thought.effort:
        config.setdefault("effort", thought.effort)
    if kind.structured_outputs and (schema := response_schema(body.get("response_format"))):
        config["format"] = {"type": "json_schema", "schema": strict_schema(schema)}
    return config
