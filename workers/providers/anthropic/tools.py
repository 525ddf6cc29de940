"""Tools and tool_choice for Anthropic, and the names and ids that its patterns demand.

https://platform.claude.com/docs/en/agents-and-tools/tool-use/define-tools
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from shared.errors import InvalidRequest
from workers.providers.anthropic.content import mark
from workers.providers.anthropic.schema import tool_schema

JSON_TOOL = "json_tool_call"
"""The tool that stands in for structured outputs on models that have none; its arguments become the content."""

HISTORY_TOOL = {
    "name": "dummy_tool",
    "description": "Stands for the tools of earlier turns. Never call it.",
    "input_schema": {"type": "object", "properties": {}},
}
"""Anthropic rejects a conversation with tool calls in it when the request defines no tools; OpenAI does not."""

_UNSAFE = re.compile(r"[^a-zA-Z0-9_-]")
_NAME_LIMIT = 128  # characters
_EXTRAS = ("defer_loading", "allowed_callers", "input_examples", "eager_input_streaming")
_SEARCHES = {"low": 1, "medium": 5, "high": 10}  # LiteLLM's scale: OpenAI's context sizes as a number of searches
_WEB_SEARCH = "web_search_20250305"  # the version that every model with web search has
_PLACE = ("city", "region", "country", "timezone")


class Names:
    """Names as Anthropic takes them, `^[a-zA-Z0-9_-]{1,128}$`, one for each name of the client, and the way back."""

    def __init__(self, originals: Iterable[str]) -> None:
        self._wire: dict[str, str] = {}
        self._original: dict[str, str] = {}
        for name in originals:
            self.wire(name)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Names":
        """The names that an answer to `body` may use."""
        tools = body.get("tools")
        found = [_name(tool) for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, list) else []
        return cls(name for name in found if name)

    def wire(self, original: str) -> str:
        if original not in self._wire:
            name = safe(original, _NAME_LIMIT)
            number = 2
            while name in self._original:  # another name that looks the same once it is safe
                suffix = f"_{number}"
                name = safe(original, _NAME_LIMIT - len(suffix)) + suffix
                number += 1
            self._wire[original], self._original[name] = name, original
        return self._wire[original]

    def original(self, wire: str) -> str:
        return self._original.get(wire, wire)


def safe(text: str, limit: int) -> str:
    return _UNSAFE.sub("_", text)[:limit] or "_"


def function_name(owner: object, where: str) -> str:
    """The name in `{function: {name}}`."""
    function = owner.get("function") if isinstance(owner, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{where}.function needs a name", param=where)
    return name


def translate(tools: object, names: Names) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(tools, mcp_servers)."""
    if tools is None:
        return [], []
    if not isinstance(tools, list):
        raise InvalidRequest("tools must be a list", param="tools")
    local, servers = [], []
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if not isinstance(tool, Mapping):
            raise InvalidRequest(f"{where} must be an object", param=where)
        if tool.get("type") == "mcp":
            servers.append(_mcp_server(tool, where))
        else:
            local.append(_tool(tool, names, where))
    return local, servers


def web_search(options: object) -> dict[str, Any]:
    """OpenAI's `web_search_options` as Anthropic's search tool."""
    tool: dict[str, Any] = {"type": _WEB_SEARCH, "name": "web_search"}
    if not isinstance(options, Mapping):
        return tool
    if searches := _SEARCHES.get(str(options.get("search_context_size"))):
        tool["max_uses"] = searches
    location = options.get("user_location")
    if isinstance(location, Mapping):
        place = location.get("approximate", location)
        known = {key: place[key] for key in _PLACE if place.get(key)} if isinstance(place, Mapping) else {}
        tool["user_location"] = {"type": "approximate", **known}
    return tool


def choice(tool_choice: object, parallel: object, names: Names) -> dict[str, Any] | None:
    """OpenAI's `tool_choice` and `parallel_tool_calls`; None when both are at their defaults."""
    chosen = _choice(tool_choice, names)
    if parallel is False and (chosen is None or chosen["type"] != "none"):
        return {**(chosen or {"type": "auto"}), "disable_parallel_tool_use": True}
    return chosen


def forces(tool_choice: Mapping[str, Any] | None) -> bool:
    return tool_choice is not None and tool_choice["type"] in ("any", "tool")


def _choice(tool_choice: Any, names: Names) -> dict[str, Any] | None:
    match tool_choice:
        case None:
            return None
        case "auto" | "none":
            return {"type": tool_choice}
        case "required" | "any":
            return {"type": "any"}
        case {"type": "auto" | "any" | "none"} | {"type": "tool", "name": str()}:  # Anthropic's own form
            native = dict(tool_choice)
            return {**native, "name": names.wire(native["name"])} if "name" in native else native
        case {"function": {"name": str(name)}}:
            return {"type": "tool", "name": names.wire(name)}
    raise InvalidRequest(
        "tool_choice must be auto, none, required or {type: function, function: {name}}", param="tool_choice"
    )


def _name(tool: Mapping[str, Any]) -> str:
    function = tool.get("function")
    name = (function if isinstance(function, Mapping) else tool).get("name")
    return name if isinstance(name, str) else ""


def _tool(tool: Mapping[str, Any], names: Names, where: str) -> dict[str, Any]:
    kind = tool.get("type")
    if kind in ("web_search", "web_search_preview"):
        return web_search(tool)
    if kind == "function" or (kind is None and "function" in tool):
        return _function(tool, names, where)
    if kind in (None, "custom") and "input_schema" in tool:  # Anthropic's own form
        return {**tool, "name": names.wire(_name(tool)), "input_schema": tool_schema(tool["input_schema"])}
    if isinstance(kind, str) and (kind[-8:].isdigit() or kind == "mcp_toolset"):  # hosted: `bash_20250124`
        return _hosted(tool)
    raise InvalidRequest(f"{where}: Anthropic has no counterpart for a tool of type {kind!r}", param=where)


def _function(tool: Mapping[str, Any], names: Names, where: str) -> dict[str, Any]:
    function = tool.get("function")
    translated: dict[str, Any] = {"type": "custom", "name": names.wire(function_name(tool, where))}
    assert isinstance(function, Mapping)
    if isinstance(description := function.get("description"), str) and description:
        translated["description"] = description
    translated["input_schema"] = tool_schema(function.get("parameters"))
    for owner in (function, tool):
        translated.update({key: owner[key] for key in _EXTRAS if owner.get(key) is not None})
        mark(translated, owner)
    return translated


def _hosted(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool that Anthropic defines; LiteLLM's users write its settings as a function's parameters."""
    settings = {key: value for key, value in tool.items() if key != "function"}
    function = tool.get("function")
    if isinstance(function, Mapping):
        parameters = function.get("parameters")
        settings = {"name": function.get("name"), **(parameters if isinstance(parameters, Mapping) else {}), **settings}
    return settings


def _mcp_server(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    url, label = tool.get("server_url"), tool.get("server_label")
    if not isinstance(url, str) or not isinstance(label, str):
        raise InvalidRequest(f"{where} needs server_url and server_label", param=where)
    server: dict[str, Any] = {"type": "url", "url": url, "name": label}
    headers = tool.get("headers")
    token = tool.get("authorization") or (headers.get("Authorization") if isinstance(headers, Mapping) else None)
    if isinstance(token, str):
        server["authorization_token"] = token.removeprefix("Bearer ")
    if isinstance(allowed := tool.get("allowed_tools"), list):
        server["tool_configuration"] = {"allowed_tools": allowed}
    return server
