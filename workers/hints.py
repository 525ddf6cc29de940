"""What providers say about limits in response headers: when to come back, and what is left."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_HINT = 3600.0  # seconds; anything longer is treated as this
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_RESETS = (
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-ratelimit-reset",
    "anthropic-ratelimit-requests-reset",
    "anthropic-ratelimit-tokens-reset",
)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait, clamped to 0..3,600; None when the headers do not say, or say garbage.

    Reads `retry-after-ms`, `x-ms-retry-after-ms`, `retry-after` (seconds, a duration or an HTTP date), then the
    smallest of the vendors' reset headers. Points in time are compared to the answer's own `date`, so that a skewed
    clock does no harm.
    """
    now = _date(headers.get("date")) or now
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        milliseconds = _number(headers.get(name))
        if milliseconds is not None:
            return _clamp(milliseconds / 1000)
    text = headers.get("retry-after")
    if text is not None:
        seconds = _number(text)
        if seconds is None:
            seconds = _duration(text)
        if seconds is None and (then := _date(text)) is not None:
            seconds = then - now
        if seconds is not None:
            return _clamp(seconds)
    resets = [wait for name in _RESETS if (wait := _reset(headers.get(name), now)) is not None]
    return _clamp(min(resets)) if resets else None


@dataclass(frozen=True, slots=True)
class RateHeaders:
    """The provider's own account of its buckets. None: not said."""

    limit_requests: int | None
    limit_tokens: int | None
    remaining_requests: int | None
    remaining_tokens: int | None


def rate_headers(headers: Mapping[str, str]) -> RateHeaders | None:
    """OpenAI's `x-ratelimit-*` (a minute's) or Anthropic's `anthropic-ratelimit-*` family; None without either."""
    if "x-ratelimit-limit-requests" in headers or "x-ratelimit-limit-tokens" in headers:
        return RateHeaders(
            _integer(headers.get("x-ratelimit-limit-requests")),
            _integer(headers.get("x-ratelimit-limit-tokens")),
            _integer(headers.get("x-ratelimit-remaining-requests")),
            _integer(headers.get("x-ratelimit-remaining-tokens")),
        )
    if "anthropic-ratelimit-requests-limit" in headers:
        return RateHeaders(
            _integer(headers.get("anthropic-ratelimit-requests-limit")),
            _integer(headers.get("anthropic-ratelimit-tokens-limit")),
            _integer(headers.get("anthropic-ratelimit-requests-remaining")),
            _integer(headers.get("anthropic-ratelimit-tokens-remaining")),
        )
    return None


def _clamp(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_HINT)


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number == number else None  # not NaN


def _integer(text: str | None) -> int | None:
    number = _number(text)
    return None if number is None or number < 0 or number > 1e15 else int(number)


def _date(text: str | None) -> float | None:
    """An HTTP date as seconds since the epoch."""
    if not text:
        return None
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    return (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp()


def _reset(text: str | None, now: float) -> float | None:
    """`1m30s`, `120ms`, `6`, a Unix time in seconds or milliseconds (OpenRouter), or an RFC 3339 time (Anthropic)."""
    if not text:
        return None
    number = _number(text)
    if number is None:
        duration = _duration(text)
        return _rfc3339(text, now) if duration is None else duration
    if number > 1e12:
        return number / 1000 - now
    return number - now if number > 1e9 else number


def _duration(text: str) -> float | None:
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        return None
    days, hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _rfc3339(text: str, now: float) -> float | None:
    try:
        return datetime.fromisoformat(text.strip()).timestamp() - now
    except ValueError:
        return None
