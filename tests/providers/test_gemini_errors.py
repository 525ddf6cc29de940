"""Google's error objects as our errors."""

from typing import Any

import orjson
import pytest

from shared import errors
from tests.providers.gemini_wire import fixture
from workers.providers.gemini import GEMINI


def described(status: int, message: str, name: str = "", **fields: Any) -> bytes:
    return orjson.dumps({"error": {"code": status, "message": message, "status": name, **fields}})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.UpstreamBadRequest),
        (401, errors.UpstreamAuthentication),
        (402, errors.UpstreamAuthentication),
        (403, errors.UpstreamAuthentication),
        (404, errors.UpstreamNotFound),
        (408, errors.UpstreamTimeout),
        (413, errors.UpstreamBadRequest),
        (429, errors.UpstreamRateLimited),
        (499, errors.UpstreamServerError),
        (500, errors.UpstreamServerError),
        (502, errors.UpstreamUnreachable),
        (503, errors.UpstreamOverloaded),
        (504, errors.UpstreamTimeout),
        (599, errors.UpstreamServerError),
    ],
)
@pytest.mark.parametrize("body", [described(0, "why"), b"<html>no</html>", b"", b"null", b"[]", b'{"error": "why"}'])
def test_status_decides_whatever_the_body(status: int, kind: type[errors.UpstreamError], body: bytes) -> None:
    error = GEMINI.error(status, {}, body)

    assert type(error) is kind
    assert error.status == status
    assert error.provider == "gemini"
    assert error.message


def test_bad_key_is_an_authentication_error_although_google_says_400() -> None:
    error = GEMINI.error(400, {}, fixture("error_bad_key.json"))

    assert type(error) is errors.UpstreamAuthentication
    assert error.status == 401
    assert error.message == "API key not valid. Please pass a valid API key."


def test_daily_quota_is_a_rate_limit_with_googles_own_delay() -> None:
    error = GEMINI.error(429, {}, fixture("error_daily_quota.json"))

    assert type(error) is errors.UpstreamRateLimited
    assert error.retry_after == 38.5


@pytest.mark.parametrize("delay", ["", "soon", None, 7])
def test_unreadable_delay_is_none(delay: Any) -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}]

    assert GEMINI.error(429, {}, described(429, "slow down", details=details)).retry_after is None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (fixture("error_too_long.json"), errors.UpstreamContextWindowExceeded),
        (described(400, "quota", "RESOURCE_EXHAUSTED"), errors.UpstreamRateLimited),
        (described(400, "Deadline expired", "DEADLINE_EXCEEDED"), errors.UpstreamTimeout),
        (
            described(400, "API key expired. Please renew the API key.", "INVALID_ARGUMENT"),
            errors.UpstreamAuthentication,
        ),
        (described(400, "Invalid JSON payload received.", "INVALID_ARGUMENT"), errors.UpstreamBadRequest),
    ],
)
def test_400_says_what_it_is_in_its_text(body: bytes, kind: type[errors.UpstreamError]) -> None:
    assert type(GEMINI.error(400, {}, body)) is kind


@pytest.mark.parametrize("body", [b"x" * 9000, described(500, "x" * 9000)])
def test_message_is_bounded(body: bytes) -> None:
    assert GEMINI.error(500, {}, body).message == "x" * 2000
