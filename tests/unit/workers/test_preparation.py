"""From a job to an adapter's call: whose parameters win, what never leaves, and how much is reserved."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from shared.catalog import Deployment
from shared.errors import InvalidRequest
from shared.jobs import Job, Leg
from workers import preparation

DEPLOYMENT = Deployment("d", "chat", "openai", "gpt")

MESSAGES = [{"role": "user", "content": "hello"}]


def prepared(request: dict[str, Any], **params: Any) -> dict[str, Any]:
    """The body that the adapter gets, without the messages."""
    request = {"messages": MESSAGES, **request}
    deployment = Deployment("d", "chat", "openai", "gpt", params=params)
    body = preparation.call(a_job(request), request, deployment, 1.0).body
    return {name: value for name, value in body.items() if name != "messages"}


def a_job(request: dict[str, Any], **fields: Any) -> Job:
    route = (Leg("openai", "chat", ("d",)),)
    return Job("7", "chat.completions", "chat", route, orjson.dumps(request), "", 0.0, 60.0, **fields)


def test_the_clients_parameters_win_over_the_deployments() -> None:
    assert prepared({"temperature": 1}, temperature=0, top_p=0.5) == {"temperature": 1, "top_p": 0.5}


@pytest.mark.parametrize("name", sorted(preparation._BROKER_FIELDS - {"mock_response"}))
def test_what_is_meant_for_the_broker_never_leaves_it(name: str) -> None:
    assert prepared({name: "x", "seed": 1}) == {"seed": 1}
    assert prepared({"seed": 1}, **{name: "x"}) == {"seed": 1}


@pytest.mark.parametrize(
    ("store", "kept"),
    [({}, {}), ({"store": False}, {"store": False}), ({"store": True}, {"store": True, "metadata": {"a": "b"}})],
)
def test_metadata_travels_with_stored_completions_only(store: dict[str, Any], kept: dict[str, Any]) -> None:
    assert prepared({"metadata": {"a": "b"}, **store}) == kept


def test_the_request_itself_is_not_changed() -> None:
    request = {"messages": MESSAGES, "timeout": 3, "metadata": {}}

    preparation.call(a_job(request), request, Deployment("d", "chat", "openai", "gpt"), 1.0)

    assert request == {"messages": MESSAGES, "timeout": 3, "metadata": {}}


def test_the_answers_name_and_time_come_from_the_job() -> None:
    job = a_job({"messages": MESSAGES}, headers_in={"anthropic-beta": "x"})

    call = preparation.call(job, {"messages": MESSAGES}, Deployment("d", "chat", "openai", "gpt"), 12.9)

    assert (call.id, call.created, call.client_headers) == ("chatcmpl-7", 12, {"anthropic-beta": "x"})


def test_a_mock_response_is_answered_by_the_simulated_model() -> None:
    request = {"messages": MESSAGES, "mock_response": "hi"}
    deployment = Deployment("d", "chat", "openai", "gpt", api_base="https://real", headers={"x": "y"})

    call = preparation.call(a_job(request), request, deployment, 1.0)

    assert (call.deployment.provider, call.deployment.api_base, dict(call.deployment.headers)) == ("simulated", "", {})
    assert call.body["simulated"] == {"reply": "hi"}
    assert "mock_response" not in call.body


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        preparation.parse(body)


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        ({}, 1024),
        ({"max_tokens": 10}, 10),
        ({"max_tokens": 10, "max_completion_tokens": 20}, 20),
        ({"max_tokens": None}, 1024),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"n": None}, 1024),
    ],
)
def test_the_reservation_holds_the_most_that_may_be_written(request_: dict[str, Any], tokens: int) -> None:
    assert preparation.most_output(request_, DEPLOYMENT) == tokens


def test_a_deployments_own_maximum_holds_unless_the_request_sets_one() -> None:
    deployment = replace(DEPLOYMENT, params={"max_tokens": 50})

    assert preparation.most_output({}, deployment) == 50
    assert preparation.most_output({"max_tokens": 7}, deployment) == 7
