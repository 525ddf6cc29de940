"""Whether a request is one that Anthropic documents: the vendor's own types, then the rules that types cannot say.

The types are the `anthropic` package's `MessageCreateParams`, plain and beta. pydantic cannot check them whole (they
mix TypedDicts with response models and file inputs), so `deviations` walks them.
"""

import re
import types
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal, NotRequired, Required, Union, get_args, get_origin

from anthropic.types import message_create_params as plain
from anthropic.types.beta import message_create_params as beta
from typing_extensions import get_type_hints, is_typeddict

_OLD_PARAMETERS = {"temperature": float, "top_p": float, "top_k": int}
"""Gone from the types, which describe version 2026-10-21; version 2023-06-01 takes them."""

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")


def check_request(body: Mapping[str, Any], *, betas: bool = False) -> None:
    """Raises AssertionError with everything that Anthropic would reject in `body`."""
    found = deviations(body, betas=betas) or list(broken_rules(body))
    assert not found, "not a request to Anthropic:\n  " + "\n  ".join(found) + f"\n{body}"


def deviations(body: Mapping[str, Any], *, betas: bool = False) -> list[str]:
    """What the types do not allow."""
    module: Any = beta if betas else plain
    kind = module.MessageCreateParamsStreaming if body.get("stream") else module.MessageCreateParamsNonStreaming
    old = {name: value for name, value in body.items() if name in _OLD_PARAMETERS}
    found = [problem for name, value in old.items() for problem in _check(value, _OLD_PARAMETERS[name], name)]
    return [*found, *_check({key: value for key, value in body.items() if key not in old}, kind, "body")]


def broken_rules(body: Mapping[str, Any]) -> Iterable[str]:
    """What the reference and its guides forbid in words."""
    messages = body["messages"]
    yield from _turn_rules(messages)
    yield from _tool_rules(messages)
    yield from _text_rules(messages)
    yield from _parameter_rules(body)


def _turn_rules(messages: list[Any]) -> Iterable[str]:
    roles = [message["role"] for message in messages]
    if not roles or roles[0] != "user":
        yield f"the first message must be the user's, not {roles[:1]}"
    for index, (role, following) in enumerate(zip(roles, [*roles[1:], None], strict=True)):
        if role == following:
            yield f"messages[{index}]: two {role} messages in a row"
        if role == "system" and (roles[index - 1] != "user" or following == "user"):
            yield f"messages[{index}]: a system message follows a user's and precedes an assistant's"


def _tool_rules(messages: list[Any]) -> Iterable[str]:
    seen: set[str] = set()
    asked: set[str] = set()
    for index, message in enumerate(messages):
        blocks = message["content"]
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        kinds = [block["type"] == "tool_result" for block in blocks]
        if kinds != sorted(kinds, reverse=True):
            yield f"messages[{index}]: tool results must come first"
        if set(results) != asked or len(results) != len(asked):
            yield f"messages[{index}]: calls {sorted(asked)} are answered by {results}"
        uses = [block for block in blocks if block["type"] == "tool_use"]
        asked = {block["id"] for block in uses}
        if len(asked) < len(uses) or asked & seen:
            yield f"messages[{index}]: ids of calls must be unique"
        seen |= asked
        for block in uses:
            if not _TOOL_ID.fullmatch(block["id"]) or not _TOOL_NAME.fullmatch(block["name"]):
                yield f"messages[{index}]: bad id or name in {block}"


def _text_rules(messages: list[Any]) -> Iterable[str]:
    for index, message in enumerate(messages):
        if not message["content"]:
            yield f"messages[{index}]: content must not be empty"
        for block in message["content"]:
            if block["type"] == "text" and not block["text"].strip():
                yield f"messages[{index}]: text must not be blank"
            if block["type"] in ("thinking", "redacted_thinking") and "cache_control" in block:
                yield f"messages[{index}]: thinking cannot be marked for the cache"
    last = messages[-1]
    text = last["content"][-1].get("text", "") if last["role"] == "assistant" and last["content"] else ""
    if text != text.rstrip():
        yield "a final assistant message must not end in white space"


