"""A pydantic error as one line for the operator: where, what was expected, what stood there, what to write instead."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic_core import ErrorDetails

from shared.config_keys import is_secret

_LONGEST_SHOWN = 40  # characters of a wrong value


class Expectation(NamedTuple):
    expected: str
    example: str


_NUMBER = Expectation("a number", "600")
_WHOLE = Expectation("a whole number", "5")
_BOOLEAN = Expectation("true or false", "true")
_TEXT = Expectation("text", '"text"')
_LIST = Expectation("a list", "[a, b]")
_MAPPING = Expectation("a mapping", "{name: value}")

_BY_TYPE = {
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": _NUMBER,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "bool_type": _BOOLEAN,
    "bool_parsing": _BOOLEAN,
    "string_type": _TEXT,
    "list_type": _LIST,
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "string_too_short": Expectation("text", '"text"'),
    "duration": Expectation("a number with s, m, h, d, w or mo", "30d"),
    "time_zone": Expectation("a time zone of the IANA database", "Europe/Berlin"),
    "time_of_day": Expectation("a time of day, HH:MM", '"00:00"'),
    "webhook_secret": Expectation(
        "'whsec_' and the base64 of 24 to 64 bytes", "whsec_$(head -c 32 /dev/urandom | base64)"
    ),
}

_BOUNDS = {
    "greater_than": ("a number over {gt:g}", "600"),
    "greater_than_equal": ("a number of {ge:g} or more", "5"),
    "less_than": ("a number under {lt:g}", "5"),
    "less_than_equal": ("a number of {le:g} or less", "5"),
}

_REQUIRED = {"model_name": "gpt-4o", "model": "openai/gpt-4o", "litellm_params": "{model: openai/gpt-4o}"}


def explain(error: ErrorDetails, *, key: str, raw: Any) -> str:
    """What follows the place in the line. `raw` is the value as it is written in the file, so a value that came from an
    environment variable is shown as the variable's name."""
    kind = error["type"]
    if kind == "missing":
        return f"is required: write e.g. {key}: {_REQUIRED.get(key, 'value')}"
    expected, example = expectation(error)
    return f"expected {expected}, got {shown(raw, key)}: write e.g. {key}: {example}"


def expectation(error: ErrorDetails) -> Expectation:
    kind = error["type"]
    if kind in _BOUNDS:
        expected, example = _BOUNDS[kind]
        return Expectation(expected.format(**error.get("ctx", {})), example)
    if kind == "literal_error":
        choices = error.get("ctx", {}).get("expected", "")
        return Expectation(choices, choices.split("'")[1])
    if kind == "string_pattern_mismatch":
        return Expectation("letters, digits, '_', '-' and '.'", "headrace")
    return _BY_TYPE.get(kind, Expectation(kind.replace("_", " "), "value"))


def shown(value: Any, key: str) -> str:
    """A wrong value, unless it may be a secret or is too much to show; then only what kind of thing it is."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str() if value.startswith("os.environ/"):
            return f"the value of {value}"
        case str() if is_secret(key) or value.startswith("sk-") or len(value) > _LONGEST_SHOWN:
            return "a text"
        case int() | float() if is_secret(key):
            return "a number"
    return repr(value)


def dotted(path: Sequence[str | int]) -> str:
    """`("model_list", 2, "rpm")` as `model_list[2].rpm`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
