"""What the simulated model will say: decided from the request alone, before a token is paced out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import cycle, islice
from typing import Any, Self

import orjson

_LOREM = (
    "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna"
    " aliqua ut enim ad minim veniam quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo consequat"
)

_TOKEN = re.compile(r"\s*\S+|\s+")  # one word is one token, with the white space before it
_TOKENS_PER_MESSAGE = 4  # as in OpenAI's own counting recipe
_ARGUMENT_PIECE = 12  # characters of tool arguments in one chunk
_MAX_TOKENS = 100_000
_MAX_CHOICES = 128  # OpenAI's own limit for n
_MAX_SECONDS = 3600.0
_MAX_DEPTH = 8  # of a generated value; below it a recursive schema is cut short

# LiteLLM's documented values of mock_response that stand for an error.
_MOCK_ERRORS = {
    "litellm.RateLimitError": (429, "rate_limit_exceeded"),
    "litellm.InternalServerError": (500, None),
    "litellm.ContextWindowExceededError": (400, "context_length_exceeded"),
}


class BadScript(ValueError):
    """The request asks the simulated model for something it cannot do; the message says what."""


@dataclass(frozen=True, slots=True)
class Script:
    """The body's `simulated` object: how the model behaves. All times in seconds."""

    reply: str | None = None
    """The text to answer; without it `lorem` answers words and every other model echoes the last user message."""
    tokens: int = 50
    """Words that `lorem` answers."""
    latency: float = 0.0
    """To the first token."""
    pace: float = 0.0
    """Between tokens."""
    jitter: float = 0.0
    """Latency and each pace vary by this share, 0 to 1."""
    error_rate: float | None = None
    """Share of requests that fail, 0 to 1; 1 when only `error_status` or `error_after` is given."""
    error_status: int | None = None
    error_after: int | None = None
    """Tokens, then the connection is cut."""
    retry_after: float | None = None
    """Sent with errors, as the header says it."""
    rpm: float | None = None
    """Requests a minute for one key and model."""
    tpm: float | None = None
    tool_call: bool = False
    """Call a tool even if `tool_choice` leaves it open, until a tool has answered."""
    usage: Mapping[str, int] = field(default_factory=dict)
    """Replaces counts: prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens."""

    @classmethod
    def parse(cls, values: Any) -> Self:
        """Raises `BadScript` for an unknown name or a value of the wrong type or range."""
        if not isinstance(values, dict):
            raise BadScript("simulated: expected an object")
        known = {each.name for each in fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise BadScript(f"simulated.{name}: unknown, expected one of {', '.join(sorted(known))}")
            if not _acceptable(name, value):
                raise BadScript(f"simulated.{name}: {value!r} is not in its range")
        return cls(**values)

    @property
    def failure_rate(self) -> float:
        if self.error_rate is not None:
            return self.error_rate
        return 0.0 if self.error_status is None and self.error_after is None else 1.0

    @property
    def mock_error(self) -> tuple[int, str | None] | None:
        return _MOCK_ERRORS.get(self.reply or "")


def _acceptable(name: str, value: Any) -> bool:
    match name:
        case "reply":
            return value is None or isinstance(value, str)
        case "tool_call":
            return isinstance(value, bool)
        case "usage":
            return isinstance(value, dict) and all(_between(each, 0, 10**9) for each in value.values())
        case "tokens":
            return isinstance(value, int) and _between(value, 0, _MAX_TOKENS)
        case "error_status":
            return value is None or (isinstance(value, int) and _between(value, 400, 599))
        case "error_after":
            return value is None or (isinstance(value, int) and _between(value, 0, _MAX_TOKENS))
        case "jitter" | "error_rate":
            return value is None or _between(value, 0, 1)
        case "rpm" | "tpm":
            return value is None or (_between(value, 0, 10**12) and value > 0)
    return value is None or _between(value, 0, _MAX_SECONDS)


def _between(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


@dataclass(frozen=True, slots=True)
class Plan:
    """One whole answer. Every one of `choices` choices is the same."""

    model: str
    choices: int
    pieces: tuple[str, ...]
    """The text, or the tool's arguments, token by token."""
    tool: str | None
    """The name of the tool to call, instead of saying something."""
    finish_reason: str
    usage: dict[str, Any]

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def plan(body: Mapping[str, Any], script: Script) -> Plan:
    """Raises `BadScript` when the request is not one."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise BadScript("messages: expected a list of at least one message")
    choices = body.get("n") or 1
    if not isinstance(choices, int) or not _between(choices, 1, _MAX_CHOICES):
        raise BadScript(f"n: expected 1 to {_MAX_CHOICES}")
    tool = _tool_to_call(body, script, messages)
    if tool is not None:
        arguments = orjson.dumps(example(tool.get("parameters") or {})).decode()
        pieces = [arguments[at : at + _ARGUMENT_PIECE] for at in range(0, len(arguments), _ARGUMENT_PIECE)]
    else:
        pieces = _TOKEN.findall(_reply(body, script, messages))
    finish = "stop" if tool is None else "tool_calls"
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if isinstance(limit, int) and len(pieces) > limit:
        pieces, finish = pieces[:limit], "length"
    return Plan(
        model=str(body.get("model")),
        choices=choices,
        pieces=tuple(pieces),
        tool=None if tool is None else tool["name"],
        finish_reason=finish,
        usage=_usage(script, _prompt_tokens(messages), len(pieces) * choices),
    )


def example(schema: Any, *, root: Any = None, depth: int = 0) -> Any:
    """A small value that a JSON schema allows: required properties only, shortest lists, first of every choice."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > 4 * _MAX_DEPTH:
        return None
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if "$ref" in schema:
        return example(_resolve(schema["$ref"], root), root=root, depth=depth + 1)
    for several in ("anyOf", "oneOf"):
        if schema.get(several):
            return example(_choose(schema[several], depth), root=root, depth=depth + 1)
    if schema.get("allOf"):
        merged = [example(each, root=root, depth=depth + 1) for each in schema["allOf"]]
        objects = [each for each in merged if isinstance(each, dict)]
        return {name: value for each in objects for name, value in each.items()} if objects else merged[0]
    return _example_of_type(schema, root, depth)


def _example_of_type(schema: dict[str, Any], root: Any, depth: int) -> Any:
    kind = schema.get("type") or ("object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = "null" if depth > _MAX_DEPTH and "null" in kind else kind[0]
    match kind:
        case "object":
            properties = schema.get("properties") or {}
            return {
                name: example(properties.get(name, {}), root=root, depth=depth + 1)
                for name in schema.get("required") or ()
            }
        case "array":
            items = schema.get("items") or {}
            return [example(items, root=root, depth=depth + 1) for _ in range(min(schema.get("minItems") or 0, 100))]
        case "integer" | "number":
            return _example_number(schema, whole=kind == "integer")
        case "boolean":
            return True
        case "null":
            return None
    text = _FORMATS.get(schema.get("format", ""), "text")
    text = text.ljust(min(schema.get("minLength") or 0, 10_000), "x")
    return text[: schema["maxLength"]] if isinstance(schema.get("maxLength"), int) else text


_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "a@example.com",
    "uri": "https://example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
}


def _example_number(schema: dict[str, Any], *, whole: bool) -> float:
    step = schema.get("multipleOf") or 1
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    number: float = 0
    if low is not None and low > number:
        number = -(-low // step) * step
    if above is not None and above >= number:
        number = (above // step + 1) * step
    if high is not None and high < number:
        number = high // step * step
    if below is not None and below <= number:
        number = (-(-below // step) - 1) * step
    return int(number) if whole else number


def _choose(options: list[Any], depth: int) -> Any:
    if depth > _MAX_DEPTH:
        return next((each for each in options if isinstance(each, dict) and each.get("type") == "null"), options[0])
    return options[0]


def _resolve(reference: Any, root: Any) -> Any:
    found = root
    for step in str(reference).removeprefix("#").strip("/").split("/") if reference != "#" else ():
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found


def _tool_to_call(body: Mapping[str, Any], script: Script, messages: list[dict[str, Any]]) -> dict[str, Any] | None:
    tools = body.get("tools")
    functions: list[dict[str, Any]] = [
        each["function"]
        for each in (tools if isinstance(tools, list) else ())
        if isinstance(each, dict) and isinstance(each.get("function"), dict) and each["function"].get("name")
    ]
    match body.get("tool_choice"):
        case _ if not functions:
            return None
        case {"function": {"name": name}}:
            named = next((each for each in functions if each["name"] == name), None)
            if named is None:
                raise BadScript(f"tool_choice: there is no tool {name!r}")
            return named
        case "required":
            return functions[0]
        case "none":
            return None
    return functions[0] if script.tool_call and messages[-1].get("role") != "tool" else None


def _reply(body: Mapping[str, Any], script: Script, messages: list[dict[str, Any]]) -> str:
    text = script.reply
    if text is None and body.get("model") == "lorem":
        text = " ".join(islice(cycle(_LOREM.split()), script.tokens))
    elif text is None:
        text = next((_text(each) for each in reversed(messages) if each.get("role") == "user"), "")
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return orjson.dumps(example(schema)).decode()
        case {"type": "json_object"}:
            return orjson.dumps({"reply": text}).decode()
    return text


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(each.get("text") or "") for each in content if isinstance(each, dict))
    return content if isinstance(content, str) else ""


def _prompt_tokens(messages: list[dict[str, Any]]) -> int:
    return sum(len(_TOKEN.findall(_text(each))) + _TOKENS_PER_MESSAGE for each in messages)


def _usage(script: Script, prompt: int, completion: int) -> dict[str, Any]:
    prompt = script.usage.get("prompt_tokens", prompt)
    completion = script.usage.get("completion_tokens", completion)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": script.usage.get("cached_tokens", 0)},
        "completion_tokens_details": {"reasoning_tokens": script.usage.get("reasoning_tokens", 0)},
    }