def _parameter_rules(body: Mapping[str, Any]) -> Iterable[str]:
    tools, choice = body.get("tools", []), body.get("tool_choice", {})
    if choice and not tools and not body.get("mcp_servers"):
        yield "tool_choice without tools"
    names = [tool["name"] for tool in tools if "name" in tool]
    if len(names) != len(set(names)) or not all(_TOOL_NAME.fullmatch(name) for name in names):
        yield f"bad tool names {names}"
    if choice.get("type") == "tool" and choice["name"] not in names:
        yield f"tool_choice names {choice['name']}, which is not among {names}"
    kinds = {block["type"] for message in body["messages"] for block in message["content"]}
    if not tools and kinds & {"tool_use", "tool_result"}:
        yield "tool calls in the conversation, and no tools"
    thinking = body.get("thinking", {})
    if thinking.get("type") == "enabled" and not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
        yield "the thinking budget must be at least 1024 and under max_tokens"
    if thinking.get("type") in ("enabled", "adaptive"):
        if choice.get("type") in ("any", "tool"):
            yield "thinking with a forced tool"
        if {"temperature", "top_k"} & body.keys():
            yield "thinking with temperature or top_k"
    if not all(each.strip() for each in body.get("stop_sequences", [])):
        yield "a blank stop sequence"
    for tool in tools:
        if {"anyOf", "oneOf", "allOf"} & tool.get("input_schema", {}).keys():
            yield f"{tool['name']}: no anyOf, oneOf or allOf at the top of input_schema"


def _check(value: Any, kind: Any, where: str) -> list[str]:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or kind is object:
        return []
    if is_typeddict(kind):
        return _check_typed_dict(value, kind, where)
    if origin in (Union, types.UnionType):
        return _check_union(value, arguments, where)
    if origin is Literal:
        return [] if value in arguments else [f"{where}: {value!r} is not one of {arguments}"]
    if origin in (Required, NotRequired) or (origin is not None and hasattr(kind, "__metadata__")):
        return _check(value, arguments[0], where)
    if kind is type(None):
        return [] if value is None else [f"{where}: {value!r} is not null"]
    if kind in (str, int, float, bool):
        return _check_scalar(value, kind, where)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is not an object"]
        return [problem for key, each in value.items() for problem in _check(each, arguments[1], f"{where}.{key}")]
    if origin is not None and len(arguments) == 1:  # List, Iterable, SequenceNotStr
        if not isinstance(value, list):
            return [f"{where}: {value!r} is not a list"]
        return [problem for n, each in enumerate(value) for problem in _check(each, arguments[0], f"{where}[{n}]")]
    return [f"{where}: {value!r} is no {kind}"]  # response models and file inputs have no place in JSON


def _check_scalar(value: Any, kind: type, where: str) -> list[str]:
    allowed = (int, float) if kind is float else kind
    fits = isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))
    return [] if fits else [f"{where}: {value!r} is not {kind.__name__}"]


def _check_typed_dict(value: Any, kind: Any, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is not an object"]
    fields, required = _fields(kind)
    found = [f"{where}: {name} is missing" for name in sorted(required - value.keys())]
    for name, each in value.items():
        if name in fields:
            found += _check(each, fields[name], f"{where}.{name}")
        elif not _open(kind):
            found.append(f"{where}: {name} is not a field of {kind.__name__}")
    return found


def _check_union(value: Any, members: tuple[Any, ...], where: str) -> list[str]:
    """The problems of the member that comes closest: its `type` or `role` fits, or they lie deepest."""
    results = [_check(value, member, where) for member in members]
    if any(not result for result in results):
        return []
    tagged = [result for member, result in zip(members, results, strict=True) if _tag_fits(value, member)]
    return max(tagged or results, key=lambda problems: len(problems[0].partition(": ")[0]))


def _tag_fits(value: Any, kind: Any) -> bool:
    if not is_typeddict(kind) or not isinstance(value, dict):
        return False
    fields, _ = _fields(kind)
    tags = [name for name in ("type", "role") if name in fields]
    return bool(tags) and all(not _check(value.get(tag), fields[tag], tag) for tag in tags)


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    hints: dict[str, Any] = get_type_hints(kind, include_extras=True)
    origins: dict[str, Any] = {name: get_origin(hint) for name, hint in hints.items()}
    return hints, frozenset(name for name, origin in origins.items() if origin is Required)


def _open(kind: Any) -> bool:
    """Whether the vendor allows fields beyond those it names, as in a tool's `input_schema`."""
    return bool(getattr(kind, "__pydantic_config__", {}).get("extra") == "allow")
