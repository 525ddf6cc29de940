"""What pydantic found wrong with a request, in OpenAI's words."""

from collections.abc import Mapping, Sequence
from typing import Any

from shared.errors import InvalidRequest

_LONGEST_VALUE = 100  # characters of a wrong value that an error repeats
_UNION_BRANCHES = frozenset({"str", "int", "float", "bool", "dict", "Part"})


def explain(problem: Mapping[str, Any], location: Sequence[int | str]) -> InvalidRequest:
    """One of pydantic's `errors()`, with its place as `messages[0].role`."""
    place = _place(location)
    if problem["type"] == "missing":
        return InvalidRequest(f"Missing required parameter: '{place}'.", param=place)
    value = problem["input"]
    got = type(value).__name__ if isinstance(value, dict | list) else repr(value)[:_LONGEST_VALUE]
    return InvalidRequest(f"Invalid value for '{place}': {problem['msg']}, got {got}.", param=place)


def _place(location: Sequence[int | str]) -> str:
    place = ""
    for step in location:
        if isinstance(step, int):
            place += f"[{step}]"
        elif place and ("[" in step or step in _UNION_BRANCHES):
            break  # a branch of a union, which means nothing to the caller
        else:
            place += f".{step}" if place else step
    return place
