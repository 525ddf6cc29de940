"""The lines of output and error files are OpenAI's, one line each whatever the answer looks like."""

from typing import Any

import orjson
import pytest

from shared.batch_lines import output_line
from shared.errors import UpstreamBadRequest, UpstreamRateLimited
from shared.jobs import Ending, JobState

JOB = "01890a5d-ac96-774b-bcce-b302099a8057"


def line(ending: Ending, custom_id: str = "mine") -> dict[str, Any]:
    written = output_line(custom_id, 7, ending)
    assert written.count(b"\n") == 1 and written.endswith(b"\n")
    row: dict[str, Any] = orjson.loads(written)
    return row


def test_a_completed_line_carries_the_answer_as_it_came() -> None:
    answer = b'{"id": "chatcmpl-1", "big": 123456789012345678901234567890, "text": "a\\nb"}'

    row = line(Ending(JOB, JobState.COMPLETED, 1.0, 1, answer))

    assert b'"big": 123456789012345678901234567890' in output_line(
        "mine", 7, Ending(JOB, JobState.COMPLETED, 1.0, 1, answer)
    )
    assert row["id"] == "batch_req_01890a5dac96774bbcceb302099a8057"
    assert row["response"] == {"status_code": 200, "request_id": JOB, "body": orjson.loads(answer)}
    assert set(row) == {"id", "custom_id", "response", "error"}
    assert (row["custom_id"], row["error"]) == ("mine", None)


@pytest.mark.parametrize("answer", [b'{\n  "a": "x"\n}\n', b'{\r\n"a": "x"}'])
def test_an_answer_of_several_lines_becomes_one(answer: bytes) -> None:
    row = line(Ending(JOB, JobState.COMPLETED, 1.0, 1, answer))

    assert row["response"]["body"] == {"a": "x"}


def test_an_answer_that_is_missing_is_null() -> None:
    assert line(Ending(JOB, JobState.COMPLETED, 1.0, 1))["response"]["body"] is None


@pytest.mark.parametrize(
    ("error", "status"),
    [(UpstreamBadRequest("no", provider="openai", status=422), 422), (UpstreamRateLimited("slow"), 429)],
)
def test_a_failed_line_carries_the_error_that_a_client_would_have_got(error: Any, status: int) -> None:
    row = line(Ending(JOB, JobState.FAILED, 1.0, 1, error=error.to_wire()))

    assert row["response"]["status_code"] == status
    assert error.message in row["response"]["body"]["error"]["message"]
    assert row["error"] is None


@pytest.mark.parametrize(
    ("state", "code"), [(JobState.EXPIRED, "batch_expired"), (JobState.CANCELLED, "batch_cancelled")]
)
def test_a_line_that_never_ran_says_why(state: JobState, code: str) -> None:
    row = line(Ending(JOB, state, 1.0, 0, error={"code": "cancelled", "message": "m"}))

    assert row["response"] is None
    assert row["error"]["code"] == code and row["error"]["message"]


def test_a_bad_line_without_a_custom_id_is_found_by_its_number() -> None:
    row = line(Ending(JOB, JobState.FAILED, 1.0, 0), custom_id="")

    assert (row["custom_id"], row["line"]) == (None, 7)


def test_a_bad_line_carries_openais_code_for_what_is_wrong_with_it() -> None:
    error = UpstreamBadRequest("broken").to_wire() | {"line_code": "invalid_json_line"}

    row = line(Ending(JOB, JobState.FAILED, 1.0, 0, error=error))

    assert row["response"]["status_code"] == 400
    assert row["response"]["body"]["error"]["code"] == "invalid_json_line"
