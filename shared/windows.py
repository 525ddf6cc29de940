"""LiteLLM's durations, and the calendar-aligned windows in which budgets start anew. Pure.

A window follows from the time alone: nothing has to be reset, and every process sees the same one.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import Enum
from zoneinfo import ZoneInfo

from shared.accounts import NEVER

_WORDS = {"hourly": "1h", "daily": "1d", "weekly": "1w", "monthly": "1mo"}
_FORM = re.compile(r"(\d{1,10})(s|m|h|d|w|mo)", re.ASCII)
_LONGEST = 100 * 366 * 86_400  # seconds
_DAY = 86_400
_EPOCH = date(1970, 1, 1).toordinal()
_MONDAY = date(1969, 12, 29).toordinal()  # of the epoch's week


class _Unit(Enum):
    """The values are seconds, of a month about."""

    s = 1
    m = 60
    h = 3600
    d = _DAY
    w = 7 * _DAY
    mo = 30 * _DAY


@dataclass(frozen=True, slots=True)
class Duration:
    """`<n>s|m|h|d|w|mo`."""

    count: int
    unit: _Unit

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Also understands hourly, daily, weekly and monthly. Raises `ValueError` for anything else, for 0, and for
        more than a hundred years."""
        text = text.strip().lower()
        match = _FORM.fullmatch(_WORDS.get(text, text))
        if match is None or int(match[1]) == 0:
            raise ValueError(
                f"not a duration: {text[:50]!r}; expected a number over 0 with s, m, h, d, w or mo, as 30d"
            )
        found = cls(int(match[1]), _Unit[match[2]])
        if found.seconds > _LONGEST:
            raise ValueError(f"too long a duration: {text[:50]!r}; at most a hundred years")
        return found

    @property
    def seconds(self) -> int:
        """A month counts as 30 days."""
        return self.count * self.unit.value

    def after(self, moment: float) -> float:
        """So long after `moment`, both in seconds since the epoch; months are the calendar's, in UTC, and end on their
        last day if they are too short."""
        if self.unit is not _Unit.mo:
            return moment + self.seconds
        begun = datetime.fromtimestamp(moment, UTC)
        month = begun.year * 12 + begun.month - 1 + self.count
        last = _month_start(month + 1) - timedelta(days=1)
        day = min(begun.day, last.day)
        return datetime.combine(last.replace(day=day), begun.timetz()).timestamp()


@dataclass(frozen=True, slots=True)
class Calendar:
    """Where midnight is, and when after it a budget's day begins."""

    zone: tzinfo = UTC
    reset_at: time = time()
    """Hours and minutes."""

    @classmethod
    def of(cls, timezone: str = "UTC", reset_time: str = "") -> "Calendar":
        """`timezone` is a name of the IANA database, `reset_time` HH:MM or empty. Raises `ValueError`."""
        try:
            zone = UTC if timezone == "UTC" else ZoneInfo(timezone)  # the default needs no database
        except (KeyError, ValueError, OSError) as exc:  # OSError for the name of a folder in the database
            raise ValueError(f"unknown time zone {timezone[:50]!r}: expected a name like Europe/Berlin") from exc
        try:
            reset_at = datetime.strptime(reset_time, "%H:%M").time() if reset_time else time()
        except ValueError as exc:
            raise ValueError(f"not a time of day: {reset_time[:50]!r}; expected HH:MM") from exc
        return cls(zone, reset_at)

    def window(self, duration: Duration | None, now: float) -> tuple[float, float]:
        """Start and end, in seconds since the epoch, of the window that `now` is in; an end belongs to the next one.
        Without a duration, all of time.

        1h begins at the top of the hour, 1d at `reset_at`, 7d and 1w on Monday, 30d and 1mo on the 1st. Other numbers
        are counted from the epoch in the zone: hours, minutes and seconds as they pass, so that none is longer when
        clocks are changed, and days, weeks and months as the calendar has them.
        """
        match duration:
            case None:
                return 0.0, NEVER
            case Duration(count, _Unit.h) if count % 24 == 0:
                return self._days(count // 24, _EPOCH, now)
            case Duration(_, _Unit.s | _Unit.m | _Unit.h):
                return self._seconds(duration.seconds, now)
            case Duration(30, _Unit.d):
                return self._months(1, now)
            case Duration(count, _Unit.mo):
                return self._months(count, now)
            case Duration(7, _Unit.d):
                return self._days(7, _MONDAY, now)
            case Duration(count, _Unit.w):
                return self._days(7 * count, _MONDAY, now)
            case Duration(count, _):
                return self._days(count, _EPOCH, now)

    def _seconds(self, length: int, now: float) -> tuple[float, float]:
        local = datetime.fromtimestamp(now, self.zone)
        # Without daylight saving time, or the windows of a night in March and October would overlap.
        shift = ((local.utcoffset() or timedelta()) - (local.dst() or timedelta())).total_seconds()
        start = (now + shift) // length * length - shift
        return start, start + length

    def _days(self, count: int, origin: int, now: float) -> tuple[float, float]:
        first = (self._day(now).toordinal() - origin) // count * count + origin
        return self._begin(date.fromordinal(first)), self._begin(date.fromordinal(first + count))

    def _months(self, count: int, now: float) -> tuple[float, float]:
        day = self._day(now)
        first = ((day.year - 1970) * 12 + day.month - 1) // count * count + 1970 * 12
        return self._begin(_month_start(first)), self._begin(_month_start(first + count))

    def _day(self, now: float) -> date:
        """The day of budgets that `now` is in."""
        day = datetime.fromtimestamp(now, self.zone).date()
        if self._begin(day) > now:
            return day - timedelta(days=1)
        # Clocks that go back across midnight let a date begin before the last one ends.
        return day if self._begin(day + timedelta(days=1)) > now else day + timedelta(days=1)

    def _begin(self, day: date) -> float:
        """A time that the clock skips is the moment of the skip, or as much after it; of one that comes twice, the
        first counts."""
        return datetime.combine(day, self.reset_at, self.zone).timestamp()


def _month_start(month: int) -> date:
    """The first day of a month that is counted from year 0."""
    return date(month // 12, month % 12 + 1, 1)
