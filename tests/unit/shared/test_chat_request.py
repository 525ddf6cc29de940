"""The envelope: what must hold, which field is to blame, and that all else passes."""

from typing import Any

import orjson
import pytest

from shared import chat_request
from shared.errors import InvalidRequest

HELLO = [{"role": "user", "content": "hello"}]


def parse(**fields: Any) -> chat_request.Envelope:
    return chat_request.parse(orjson.dumps({"model": "chat", "messages": HELLO, **fields}))


def blamed(body: bytes) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        chat_request.parse(body)
    return caught.value.param


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 2, "top_p": 0, "n": 128, "presence_penalty": -2, "top_logprobs": 20},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
        {"messages": [{"role": "developer", "content": "x", "name": "y", "anything": 1}]},
        {"stop": ["a", "b"]},
        {"tool_choice": {"type": "function"}},
        {"fallbacks": ["a", {"model": "b"}]},
        {"something_new": {"deep": [1, 2]}},
        {"stream": None, "max_tokens": None, "temperature": None},
    ],
)
def test_what_openai_takes_is_taken(fields: dict[str, Any]) -> None:
    parse(**fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [*HELLO, {"role": "robot", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "no type"}]}]}, "messages[0].content"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"model": "x" * 513}, "model"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"tools": {}}, "tools"),
        ({"stop": 7}, "stop"),
        ({"timeout": 0}, "timeout"),
        ({"num_retries": -1}, "num_retries"),
        ({"metadata": []}, "metadata"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    assert blamed(orjson.dumps({"model": "chat", "messages": HELLO, **fields})) == param


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(missing: str) -> None:
    body = {"model": "chat", "messages": HELLO}
    del body[missing]

    assert blamed(orjson.dumps(body)) == missing


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"model": NaN}'])
def test_what_is_no_json_object_is_blamed_on_the_body(body: bytes) -> None:
    assert blamed(body) == "request_body"


def test_the_paths_model_fills_in_for_a_missing_one_only() -> None:
    without = orjson.dumps({"messages": HELLO})

    assert chat_request.parse(without, "from-path").model == "from-path"
    assert chat_request.parse(orjson.dumps({"model": "own", "messages": HELLO}), "from-path").model == "own"


def test_the_prompt_is_not_repeated_in_an_error() -> None:
    secret = "my secret prompt " * 20
    with pytest.raises(InvalidRequest) as caught:
        parse(messages=[{"role": "user", "content": [{"text": secret}]}])

    assert "secret" not in caught.value.message


def test_a_wrong_value_is_repeated_in_short() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(temperature="x" * 10_000)

    assert len(caught.value.message) < 400


@pytest.mark.parametrize("depth", [300, 900])
def test_what_a_worker_could_not_write_again_is_refused(depth: int) -> None:
    bomb = (
        b'{"model": "chat", "messages": [{"role": "user", "content": "x"}], "x": ' + b"[" * depth + b"]" * depth + b"}"
    )

    assert blamed(bomb) == "request_body"


def test_many_brackets_side_by_side_are_no_bomb() -> None:
    parse(tools=[{"type": "function", "function": {"name": f"f{number}"}} for number in range(200)])
