"""Whether a request is what Google's own client library and documentation say a `generateContent` request is."""

from pathlib import Path
from typing import Any

import orjson
from google.genai import types

from shared.catalog import Deployment
from workers.providers.base import Call
from workers.providers.gemini import GEMINI

FIXTURES = Path(__file__).parents[1] / "fixtures" / "providers" / "gemini"

_FIELDS = {
    *("contents", "systemInstruction", "tools", "toolConfig", "generationConfig"),
    *("safetySettings", "cachedContent", "labels", "serviceTier"),
}
_DATA = {
    *("text", "inlineData", "fileData", "functionCall", "functionResponse"),
    *("executableCode", "codeExecutionResult", "toolCall", "toolResponse"),
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
DECLARED = {
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]},
}


def fixture(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def a_call(body: dict[str, Any] | None = None, *, model: str = "gemini-2.5-flash", **deployment: Any) -> Call:
    """A call with `body` over a request that says hello."""
    return Call(
        body={"model": "chat", "messages": [{"role": "user", "content": "hello"}], **(body or {})},
        deployment=Deployment("d1", "chat", "gemini", model, api_key="AIza-test", **deployment),
        id="chatcmpl-1",
        created=1_790_000_000,
        client_headers={},
    )


def translated(body: dict[str, Any] | None = None, **deployment: Any) -> dict[str, Any]:
    """The body that goes to Gemini for a client's `body`, checked."""
    wire: dict[str, Any] = orjson.loads(GEMINI.request(a_call(body, **deployment)).body)
    check_request(wire)
    return wire


def check_request(wire: dict[str, Any]) -> None:
    """Raises `AssertionError` or pydantic's `ValidationError` for what Google's types or documented rules forbid."""
    assert wire.keys() <= _FIELDS
    assert all(wire.values()), "an empty field is a 400"
    for content in wire["contents"]:
        _validate(types.Content, content)
    if "systemInstruction" in wire:
        _validate(types.Content, wire["systemInstruction"])
        assert all(part["text"] for part in wire["systemInstruction"]["parts"])
    _validate(types.GenerateContentConfig, wire.get("generationConfig", {}))
    for tool in wire.get("tools", []):
        _validate(types.Tool, tool)
        assert len(tool) == 1
    for setting in wire.get("safetySettings", []):
        _validate(types.SafetySetting, setting)
    _check_turns(wire["contents"])
    _check_functions(wire)


def _validate(kind: Any, value: Any) -> None:
    kind.model_validate_json(orjson.dumps(value))


def _check_turns(contents: list[dict[str, Any]]) -> None:
    roles = [content["role"] for content in contents]
    assert roles == [("user", "model")[at % 2] for at in range(len(roles))], roles
    called: list[str] = []
    for content in contents:
        for part in content["parts"]:
            assert len(part.keys() & _DATA) == 1, part
            assert part.get("text") != ""
        answered = [part["functionResponse"]["name"] for part in content["parts"] if "functionResponse" in part]
        assert not answered or answered == called
        called = [part["functionCall"]["name"] for part in content["parts"] if "functionCall" in part]


def _check_functions(wire: dict[str, Any]) -> None:
    groups = [tool["functionDeclarations"] for tool in wire.get("tools", []) if "functionDeclarations" in tool]
    assert len(groups) <= 1, "all functions go in one tool"
    for declaration in groups[0] if groups else []:
        if "parameters" in declaration:
            assert declaration["parameters"]["type"] == "OBJECT"
            assert declaration["parameters"]["properties"]
    if "toolConfig" in wire:
        assert groups, "a toolConfig without functions is a 400"
        _validate(types.ToolConfig, wire["toolConfig"])
