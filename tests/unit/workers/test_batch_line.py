"""What a line of a batch must be, and what is said of one that is not."""

from typing import Any

import orjson
import pytest

from tests.fakes.batching import ENDPOINT, a_line
from workers import batch_line
from workers.batch_line import BadLine


def parse(line: Any) -> batch_line.LineRequest:
    return batch_line.parse(line if line is None or isinstance(line, bytes) else orjson.dumps(line), ENDPOINT)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in a_line(1).items() if key != name}


def test_a_good_line_is_its_custom_id_and_the_json_of_its_body() -> None:
    request = parse(a_line(1, body={"seed": 7}))

    assert request.custom_id == "line-1"
    assert orjson.loads(request.body) == a_line(1, body={"seed": 7})["body"]
    assert request.envelope.model == "echo"


@pytest.mark.parametrize(
    ("line", "code", "param", "custom_id"),
    [
        (b"{not json", "invalid_json_line", None, ""),
        (b"\xff\xfe", "invalid_json_line", None, ""),
        (b"[1]", "invalid_json_line", None, ""),
        (b"7", "invalid_json_line", None, ""),
        (None, "line_too_long", None, ""),
        (without("custom_id"), "missing_required_parameter", "custom_id", ""),
        (a_line(1, custom_id=""), "missing_required_parameter", "custom_id", ""),
        (a_line(1, custom_id=1), "invalid_type", "custom_id", ""),
        (a_line(1, custom_id="x" * 513), "invalid_value", "custom_id", ""),
        (without("method"), "missing_required_parameter", "method", "line-1"),
        (without("url"), "missing_required_parameter", "url", "line-1"),
        (without("body"), "missing_required_parameter", "body", "line-1"),
        (a_line(1, method="GET"), "invalid_method", "method", "line-1"),
        (a_line(1, method=5), "invalid_method", "method", "line-1"),
        (a_line(1, url="/v1/nonsense"), "invalid_url", "url", "line-1"),
        (a_line(1, url=["x"]), "invalid_url", "url", "line-1"),
        (a_line(1, body="text"), "invalid_type", "body", "line-1"),
        (a_line(1, body={"stream": True}), "invalid_value", "body.stream", "line-1"),
        (a_line(1, body={"model": None}), "invalid_request", "body.model", "line-1"),
        (a_line(1, body={"messages": []}), "invalid_request", "body.messages", "line-1"),
        (a_line(1, body={"temperature": 9}), "invalid_request", "body.temperature", "line-1"),
        (a_line(1, body={"messages": [{}]}), "missing_required_parameter", "body.messages[0].role", "line-1"),
    ],
)  # fmt: skip
def test_a_bad_line_says_what_is_wrong_with_it(line: Any, code: str, param: str | None, custom_id: str) -> None:
    with pytest.raises(BadLine) as caught:
        parse(line)

    assert (caught.value.code, caught.value.error.param, caught.value.custom_id) == (code, param, custom_id)
    assert caught.value.to_wire()["line_code"] == code


def test_a_url_of_another_endpoint_is_not_the_batchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_line, "ENDPOINTS", {ENDPOINT: "chat.completions", "/v1/embeddings": "embeddings"})

    with pytest.raises(BadLine) as caught:
        parse(a_line(1, url="/v1/embeddings"))

    assert caught.value.code == "mismatched_endpoint"


def test_a_body_nested_too_deeply_is_a_bad_line() -> None:
    deep = b'{"custom_id": "d", "method": "POST", "url": "%s", "body": {"x": %s}}'
    line = deep % (ENDPOINT.encode(), b"[" * 300 + b"]" * 300)

    with pytest.raises(BadLine) as caught:
        parse(line)

    assert caught.value.custom_id == "d"


def test_stream_false_is_fine() -> None:
    assert parse(a_line(1, body={"stream": False})).envelope.stream is False


@pytest.mark.parametrize(("text", "verdict"), [(b"{}", True), (b"[]", False), (b"x", False), (None, False)])
def test_only_objects_count_as_lines_of_a_batch(text: bytes | None, verdict: bool) -> None:
    assert batch_line.is_json_object(text) is verdict
