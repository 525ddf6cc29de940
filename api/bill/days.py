"""Dates in the questions to the bill, as LiteLLM spells and refuses them. All are UTC."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from fastapi import HTTPException

from shared.errors import InvalidRequest

_MONTH = timedelta(days=30)
"""What LiteLLM's `/global/spend/*` look back when nobody names dates."""

_DAY, _SECOND = "%Y-%m-%d", "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True, slots=True)
class Days:
    start: date | None
    end: date | None
    """Included."""


EVER = Days(None, None)


def days(start: str | None, end: str | None) -> Days:
    """Raises `HTTPException` with LiteLLM's 400 unless both are dates, in order."""
    if start is None or end is None:
        raise _refusal("Please provide start_date and end_date")
    first, last = _canonical(start), _canonical(end)
    if first is None or last is None:
        raise _refusal("start_date and end_date must be valid YYYY-MM-DD dates")
    if last < first:
        raise _refusal("start_date must be on or before end_date")
    return Days(first, last)


def days_or_ever(start: str | None, end: str | None) -> Days:
    """The same where both may be left out."""
    return EVER if start is None and end is None else days(start, end)


def last_month(now: float) -> Days:
    today = today_of(now)
    return Days(today - _MONTH, today)


def today_of(now: float) -> date:
    return datetime.fromtimestamp(now, UTC).date()


def first_moment(name: str, text: str, *, seconds: bool = False) -> datetime:
    """When the day, or with `seconds` perhaps the second, begins that `text` names. Raises `InvalidRequest`."""
    return _parsed(name, text, seconds=seconds)[0]


def moment_after(name: str, text: str, *, seconds: bool = False) -> datetime | None:
    """When it is over: the day or second is included. None at the end of time. Raises `InvalidRequest`."""
    moment, length = _parsed(name, text, seconds=seconds)
    try:
        return moment + length
    except OverflowError:
        return None


def _parsed(name: str, text: str, *, seconds: bool) -> tuple[datetime, timedelta]:
    forms = {_SECOND: timedelta(seconds=1), _DAY: timedelta(days=1)} if seconds else {_DAY: timedelta(days=1)}
    for form, length in forms.items():
        try:
            return datetime.strptime(text.strip(), form).replace(tzinfo=UTC), length
        except ValueError:
            continue
    expected = "'YYYY-MM-DD' or 'YYYY-MM-DD HH:MM:SS'" if seconds else "'YYYY-MM-DD'"
    raise InvalidRequest(f"Invalid date format: {text[:50]!r}. Expected: {expected}", param=name)


def _canonical(text: str) -> date | None:
    """`20260131` is a date in ISO 8601, and not here."""
    try:
        parsed = date.fromisoformat(text)
    except ValueError:
        return None
    return parsed if parsed.isoformat() == text else None


def _refusal(reason: str) -> HTTPException:
    return HTTPException(400, {"error": reason})
