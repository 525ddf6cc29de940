"""When to come back, and what is left, in every form that vendors use (F16 and F17 of the fault catalogue)."""

from email.utils import formatdate

import pytest

from workers.hints import RateHeaders, rate_headers, retry_after

NOW = 1_767_268_800.0  # 2026-01-01T12:00:00Z


def date(seconds: float) -> str:
    return formatdate(NOW + seconds, usegmt=True)


FORMS = [
    ({}, None),
    # Retry-After
    ({"retry-after": "3"}, 3.0),
    ({"retry-after": "1.5"}, 1.5),
    ({"retry-after": "0"}, 0.0),
    ({"retry-after": "-5"}, 0.0),
    ({"retry-after": "86400"}, 3600.0),
    ({"retry-after": " 7 "}, 7.0),
    ({"retry-after": "120s"}, 120.0),
    ({"retry-after": "1m30s"}, 90.0),
    ({"retry-after": "inf"}, 3600.0),
    ({"retry-after": "nan"}, None),
    ({"retry-after": ""}, None),
    ({"retry-after": "soon"}, None),
    ({"retry-after": "\u0663"}, 3.0),
    ({"retry-after": date(3)}, 3.0),
    ({"retry-after": date(-3600)}, 0.0),
    ({"retry-after": "Fri, 99 Foo 2026 99:99:99 GMT"}, None),
    ({"retry-after": "Thu, 01 Jan 99999 12:00:00 GMT"}, None),
    ({"retry-after": "Thu, 01 Jan 2026 12:00:07 -0000"}, 7.0),
    # Milliseconds win over seconds
    ({"retry-after-ms": "700"}, 0.7),
    ({"x-ms-retry-after-ms": "250"}, 0.25),
    ({"retry-after-ms": "700", "retry-after": "5"}, 0.7),
    ({"retry-after-ms": "garbage", "retry-after": "5"}, 5.0),
    # Reset headers: the smallest
    ({"x-ratelimit-reset-requests": "1.2s"}, 1.2),
    ({"x-ratelimit-reset-requests": "1m30s"}, 90.0),
    ({"x-ratelimit-reset-tokens": "120ms"}, 0.12),
    ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-reset-tokens": "4s"}, 4.0),
    ({"x-ratelimit-reset": "6"}, 6.0),
    ({"x-ratelimit-reset": str(int(NOW) + 30)}, 30.0),
    ({"x-ratelimit-reset": str(int(NOW + 30) * 1000)}, 30.0),
    ({"x-ratelimit-reset-requests": "1h2m3s"}, 3600.0),
    ({"x-ratelimit-reset-requests": "1d"}, 3600.0),
    ({"x-ratelimit-reset-requests": "-"}, None),
    ({"anthropic-ratelimit-requests-reset": "2026-01-01T12:00:09Z"}, 9.0),
    ({"anthropic-ratelimit-tokens-reset": "2026-01-01T11:00:00Z"}, 0.0),
    ({"retry-after": "garbage", "x-ratelimit-reset-requests": "2s"}, 2.0),
]


@pytest.mark.parametrize(("headers", "seconds"), FORMS, ids=lambda each: str(each))
def test_every_form_of_a_hint_is_understood(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("skew", [600.0, -600.0])
def test_a_date_is_measured_by_the_answers_own_clock(skew: float) -> None:
    headers = {"retry-after": date(skew + 3), "date": date(skew)}

    assert retry_after(headers, NOW) == 3.0


@pytest.mark.parametrize("skew", [600.0, -600.0])
@pytest.mark.parametrize("name", ["x-ratelimit-reset", "anthropic-ratelimit-requests-reset"])
def test_a_reset_time_is_measured_by_the_answers_own_clock(name: str, skew: float) -> None:
    then = int(NOW + skew + 3)
    value = str(then) if name == "x-ratelimit-reset" else f"2026-01-01T{'12:10:03' if skew > 0 else '11:50:03'}Z"

    assert retry_after({name: value, "date": date(skew)}, NOW) == pytest.approx(3.0)


def test_a_broken_date_of_the_answer_does_not_spoil_the_hint() -> None:
    assert retry_after({"retry-after": date(3), "date": "yesterday"}, NOW) == 3.0


def test_openais_account_of_its_buckets_is_read() -> None:
    said = rate_headers({
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-limit-tokens": "30000",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-remaining-tokens": "29990.0",
    })  # fmt: skip

    assert said == RateHeaders(500, 30_000, 499, 29_990)


def test_anthropics_account_of_its_buckets_is_read() -> None:
    said = rate_headers({
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-tokens-limit": "40000",
    })  # fmt: skip

    assert said == RateHeaders(50, 40_000, 0, None)


@pytest.mark.parametrize("garbage", ["", "-1", "nan", "many", "1e300"])
def test_a_limit_that_is_no_count_is_not_believed(garbage: str) -> None:
    assert rate_headers({"x-ratelimit-limit-requests": garbage}) == RateHeaders(None, None, None, None)


def test_without_these_headers_nothing_was_said() -> None:
    assert rate_headers({"content-type": "application/json"}) is None
