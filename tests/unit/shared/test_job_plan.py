"""From a request to its job: deadlines, lanes and weights. What headers change is tested with the api's admission."""

import random
from typing import Any

import orjson
import pytest

from shared import chat_request
from shared.catalog import Catalog, Deployment
from shared.job_plan import ENDPOINTS, NO_WISHES, Caller, JobPlanner, Wishes, weight
from shared.jobs import Job, Lane

NOW = 1_000.0
CALLER = Caller(key="k", team="t", user="u")


def job(wishes: Wishes = NO_WISHES, caller: Caller = CALLER, **fields: Any) -> Job:
    body = orjson.dumps({"model": "chat", "messages": [{"role": "user", "content": "hello"}], **fields})
    planner = JobPlanner(Catalog([Deployment("d", "chat", "openai", "gpt")]), random.Random(7), "here", 600.0)
    return planner.job(chat_request.parse(body), body, caller, NOW, wishes)


def test_every_endpoint_of_batches_is_one_that_requests_can_be_parsed_for() -> None:
    assert set(ENDPOINTS.values()) == {chat_request.Envelope.endpoint}


def test_a_plain_request_becomes_a_transient_interactive_job_of_its_caller() -> None:
    plain = job()

    assert (plain.durable, plain.lane, plain.start_by) == (False, Lane.INTERACTIVE, 0.0)
    assert (plain.key, plain.team, plain.user, plain.reply_to) == ("k", "t", "u", "here")


@pytest.mark.parametrize(
    ("field", "header", "customer"),
    [(None, "", ""), ("somebody", "", "somebody"), (None, "other", "other"), ("somebody", "other", "other")],
)
def test_the_customer_is_whom_the_request_names_and_the_user_whom_the_key_belongs_to(
    field: str | None, header: str, customer: str
) -> None:
    planned = job(Wishes(customer=header), user=field)

    assert (planned.customer, planned.user) == (customer, "u")


def test_a_customers_name_is_bounded_and_fit_for_a_database() -> None:
    assert job(user="a\0b" + "x" * 1000).customer == "ab" + "x" * 254


def test_tags_of_the_key_are_among_the_jobs_however_many_others_there_are() -> None:
    tags = job(caller=Caller("k", tags=("mine", "a")), tags=["a", *map(str, range(100))]).tags

    assert (tags[:3], len(tags)) == (("mine", "a", "0"), 50)


@pytest.mark.parametrize(
    ("wishes", "seconds"),
    [
        (NO_WISHES, 600.0),
        (Wishes(idempotency_key="x"), 600.0),
        (Wishes(respond_async=True), 86_400.0),
        (Wishes(wait=5.0), 86_400.0),
        (Wishes(respond_async=True, timeout=30.0), 30.0),
    ],
)
def test_who_does_not_wait_for_the_end_has_a_day(wishes: Wishes, seconds: float) -> None:
    assert job(wishes).deadline == NOW + seconds


@pytest.mark.parametrize(
    ("asked", "of_the_key", "wishes", "start_by"),
    [
        (None, None, {}, 0.0),
        (5.0, None, {}, NOW + 5),
        (None, 3.0, {}, NOW + 3),
        (5.0, 3.0, {}, NOW + 3),
        (2.0, 3.0, {}, NOW + 2),
        (None, 3.0, {"respond_async": True}, 0.0),
        (5.0, 3.0, {"respond_async": True}, NOW + 5),
    ],
)
def test_the_shortest_patience_counts_and_a_keys_own_is_for_clients_that_wait(
    asked: float | None, of_the_key: float | None, wishes: dict[str, Any], start_by: float
) -> None:
    planned = job(Wishes(max_queue_wait=asked, **wishes), Caller("k", max_queue_wait=of_the_key))

    assert planned.start_by == start_by


def test_the_keys_patience_counts_without_any_wish() -> None:
    assert job(NO_WISHES, Caller("k", max_queue_wait=3.0)).start_by == NOW + 3


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [({"max_tokens": 10}, 10), ({}, 1024), ({"max_tokens": 10, "max_completion_tokens": 20, "n": 2}, 40)],
)
def test_a_jobs_weight_is_its_prompt_and_the_most_that_may_be_written(fields: dict[str, Any], tokens: int) -> None:
    body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 800}], **fields})

    assert weight(chat_request.parse(body), body) == tokens + len(body) // 4
