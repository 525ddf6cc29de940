"""A key's limits, seen by its client: what is admitted, what a refusal and an answer say, and what is given back."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from api.auth import hashed
from broker.account_interfaces import AccountState
from broker.account_records import Actor, Entry, Kind
from broker.records import JobQuery, JobRecord, KeyRecord
from shared.accounts import key_account
from shared.jobs import JobState
from shared.management import Management
from tests.fakes.api import AUTHORIZED, Api, api
from tests.fakes.asgi import Exchange
from tests.fakes.seams import until

TEXT = "sk-limited-1234"
HEADERS = {"authorization": f"Bearer {TEXT}"}
ASYNC = {"prefer": "respond-async"}
TEST = Actor("test")


@dataclass
class Limited:
    """An api, and one key with limits."""

    api: Api

    async def key(self, text: str = TEXT, **fields: Any) -> None:
        record = KeyRecord(hashed(text), f"sk-...{text[-4:]}", alias="mine", fields=fields)
        assert await self.api.backends.store.keys.add(record, TEST) == ""

    def chat(self, headers: dict[str, str] | None = None, **body: Any) -> Exchange:
        return self.api.chat(headers={**HEADERS, **(headers or {})}, **body)

    async def answered(self, **more: Any) -> Exchange:
        exchange = self.chat(**more)
        await self.api.completed(await self.api.next_job(), body=b"{}")
        return await exchange.finished()

    async def state(self) -> AccountState:
        (state,) = await self.api.backends.accounts.states([key_account(hashed(TEXT))])
        return state

    async def rows(self) -> list[JobRecord]:
        return await self.api.backends.store.jobs.find(JobQuery())


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Limited]:
    async with api(tmp_path) as running:
        yield Limited(running)


async def finished(state: Any, slots: int) -> None:
    async with asyncio.timeout(60):
        while (await state()).in_flight != slots:
            await asyncio.sleep(0.005)


async def test_a_job_of_a_key_without_limits_has_no_accounts(it: Limited) -> None:
    await it.key()
    exchange = it.chat()

    job = await it.api.next_job()
    await it.api.completed(job, body=b"{}")
    answer = await exchange.finished()

    assert (job.accounts, job.key, answer.status) == ((), hashed(TEXT), 200)
    assert not [name for name in answer.headers if "litellm-key" in name]


async def test_a_refusal_has_litellms_body_and_the_exact_wait(it: Limited) -> None:
    await it.key(rpm_limit=60)
    exchanges = [it.chat() for _ in range(60)]
    for _ in exchanges:
        await it.api.next_job()

    refused = await it.chat().finished()

    assert (refused.status, refused.error["type"], refused.error["code"]) == (429, "rate_limit_error", "429")
    assert (
        f"Rate limit exceeded for api_key: {hashed(TEXT)}. Limit type: requests. Current limit: 60, Remaining: 0"
        in (refused.error["message"])
    )
    assert (refused.headers["retry-after"], refused.headers["rate_limit_type"]) == ("1", "requests")
    assert refused.headers["reset_at"].endswith(" UTC")
    assert refused.headers["x-litellm-key-rpm-limit"] == "60"


async def test_a_budget_that_is_used_up_has_the_configured_status(tmp_path: Path) -> None:
    async with api(tmp_path) as running:
        it = Limited(running)
        gate = running.app._app.state.context.admission.gate  # type: ignore[attr-defined]
        await it.key(max_budget=0)

        default = await it.chat().finished()
        gate._budget_status = Management(budget_exceeded_status_code=429).budget_exceeded_status_code
        configured = await it.chat().finished()

    assert (default.status, default.error["type"], default.error["code"]) == (422, "budget_exceeded", "422")
    assert default.error["message"] == (
        "Budget has been exceeded! Key=mine (sk-...1234) Current cost: 0.0, Max budget: 0.0"
    )
    assert (configured.status, configured.error["code"]) == (429, "429")


async def test_an_answer_says_what_the_key_has_left(it: Limited) -> None:
    await it.key(rpm_limit=60, tpm_limit=60_000, max_budget=2)

    answer = await it.answered(max_tokens=10)

    headers = answer.headers
    assert answer.status == 200
    assert {name: headers[f"x-litellm-key-{name}"] for name in ("rpm-limit", "tpm-limit", "max-budget", "spend")} == {
        "rpm-limit": "60", "tpm-limit": "60000", "max-budget": "2.0", "spend": "0.0",
    }  # fmt: skip
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("60", "59")
    assert headers["x-ratelimit-reset-requests"] == "1s"
    assert 59_900 < int(headers["x-ratelimit-remaining-tokens"]) < 60_000
    assert headers["x-ratelimit-api_key-remaining-requests"] == "59"


async def test_a_model_that_the_key_may_not_call_is_refused_before_anything_is_taken(it: Limited) -> None:
    await it.key(models=["any/*"], rpm_limit=60)

    refused = await it.chat().finished()

    assert (refused.status, refused.error["type"], refused.error["param"]) == (403, "key_model_access_denied", "model")
    assert (await it.state()).requests is None


async def test_only_what_the_key_may_call_is_listed_and_its_aliases(it: Limited) -> None:
    await it.key(models=["chat"], aliases={"mine": "chat"})

    async def ids(headers: dict[str, str]) -> list[str]:
        return [each["id"] for each in (await it.api.ask("GET", "/v1/models", headers)).json["data"]]

    assert await ids(HEADERS) == ["chat", "mine"]
    assert await ids(AUTHORIZED) == ["chat", "any/*"]
    assert (await it.api.ask("GET", "/v1/models/mine", HEADERS)).status == 200
    assert (await it.api.ask("GET", "/v1/models/any/thing", HEADERS)).status == 404


async def test_an_alias_of_the_key_is_served(it: Limited) -> None:
    await it.key(aliases={"mine": "chat"})

    it.chat(model="mine")

    job = await it.api.next_job()
    assert (job.model, job.route[0].group) == ("mine", "chat")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/engines/chat/chat/completions", "/v1/models"])
async def test_a_route_that_the_key_may_not_call_is_refused(it: Limited, path: str) -> None:
    await it.key(allowed_routes=["/key/info"])

    answer = await it.api.ask("GET" if path == "/v1/models" else "POST", path, HEADERS, b"{}")

    assert (answer.status, answer.error["type"]) == (403, "auth_error")


async def test_a_blocked_key_is_refused_within_a_second_of_the_change(it: Limited) -> None:
    await it.key()
    await it.answered()

    await it.api.backends.store.keys.change(hashed(TEXT), _blocked, TEST, "blocked")
    await it.api.log.announce_change(key_account(hashed(TEXT)))
    refused = await it.chat().finished()

    assert (refused.status, refused.error["type"]) == (401, "auth_error")
    assert refused.error["message"].startswith("Authentication Error, Key is blocked.")


def _blocked(record: KeyRecord) -> KeyRecord:
    return replace(record, blocked=True)


@pytest.mark.parametrize("header", ["x-litellm-customer-id", "x-litellm-end-user-id"])
async def test_the_customer_may_stand_in_a_header(it: Limited, header: str) -> None:
    await it.key()

    it.chat({header: "c"}, user="other")

    job = await it.api.next_job()
    assert (job.customer, job.user) == ("c", "")


async def test_a_blocked_customer_is_refused(it: Limited) -> None:
    await it.key()
    await it.api.backends.store.directory.add([Entry(Kind.CUSTOMER, "c", fields={"blocked": True})], TEST)

    refused = await it.chat(user="c").finished()

    assert (refused.status, refused.error["type"]) == (401, "auth_error")


# What is given back


async def test_a_full_lane_gives_back_what_was_taken(tmp_path: Path) -> None:
    async with api(tmp_path, bound=0) as running:
        it = Limited(running)
        await it.key(max_parallel_requests=1)

        answer = await it.chat().finished()
        await finished(it.state, 0)

    assert answer.status == 429


async def test_a_full_lane_gives_back_what_a_background_job_took(tmp_path: Path) -> None:
    async with api(tmp_path, bound=0) as running:
        it = Limited(running)
        await it.key(max_parallel_requests=1)

        answer = await it.chat(ASYNC).finished()
        await finished(it.state, 0)

    assert answer.status == 429


# Durable jobs


async def test_a_background_job_is_admitted_and_its_row_knows_its_accounts(it: Limited) -> None:
    await it.key(max_parallel_requests=1)

    accepted = await it.chat(ASYNC).finished()
    refused = await it.chat(ASYNC).finished()

    (row,) = await it.rows()
    assert (accepted.status, refused.status) == (202, 429)
    assert row.job.accounts == (key_account(hashed(TEXT)),)
    assert (await it.state()).in_flight == 1


async def test_a_job_that_is_joined_to_an_earlier_one_is_not_admitted_again(it: Limited) -> None:
    await it.key(rpm_limit=1)
    headers = {**ASYNC, "idempotency-key": "once"}

    first = await it.chat(headers).finished()
    second = await it.chat(headers).finished()
    other = await it.chat({**ASYNC, "idempotency-key": "other"}).finished()

    assert (first.status, second.status, other.status) == (202, 202, 429)
    assert first.json["id"] == second.json["id"]


async def test_a_refused_job_lets_its_idempotency_key_go(it: Limited) -> None:
    await it.key(max_parallel_requests=1)
    await it.chat(ASYNC).finished()
    headers = {**ASYNC, "idempotency-key": "later"}
    refused = await it.chat(headers).finished()
    first = await it.api.next_job()

    await it.api.backends.accounts.finish(first.id, first.accounts, tokens=0, cost=0)
    again = await it.chat(headers).finished()

    assert (refused.status, again.status) == (429, 202)


@pytest.mark.parametrize("headers", [ASYNC, {**ASYNC, "idempotency-key": "k"}])
async def test_a_background_job_of_a_key_that_waits_stays_in_the_store_until_it_may_go(
    it: Limited, headers: dict[str, str]
) -> None:
    await it.key(max_parallel_requests=1, on_limit="wait")
    await it.chat(ASYNC).finished()

    accepted = await it.chat(headers).finished()

    waiting = next(row for row in await it.rows() if row.job.id == accepted.json["id"])
    assert accepted.status == 202
    assert waiting.state is JobState.QUEUED


# Keys that wait


async def test_a_request_of_a_key_that_waits_is_run_when_its_turn_comes(it: Limited) -> None:
    await it.key(max_parallel_requests=1, on_limit="wait")
    first, second = it.chat(), it.chat()
    job = await it.api.next_job()

    await it.api.backends.accounts.finish(job.id, job.accounts, tokens=0, cost=0)
    await it.api.completed(job, body=b'{"n":1}')
    next_job = await it.api.next_job()
    await it.api.completed(next_job, body=b'{"n":2}')

    answers = [await first.finished(), await second.finished()]
    assert [answer.status for answer in answers] == [200, 200]
    assert sorted(answer.json["n"] for answer in answers) == [1, 2]
    assert next_job.accounts == (key_account(hashed(TEXT)),)


async def test_a_request_whose_turn_would_come_too_late_is_refused_at_once(it: Limited) -> None:
    await it.key(rpm_limit=1, on_limit="wait")
    it.chat()
    await it.api.next_job()

    refused = await it.chat({"x-litellm-timeout": "5"}).finished()

    assert refused.status == 429
    assert 55 <= int(refused.headers["retry-after"]) <= 60


async def test_a_bug_while_a_request_waits_is_told_at_once(it: Limited, monkeypatch: pytest.MonkeyPatch) -> None:
    await it.key(max_parallel_requests=1, on_limit="wait")
    it.chat()
    await it.api.next_job()
    gate = it.api.app._app.state.context.admission.gate  # type: ignore[attr-defined]
    admit = gate.admit

    async def buggy(*args: Any, wait_until: float | None = None, **more: Any) -> Any:
        if wait_until is not None:
            raise ZeroDivisionError
        return await admit(*args, **more)

    monkeypatch.setattr(gate, "admit", buggy)
    async with asyncio.timeout(60):
        answer = await it.chat().finished()

    assert (answer.status, "its log says why" in answer.json["error"]["message"]) == (500, True)


async def test_a_client_that_leaves_while_it_waits_takes_nothing(it: Limited) -> None:
    await it.key(max_parallel_requests=1, on_limit="wait")
    it.chat()
    job = await it.api.next_job()
    gate = it.api.app._app.state.context.admission.gate  # type: ignore[attr-defined]
    waiting = it.chat(stream=True)
    await until(lambda: gate._waiting == 1)

    waiting.leave()
    await waiting.finished()
    await it.api.backends.accounts.finish(job.id, job.accounts, tokens=0, cost=0)

    assert (gate._waiting, (await it.state()).in_flight) == (0, 0)
