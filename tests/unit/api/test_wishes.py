"""What headers ask for: which names and values count, and that a wrong one is refused by its name."""

import pytest

from api import wishes
from shared.errors import InvalidRequest
from shared.job_plan import DEFAULT_RESULT_TTL, NO_WISHES
from shared.jobs import Lane
from shared.settings import Settings

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def settings(**given: object) -> Settings:
    return Settings(_env_file=None, **given)  # type: ignore[call-arg,arg-type]


def test_a_plain_request_wishes_for_nothing_and_costs_nothing() -> None:
    plain = {"host": "h", "authorization": "Bearer sk-x", "content-type": "application/json", "x-headrace-unknown": "1"}

    assert wishes.of(plain) is NO_WISHES


@pytest.mark.parametrize(
    ("prefer", "respond_async", "wait"),
    [
        ("respond-async", True, None),
        ("Respond-Async", True, None),
        ("wait=10", False, 10.0),
        ("respond-async, wait=10", True, 10.0),
        ("wait=10,respond-async", True, 10.0),
        ('respond-async; foo="a, wait=3", wait="7"', True, 7.0),
        ("wait = 10", False, 10.0),
        ("wait=0.5", False, 0.5),
        ("wait=600", False, 600.0),
        ("wait=1, wait=2", False, 1.0),
        ("return=minimal, handling=lenient", False, None),
        ("", False, None),
        (",,;=", False, None),
    ],
)
def test_preferences_are_read_as_rfc_7240_writes_them(prefer: str, respond_async: bool, wait: float | None) -> None:
    found = wishes.of({"prefer": prefer})

    assert (found.respond_async, found.wait) == (respond_async, wait)


@pytest.mark.parametrize(
    ("headers", "durable", "lane"),
    [
        ({"prefer": "respond-async"}, True, Lane.BATCH),
        ({"prefer": "respond-async, wait=5"}, True, Lane.INTERACTIVE),
        ({"prefer": "wait=5"}, True, Lane.INTERACTIVE),
        ({"prefer": "return=minimal"}, False, Lane.INTERACTIVE),
        ({"x-headrace-on-disconnect": "continue"}, True, Lane.INTERACTIVE),
        ({"x-headrace-on-disconnect": "cancel"}, False, Lane.INTERACTIVE),
        ({"idempotency-key": "k"}, True, Lane.INTERACTIVE),
        ({"x-headrace-dedupe": "body"}, True, Lane.INTERACTIVE),
        ({"x-headrace-webhook": "https://example.org"}, True, Lane.INTERACTIVE),
        ({"x-litellm-timeout": "5"}, False, Lane.INTERACTIVE),
    ],
)
def test_what_may_outlive_its_connection_is_durable(headers: dict[str, str], durable: bool, lane: Lane) -> None:
    found = wishes.of(headers)

    assert (found.durable, found.lane) == (durable, lane)


def test_what_is_not_said_has_its_default() -> None:
    found = wishes.of({"idempotency-key": "k"})

    assert (found.priority, found.result_ttl, found.max_queue_wait) == (0, DEFAULT_RESULT_TTL, None)


def test_numbers_are_read_at_the_edges_of_their_ranges() -> None:
    found = wishes.of(
        {"x-headrace-priority": "-100", "x-headrace-result-ttl": "2592000", "x-headrace-max-queue-wait": "0.001"}
    )

    assert (found.priority, found.result_ttl, found.max_queue_wait) == (-100, 2_592_000.0, 0.001)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prefer", "wait=0"),
        ("prefer", "wait=-1"),
        ("prefer", "wait=601"),
        ("prefer", "wait=soon"),
        ("prefer", "wait"),
        ("prefer", "wait=nan"),
        ("idempotency-key", ""),
        ("idempotency-key", "k" * 256),
        ("idempotency-key", "a\tb"),
        ("x-headrace-dedupe", "all"),
        ("x-headrace-on-disconnect", "hang"),
        ("x-headrace-priority", "101"),
        ("x-headrace-priority", "1.5"),
        ("x-headrace-result-ttl", "59"),
        ("x-headrace-result-ttl", "2592001"),
        ("x-headrace-max-queue-wait", "0"),
        ("x-headrace-max-queue-wait", "86401"),
        ("x-headrace-max-queue-wait", "inf"),
        ("x-litellm-timeout", "soon"),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_the_name_of_its_header(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        wishes.of({name: value})

    assert caught.value.param == name
    assert name in caught.value.message


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("https://example.org/hook", {}),
        ("http://127.0.0.1/hook", {"webhook_secret": SECRET}),
        ("ftp://example.org", {"webhook_secret": SECRET}),
        ("", {"webhook_secret": SECRET}),
    ],
)
def test_a_webhook_that_would_never_be_called_is_refused(url: str, given: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        wishes.check_webhook(url, settings(**given))

    assert caught.value.param == "x-headrace-webhook"


def test_a_public_webhook_is_fine_once_messages_can_be_signed() -> None:
    wishes.check_webhook("https://example.org/hook?a=b", settings(webhook_secret=SECRET))
