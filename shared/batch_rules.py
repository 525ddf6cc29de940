"""What a batch may ask for: windows, metadata, sizes. Pure; the api refuses by it and the intake reads by it.

https://platform.openai.com/docs/api-reference/batch
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from shared.errors import InvalidRequest

MOST_LINES = 50_000
MOST_BYTES = 200 * 1024 * 1024
"""Of a batch's file."""
LONGEST_LINE = 10 * 1024 * 1024
"""Bytes; a longer line becomes an error line."""

DAY = 86_400.0
DEFAULT_EXPIRY = 30 * DAY
"""Seconds that files of a batch live, input and output, unless the client says otherwise."""
_SHORTEST_EXPIRY, _LONGEST_EXPIRY = 3600, 2_592_000  # seconds
_LONGEST_WINDOW = 7 * DAY

_MOST_PAIRS = 16
_LONGEST_KEY = 64  # characters
_LONGEST_VALUE = 512  # characters
_MOST_PRIORITY = 100

_UNITS = {"m": 60.0, "h": 3600.0, "d": DAY}
_WINDOW = re.compile(r"([1-9][0-9]{0,4})([mhd])", re.ASCII)


def window(text: object) -> float:
    """Seconds of a completion window: OpenAI's `24h`, or any whole number of minutes, hours or days up to 7 days."""
    found = _WINDOW.fullmatch(text) if isinstance(text, str) else None
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds <= _LONGEST_WINDOW:
        raise InvalidRequest(
            f"Invalid value: {_shown(text)}. Supported values are: '24h', or a number of minutes, hours or days up to "
            "7 days, such as '90m', '12h' or '7d'.",
            param="completion_window",
        )
    return seconds


def expiry(value: object, param: str) -> float | None:
    """Seconds of `{anchor: created_at, seconds}`, which may come as text, as forms have it; None for None."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"Invalid type for '{param}': expected an object.", param=param)
    if value.get("anchor") != "created_at":
        raise InvalidRequest(
            f"Invalid value: {_shown(value.get('anchor'))}. Value must be 'created_at'.", param=f"{param}.anchor"
        )
    seconds = _whole(value.get("seconds"))
    if seconds is None or not _SHORTEST_EXPIRY <= seconds <= _LONGEST_EXPIRY:
        raise InvalidRequest(
            f"Invalid value: {_shown(value.get('seconds'))}. Expected seconds between {_SHORTEST_EXPIRY} (1 hour) and "
            f"{_LONGEST_EXPIRY} (30 days).",
            param=f"{param}.seconds",
        )
    return float(seconds)


def metadata(value: object) -> dict[str, str]:
    """At most 16 pairs of strings, keys up to 64 and values up to 512 characters."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest("Invalid type for 'metadata': expected an object with string values.", param="metadata")
    if len(value) > _MOST_PAIRS:
        raise InvalidRequest(
            f"Invalid 'metadata': too many properties. Expected an object with at most {_MOST_PAIRS} properties, but "
            f"got an object with {len(value)} properties instead.",
            param="metadata",
        )
    for key, text in value.items():
        _check_pair(key, text)
    return value


def _check_pair(key: str, text: Any) -> None:
    place = f"metadata.{key[:_LONGEST_KEY]}"
    if len(key) > _LONGEST_KEY:
        raise InvalidRequest(
            f"Invalid 'metadata': key too long. Expected at most {_LONGEST_KEY} characters, but got {len(key)}.",
            param="metadata",
        )
    if not isinstance(text, str):
        raise InvalidRequest(f"Invalid type for '{place}': expected a string.", param=place)
    if len(text) > _LONGEST_VALUE:
        raise InvalidRequest(
            f"Invalid '{place}': string too long. Expected a string with maximum length {_LONGEST_VALUE}, but got a "
            f"string with length {len(text)} instead.",
            param=place,
        )


def priority(pairs: Mapping[str, str]) -> int:
    """`metadata.priority`, -100 to 100; 0 when it is not given."""
    if "priority" not in pairs:
        return 0
    number = _whole(pairs["priority"])
    if number is None or abs(number) > _MOST_PRIORITY:
        raise InvalidRequest(
            f"Invalid value: {_shown(pairs['priority'])}. Expected a whole number from -100 to 100.",
            param="metadata.priority",
        )
    return number


def deadline(pairs: Mapping[str, str], created_at: float, seconds: float) -> float:
    """When the batch's lines expire, in seconds since the epoch: at the end of its window of `seconds`, or at the
    earlier `metadata.deadline`, which is ISO 8601 (UTC unless it says otherwise) or seconds since the epoch."""
    end = created_at + seconds
    if "deadline" not in pairs:
        return end
    given = _moment(pairs["deadline"])
    if given is None:
        raise InvalidRequest(
            f"Invalid value: {_shown(pairs['deadline'])}. Expected a time such as '2030-01-31T08:00:00Z', or seconds "
            "since the epoch.",
            param="metadata.deadline",
        )
    if given <= created_at:
        raise InvalidRequest("The deadline has passed already.", param="metadata.deadline")
    return min(end, given)


def _moment(text: str) -> float | None:
    try:
        return float(int(text)) if text.isdecimal() else _utc(datetime.fromisoformat(text)).timestamp()
    except (ValueError, OverflowError):
        return None


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _whole(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,10}", value, re.ASCII):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shown(value: object) -> str:
    return repr(value)[:100]
