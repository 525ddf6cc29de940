"""An assistant's message as content blocks: thinking, server tools, text, then tool calls."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from shared.errors import InvalidRequest
from workers.providers.anthropic.calls import SERVER_CALL, CallIds, legacy_id
from workers.providers.anthropic.content import Block, blocks, mark
from workers.providers.anthropic.tools import Names, function_name

_THINKING = ("thinking", "redacted_thinking")


def assistant_blocks(message: Mapping[str, Any], where: str, ids: CallIds, names: Names) -> list[Block]:
    """Empty when the message says nothing."""
    ids.new_turn()
    content = message.get("content")
    inline: list[Any] = []
    if isinstance(content, list):  # some clients keep thinking among the parts
        inline = [part for part in content if isinstance(part, Mapping) and part.get("type") in _THINKING]
        content = [part for part in content if part not in inline]

    text = blocks(content, f"{where}.content")
    if not text and isinstance(message.get("refusal"), str):
        text = blocks(message["refusal"], f"{where}.refusal")
    calls = list(_calls(message, where))
    return [
        *_thinking(message.get("thinking_blocks") or inline),
        *_server_tools(message, calls, where),
        *text,
        *_tool_uses(calls, where, ids, names),
    ]


def _thinking(given: object) -> list[Block]:
    """Thinking goes back exactly as it came, or not at all: the vendor checks its signature.

    A stream hands thinking out in pieces of which the last one has the signature, so pieces are joined up to it.
    """
    found: list[Block] = []
    pieces: list[str] = []
    for block in given if isinstance(given, list) else []:
        if not isinstance(block, Mapping):
            continue
        if block.get("type") == "redacted_thinking" and isinstance(block.get("data"), str):
            found.append({"type": "redacted_thinking", "data": block["data"]})
        elif block.get("type") == "thinking":
            pieces.append(str(block.get("thinking") or ""))
            if signature := block.get("signature"):
                found.append({"type": "thinking", "thinking": "".join(pieces), "signature": signature})
                pieces.clear()
    return found


def _calls(message: Mapping[str, Any], where: str) -> Iterable[Mapping[str, Any]]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise InvalidRequest(f"{where}.tool_calls must be a list of objects", param=f"{where}.tool_calls")
    yield from calls
    legacy = message.get("function_call")
    if isinstance(legacy, Mapping):
        yield {"id": legacy_id(legacy.get("name")), "function": legacy}


def _tool_uses(calls: Iterable[Mapping[str, Any]], where: str, ids: CallIds, names: Names) -> Iterable[Block]:
    for index, call in enumerate(calls):
        at = f"{where}.tool_calls[{index}]"
        original = call.get("id")
        if not isinstance(original, str) or not original:
            raise InvalidRequest(f"{at} needs an id", param=at)
        if original.startswith(SERVER_CALL) or (wire := ids.called(original)) is None:
            continue
        name = names.wire(function_name(call, at))
        yield mark({"type": "tool_use", "id": wire, "name": name, "input": _arguments(call, at)}, call)


def _server_tools(message: Mapping[str, Any], calls: Iterable[Mapping[str, Any]], where: str) -> Iterable[Block]:
    """Calls that Anthropic answered itself, each before its result; without the result a call cannot be repeated."""
    extra = message.get("provider_specific_fields")
    if not isinstance(extra, Mapping):
        return
    results = {
        result.get("tool_use_id"): dict(result)
        for name in ("web_search_results", "tool_results")
        for result in extra.get(name) or ()
        if isinstance(result, Mapping)
    }
    for index, call in enumerate(calls):
        result = results.get(call.get("id"))
        if result is not None and str(call["id"]).startswith(SERVER_CALL):
            at = f"{where}.tool_calls[{index}]"
            name = function_name(call, at)
            yield {"type": "server_tool_use", "id": call["id"], "name": name, "input": _arguments(call, at)}
            yield result


def _arguments(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    arguments = call["function"].get("arguments")
    if isinstance(arguments, Mapping):
        return dict(arguments)
    try:
        parsed = orjson.loads(arguments) if arguments and arguments.strip() else {}
    except (orjson.JSONDecodeError, AttributeError) as exc:
        raise InvalidRequest(f"{where}: arguments must be a JSON object in a string", param=where) from exc
    if not isinstance(parsed, dict | None):
        raise InvalidRequest(f"{where}: arguments must be a JSON object in a string", param=where)
    return parsed or {}
