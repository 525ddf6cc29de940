"""`tools` and `tool_choice` -> `tools` and `toolConfig` (https://ai.google.dev/gemini-api/docs/function-calling)."""

from typing import Any

from shared.errors import InvalidRequest
from workers.providers.gemini.model import Model
from workers.providers.gemini.naming import camel, camel_keys
from workers.providers.gemini.schema import function_parameters

_SEARCH = ("googleSearch", "googleSearchRetrieval", "googleMaps", "urlContext")
_BUILT_IN = (*_SEARCH, "codeExecution", "computerUse", "fileSearch")
_MODES = {"none": "NONE", "auto": "AUTO", "required": "ANY", "any": "ANY"}

Tool = dict[str, Any]


def to_tools(body: dict[str, Any], model: Model) -> list[Tool]:
    """All functions in one tool object and each built-in tool in its own; empty when the request has none."""
    functions: list[Tool] = []
    built_in: dict[str, Any] = {}
    for tool in _listed(body, "tools"):
        if not isinstance(tool, dict):
            raise InvalidRequest("each tool must be an object", param="tools")
        functions += _declarations(tool)
        built_in |= _built_ins(tool)
    functions += [_declaration(each) for each in _listed(body, "functions")]
    if body.get("web_search_options") is not None:
        built_in.setdefault("googleSearch", {})

    if functions and not model.generation_3:
        # "Built-in tools and Function Calling cannot be combined": the functions are what the client depends on.
        built_in = {name: settings for name, settings in built_in.items() if name not in _SEARCH}
    declared = [{"functionDeclarations": functions}] if functions else []
    return declared + [{name: settings} for name, settings in built_in.items()]


def to_tool_config(body: dict[str, Any], tools: list[Tool], model: Model) -> dict[str, Any]:
    """The `toolConfig` for these tools; empty without functions, where Gemini refuses one."""
    if not any("functionDeclarations" in tool for tool in tools):
        return {}
    choice = body.get("tool_choice")
    if choice is None:
        choice = body.get("function_call")
    config: dict[str, Any] = {} if choice is None else {"functionCallingConfig": _calling_config(choice)}
    if model.generation_3 and len(tools) > 1:
        # Required to combine functions with built-in tools: https://ai.google.dev/gemini-api/docs/tool-combination
        config["includeServerSideToolInvocations"] = True
    return config


def _listed(body: dict[str, Any], name: str) -> list[Any]:
    value = body.get(name)
    if value is not None and not isinstance(value, list):
        raise InvalidRequest(f"{name} must be a list", param=name)
    return value or []


def _declarations(tool: Tool) -> list[Tool]:
    """The functions of a tool: OpenAI's one, or the list of Gemini's own format."""
    if tool.get("type") == "function":
        return [_declaration(tool.get("function", tool))]
    native = tool.get("functionDeclarations", tool.get("function_declarations"))
    return [_declaration(each) for each in native] if isinstance(native, list) else []


def _declaration(function: Any) -> Tool:
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        raise InvalidRequest("a function in tools has no name", param="tools")
    declaration: Tool = {"name": name}
    if isinstance(description := function.get("description"), str) and description:
        declaration["description"] = description
    if parameters := function_parameters(function.get("parameters")):
        declaration |= {"parameters": parameters}
    return declaration


def _built_ins(tool: Tool) -> dict[str, Any]:
    """The built-in tools that a tool object names: `{"googleSearch": {}}`, `{"type": "web_search"}`."""
    kind = tool.get("type")
    if isinstance(kind, str) and kind.startswith("web_search"):
        return {"googleSearch": {}}
    if isinstance(kind, str) and camel(kind) in _BUILT_IN:
        settings = {key: value for key, value in tool.items() if key != "type"}
        return {camel(kind): camel_keys(settings.get(kind, settings))}
    found = {camel(key): camel_keys(value) for key, value in tool.items() if camel(key) in _BUILT_IN}
    if not found and kind != "function" and not {"functionDeclarations", "function_declarations"} & tool.keys():
        raise InvalidRequest(f"Gemini has no tool of type {kind!r}", param="tools")
    return {name: {} if settings is None else settings for name, settings in found.items()}


def _calling_config(choice: Any) -> dict[str, Any]:
    if isinstance(choice, str) and choice in _MODES:
        return {"mode": _MODES[choice]}
    if isinstance(choice, dict):
        if name := _function_name(choice):
            return {"mode": "ANY", "allowedFunctionNames": [name]}
        if isinstance(allowed := choice.get("allowed_tools"), dict):
            names = [name for each in allowed.get("tools") or [] if (name := _function_name(each))]
            # AUTO ignores the list; VALIDATED is AUTO that heeds it.
            mode = "ANY" if allowed.get("mode") == "required" else "VALIDATED"
            return {"mode": mode, "allowedFunctionNames": names}
        if isinstance(kind := choice.get("type"), str) and kind in _MODES:
            return {"mode": _MODES[kind]}
    raise InvalidRequest(
        f"unknown tool_choice {choice!r}: expected none, auto, required or a function", param="tool_choice"
    )


def _function_name(choice: Any) -> str | None:
    """The name in `{"type": "function", "function": {"name": ...}}` and in the older `{"name": ...}`."""
    if not isinstance(choice, dict):
        return None
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else choice.get("name")
    return name if isinstance(name, str) else None
