"""The one table of statuses is complete, and what it makes looks like OpenAI's errors with LiteLLM's words."""

import orjson
import pytest

from api import errors as wire
from shared import errors
from shared.error_bodies import STATUS, body_of, status_of
from shared.errors import BY_CODE, AppError, from_wire


@pytest.mark.parametrize("code", BY_CODE)
def test_every_error_has_a_status(code: str) -> None:
    assert code in STATUS
    assert 400 <= STATUS[code].status <= 599


def test_no_row_is_left_over() -> None:
    assert set(STATUS) == set(BY_CODE)


@pytest.mark.parametrize("code", BY_CODE)
def test_every_error_survives_the_queue_and_has_an_answer(code: str) -> None:
    error = BY_CODE[code]("what happened", param="p", retry_after=1.5, provider="openai", status=418)

    returned = from_wire(orjson.loads(orjson.dumps(error.to_wire())))
    answer = wire.response(returned)

    assert type(returned) is BY_CODE[code]
    assert answer.status_code == status_of(error)
    body = orjson.loads(answer.body)["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert (body["code"], body["param"]) == (str(answer.status_code), "p")
    assert "what happened" in body["message"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UpstreamAuthentication("no", status=401), 401),
        (errors.UpstreamAuthentication("no", status=402), 402),
        (errors.UpstreamAuthentication("no", status=403), 403),
        (errors.UpstreamAuthentication("no"), 401),
        (errors.UpstreamBadRequest("no", status=413), 413),
        (errors.UpstreamBadRequest("no", status=422), 422),
        (errors.UpstreamBadRequest("no", status=200), 400),
        (errors.UpstreamServerError("no", status=418), 500),
        (errors.UpstreamRateLimited("no", status=409), 429),
    ],
)
def test_the_providers_status_is_passed_on_where_it_says_more(error: AppError, status: int) -> None:
    assert status_of(error) == status


def test_a_providers_error_names_its_class_and_the_provider() -> None:
    body = orjson.loads(body_of(errors.UpstreamRateLimited("slow down", provider="openai")))

    assert body["error"]["message"] == "litellm.RateLimitError: RateLimitError: OpenAIException - slow down"


def test_our_own_error_speaks_for_itself() -> None:
    body = orjson.loads(body_of(errors.UnknownModel("no such model")))

    assert body["error"]["message"] == "no such model"


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.1, "2"), (59.0, "59")])
def test_retry_after_is_in_whole_seconds_rounded_up(seconds: float, header: str) -> None:
    assert wire.response(errors.QueueFull("full", retry_after=seconds)).headers["retry-after"] == header


def test_a_wait_that_is_not_known_is_not_invented() -> None:
    assert "retry-after" not in wire.response(errors.QueueFull("full")).headers


def test_who_has_no_key_is_told_how_to_send_one() -> None:
    assert wire.response(errors.NotAuthenticated("who?")).headers["www-authenticate"] == "Bearer"
    assert "www-authenticate" not in wire.response(errors.PermissionDenied("no")).headers


def test_headers_of_the_job_stay_on_its_error() -> None:
    assert wire.response(errors.Unavailable("away"), {"x-headrace-job-id": "7"}).headers["x-headrace-job-id"] == "7"


def test_a_code_of_a_newer_process_is_an_internal_error() -> None:
    error = from_wire({"code": "from_the_future", "message": "new"})

    assert wire.response(error).status_code == 500
