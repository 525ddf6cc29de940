"""A streamed chat completion, folded into the one that the same request would have got without `stream`."""

from collections.abc import Iterator
from typing import Any

import orjson

_STATED = frozenset({"id", "type", "role", "name"})
"""Strings of a delta that are whole wherever they stand: some vendors repeat them in every chunk."""
_OWN = frozenset({"choices", "object", "usage"})


def fold(sse: bytes) -> dict[str, Any] | None:
    """The `chat.completion` that these server-sent events add up to; None when no chunk is among them.

    Comments, `id:` lines, error frames and `[DONE]` are passed over, and so is what cannot be read: a stream that was
    cut adds up to what came before.
    """
    completion: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    usage: Any = None
    for chunk in _chunks(sse):
        for name, value in chunk.items():
            if name not in _OWN and value not in (None, ""):
                completion.setdefault(name, value)
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            _add_choice(choices, choice)
    if not completion and not choices:
        return None
    return {
        **completion,
        "object": "chat.completion",
        "choices": [_whole(choices[index]) for index in sorted(choices)],
        "usage": usage,
    }


def _chunks(sse: bytes) -> Iterator[dict[str, Any]]:
    for line in sse.splitlines():
        if not line.startswith(b"data:"):
            continue
        try:
            chunk = orjson.loads(line[5:])
        except orjson.JSONDecodeError:
            continue  # `[DONE]`, or the half of a frame
        if isinstance(chunk, dict) and isinstance(chunk.get("choices"), list):
            yield chunk


class _Pieces(list[str]):
    """A text in the making; joined at the end, for adding to a string copies it every time."""


def _add_choice(choices: dict[int, dict[str, Any]], choice: dict[str, Any]) -> None:
    index = choice.get("index") or 0
    found = choices.setdefault(
        index, {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}
    )
    for name, value in choice.items():
        if name == "delta":
            _add(found["message"], value or {})
        elif name == "finish_reason":
            found[name] = value or found[name]
        elif name != "index":
            _add(found, {name: value})


def _add(whole: dict[str, Any], delta: dict[str, Any]) -> None:
    """Grow `whole` by a delta: texts and lists are appended, objects are merged, anything else is replaced."""
    for name, value in delta.items():
        known = whole.get(name)
        match value:
            case None:
                whole.setdefault(name, None)
            case str() if name in _STATED:
                whole[name] = value or known
            case str():
                if not isinstance(known, _Pieces):
                    whole[name] = known = _Pieces()
                known.append(value)
            case dict():
                if not isinstance(known, dict):
                    whole[name] = known = {}
                _add(known, value)
            case list():
                if type(known) is not list:  # a text in the making is none
                    whole[name] = known = []
                _extend(known, value)
            case _:
                whole[name] = value


def _extend(whole: list[Any], items: list[Any]) -> None:
    """Items that say their `index` belong to the one that began with it."""
    for item in items:
        if not isinstance(item, dict):
            whole.append(item)
            continue
        index = item.get("index")
        found = next((each for each in whole if isinstance(each, dict) and each.get("index") == index), None)
        if index is None or found is None:
            found = {}
            whole.append(found)
        _add(found, item)


def _whole(choice: dict[str, Any]) -> dict[str, Any]:
    finished: dict[str, Any] = _finished(choice)
    for call in finished["message"].get("tool_calls") or ():
        call.pop("index", None)
    return finished


def _finished(value: Any) -> Any:
    match value:
        case _Pieces():
            return "".join(value)
        case list():
            return [_finished(each) for each in value]
        case dict():
            return {name: _finished(each) for name, each in value.items()}
        case _:
            return value
