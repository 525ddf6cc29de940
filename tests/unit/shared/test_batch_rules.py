"""What a batch may ask for: tables of what is taken and what is refused, and under which name."""

import pytest

from shared import batch_rules
from shared.errors import InvalidRequest

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24h", 86_400), ("1m", 60), ("90m", 5_400), ("1h", 3_600), ("7d", 604_800), ("168h", 604_800)],
)
def test_a_window_is_a_number_of_minutes_hours_or_days(text: str, seconds: float) -> None:
    assert batch_rules.window(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "24", "h", "0h", "-1h", "1.5h", "8d", "169h", "24H", " 24h", "24h\n", "1w", "٣h", 24, None]
)
def test_any_other_window_is_refused(text: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        batch_rules.window(text)

    assert caught.value.param == "completion_window"


@pytest.mark.parametrize("seconds", [3600, 2_592_000, "86400"])
def test_an_expiry_is_in_seconds_as_a_number_or_as_a_form_has_it(seconds: object) -> None:
    assert batch_rules.expiry({"anchor": "created_at", "seconds": seconds}, "p") == float(str(seconds))


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ("3600", "p"),
        ([], "p"),
        ({}, "p.anchor"),
        ({"anchor": "now", "seconds": 3600}, "p.anchor"),
        ({"anchor": "created_at"}, "p.seconds"),
        ({"anchor": "created_at", "seconds": 3599}, "p.seconds"),
        ({"anchor": "created_at", "seconds": 2_592_001}, "p.seconds"),
        ({"anchor": "created_at", "seconds": "an hour"}, "p.seconds"),
        ({"anchor": "created_at", "seconds": 3600.5}, "p.seconds"),
        ({"anchor": "created_at", "seconds": True}, "p.seconds"),
    ],
)
def test_any_other_expiry_is_refused(value: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        batch_rules.expiry(value, "p")

    assert caught.value.param == param


def test_metadata_goes_to_its_limits() -> None:
    pairs = {f"{n:064d}": "x" * 512 for n in range(16)}

    assert batch_rules.metadata(pairs) == pairs
    assert batch_rules.metadata(None) == {}


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ("text", "metadata"),
        ([], "metadata"),
        ({str(n): "" for n in range(17)}, "metadata"),
        ({"k" * 65: ""}, "metadata"),
        ({"k": "x" * 513}, "metadata.k"),
        ({"k": 1}, "metadata.k"),
        ({"k": None}, "metadata.k"),
        ({"k": {"deep": "x"}}, "metadata.k"),
    ],
)
def test_metadata_past_its_limits_is_refused(value: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        batch_rules.metadata(value)

    assert caught.value.param == param


@pytest.mark.parametrize(
    ("pairs", "priority"),
    [
        ({}, 0),
        ({"priority": "0"}, 0),
        ({"priority": "-100"}, -100),
        ({"priority": "100"}, 100),
        ({"priority": "+7"}, 7),
    ],
)
def test_a_priority_is_read_from_the_metadata(pairs: dict[str, str], priority: int) -> None:
    assert batch_rules.priority(pairs) == priority


@pytest.mark.parametrize("text", ["101", "-101", "high", "", "1.5", " 1", "99999999999999999999"])
def test_any_other_priority_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="-100 to 100"):
        batch_rules.priority({"priority": text})


@pytest.mark.parametrize(
    ("pairs", "deadline"),
    [
        ({}, NOW + 3600),
        ({"deadline": "1800000060"}, NOW + 60),
        ({"deadline": "2027-01-15T08:01:00Z"}, NOW + 60),
        ({"deadline": "2027-01-15T08:01:00"}, NOW + 60),
        ({"deadline": "2027-01-15T10:01:00+02:00"}, NOW + 60),
        ({"deadline": "2100-01-01"}, NOW + 3600),
        ({"deadline": "9" * 30}, NOW + 3600),
    ],
)
def test_lines_expire_at_the_end_of_the_window_or_at_an_earlier_deadline(
    pairs: dict[str, str], deadline: float
) -> None:
    assert batch_rules.deadline(pairs, NOW, 3600) == deadline


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "1800000000", "2027-01-15T07:59:59Z", "-1", "nan", "0001-01-01T00:00"]
)
def test_a_deadline_that_has_passed_or_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        batch_rules.deadline({"deadline": text}, NOW, 3600)

    assert caught.value.param == "metadata.deadline"
