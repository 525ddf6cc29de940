"""When budgets start anew: durations, the calendar, time zones, and the nights in which clocks are changed."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.accounts import NEVER
from shared.windows import Calendar, Duration

# A Thursday.
NOW = datetime(2026, 3, 12, 15, 47, 31, tzinfo=UTC)


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def window(duration: str, now: float, zone: str = "UTC", reset: str = "") -> tuple[float, float]:
    return Calendar.of(zone, reset).window(Duration.parse(duration), now)


@pytest.mark.parametrize(
    ("duration", "start", "end"),
    [
        ("1h", "2026-03-12T15:00", "2026-03-12T16:00"),
        ("hourly", "2026-03-12T15:00", "2026-03-12T16:00"),
        ("1d", "2026-03-12", "2026-03-13"),
        ("24h", "2026-03-12", "2026-03-13"),
        ("daily", "2026-03-12", "2026-03-13"),
        ("7d", "2026-03-09", "2026-03-16"),
        ("1w", "2026-03-09", "2026-03-16"),
        ("weekly", "2026-03-09", "2026-03-16"),
        ("30d", "2026-03-01", "2026-04-01"),
        ("1mo", "2026-03-01", "2026-04-01"),
        ("Monthly", "2026-03-01", "2026-04-01"),
        ("3mo", "2026-01-01", "2026-04-01"),
        ("12mo", "2026-01-01", "2027-01-01"),
        ("15m", "2026-03-12T15:45", "2026-03-12T16:00"),
        ("30s", "2026-03-12T15:47:30", "2026-03-12T15:48"),
        ("6h", "2026-03-12T12:00", "2026-03-12T18:00"),
        ("2d", "2026-03-12", "2026-03-14"),
        ("2w", "2026-03-09", "2026-03-23"),
    ],
)
def test_windows_are_aligned_to_the_calendar(duration: str, start: str, end: str) -> None:
    assert window(duration, NOW.timestamp()) == (at(start), at(end))


def test_without_a_duration_there_is_one_window_for_ever() -> None:
    assert Calendar().window(None, NOW.timestamp()) == (0.0, NEVER)


@pytest.mark.parametrize(
    ("now", "zone", "reset", "start", "end"),
    [
        ("2026-03-12T15:00", "Asia/Kolkata", "", "2026-03-12", "2026-03-13"),
        ("2026-03-12T01:00", "UTC", "03:30", "2026-03-11T03:30", "2026-03-12T03:30"),
        ("2026-03-12T03:30", "UTC", "03:30", "2026-03-12T03:30", "2026-03-13T03:30"),
        ("2026-03-29T12:00", "Europe/Berlin", "", "2026-03-29", "2026-03-30"),  # 23 hours
        ("2026-10-25T12:00", "Europe/Berlin", "", "2026-10-25", "2026-10-26"),  # 25 hours
        ("2026-03-29T12:00", "Europe/Berlin", "02:30", "2026-03-29T03:30", "2026-03-30T02:30"),  # 02:30 is skipped
        ("2026-04-24T12:00", "Africa/Cairo", "", "2026-04-24T01:00", "2026-04-25"),  # midnight is skipped
    ],
)
def test_a_day_begins_at_the_reset_time_of_the_zone(now: str, zone: str, reset: str, start: str, end: str) -> None:
    assert window("1d", at(now, zone), zone, reset) == (at(start, zone), at(end, zone))


def test_an_hour_begins_at_its_top_in_zones_between_the_hours_too() -> None:
    start, end = window("1h", at("2026-03-12T15:47", "Asia/Kolkata"), "Asia/Kolkata")

    assert (start, end) == (at("2026-03-12T15:00", "Asia/Kolkata"), at("2026-03-12T16:00", "Asia/Kolkata"))


ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "Europe/Dublin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe",
     "Africa/Cairo", "America/St_Johns", "Pacific/Auckland"]
)  # fmt: skip
DURATIONS = st.sampled_from(
    ["1h", "5h", "6h", "36h", "90m", "7s", "1d", "2d", "7d", "10d", "30d", "1w", "3w", "1mo", "5mo", "12mo"]
)
MOMENTS = st.integers(int(at("2024-01-01")), int(at("2030-01-01")))
RESETS = st.sampled_from(["", "00:30", "02:30", "04:00", "23:59"])


@given(MOMENTS, DURATIONS, ZONES, RESETS)
def test_every_moment_is_in_exactly_one_window(now: int, duration: str, zone: str, reset: str) -> None:
    start, end = window(duration, now, zone, reset)

    assert start <= now < end
    assert window(duration, start, zone, reset) == (start, end)
    assert window(duration, end - 0.001, zone, reset) == (start, end)
    assert window(duration, end, zone, reset)[0] == end


@given(MOMENTS, ZONES)
def test_days_are_23_to_25_hours_long_and_begin_at_midnight_unless_it_is_skipped(now: int, zone: str) -> None:
    start, end = window("1d", now, zone)

    assert 23 * 3600 <= end - start <= 25 * 3600
    assert datetime.fromtimestamp(start, ZoneInfo(zone)).hour in (0, 1)


@pytest.mark.parametrize(
    "text", ["", "1", "d", "0d", "-1d", "1.5h", "1y", "1 d x", "1d1h", "٣d", "99999999999s", "101w0"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        Duration.parse(text)


@pytest.mark.parametrize("text", ["9999999999s", "1300mo", "9999999999mo"])
def test_more_than_a_hundred_years_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="too long"):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("duration", "begin", "end"),
    [
        ("90s", "2026-01-31T10:00", "2026-01-31T10:01:30"),
        ("2w", "2026-01-31T10:00", "2026-02-14T10:00"),
        ("1mo", "2026-01-31T10:00", "2026-02-28T10:00"),
        ("1mo", "2026-12-15T10:00", "2027-01-15T10:00"),
        ("25mo", "2024-01-29T10:00", "2026-02-28T10:00"),
    ],
)
def test_what_lasts_so_long_ends_then(duration: str, begin: str, end: str) -> None:
    assert Duration.parse(duration).after(at(begin)) == at(end)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "Europe", "Europe/Berlin\0"])
def test_an_unknown_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="time zone"):
        Calendar.of(zone)


@pytest.mark.parametrize("time", ["24:00", "9", "noon", "12:60"])
def test_what_is_no_time_of_day_is_refused(time: str) -> None:
    with pytest.raises(ValueError, match="time of day"):
        Calendar.of("UTC", time)


def test_far_ends_are_representable() -> None:
    start, end = window("100d", NOW.timestamp())

    assert timedelta(seconds=end - start) == timedelta(days=100)
