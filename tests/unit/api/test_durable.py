"""Jobs that outlive their connection: when 202 is said, what one execution is shared by, and what is kept when not."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.routes import chat
from broker.records import JobRecord
from shared.errors import Unavailable, UpstreamOverloaded
from shared.jobs import CLAIM_CHECK_BYTES, Ending, Job, JobState, Lane
from tests.fakes.api import Api, api

ASYNC = {"prefer": "respond-async"}


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path) as running:
        yield running


async def stored(it: Api, job_id: str) -> JobRecord:
    record = await it.backends.store.jobs.get(job_id, bodies=True)
    assert record is not None
    return record


async def finish(it: Api, job: Job, body: bytes = b'{"answer": 1}') -> None:
    """What a worker and the recorder do."""
    await it.completed(job, body=body)
    await it.backends.store.record([], [Ending(job.id, JobState.COMPLETED, job.accepted_at + 1, 1, answer=body)])


# Prefer


async def test_a_job_for_later_is_accepted_with_its_place(it: Api) -> None:
    exchange = await it.chat(headers=ASYNC).finished()

    job = await it.next_job()
    assert exchange.status == 202
    assert exchange.headers["location"] == f"/v1/jobs/{job.id}"
    assert exchange.headers["x-headrace-job-id"] == job.id
    assert exchange.headers["preference-applied"] == "respond-async"
    assert (exchange.json["id"], exchange.json["object"], exchange.json["status"]) == (job.id, "job", "queued")
    assert exchange.json["position"] == 0
    assert exchange.json["estimated_start"] == pytest.approx(job.accepted_at, abs=2)


async def test_the_job_is_on_the_batch_lane_and_its_row_holds_what_was_asked(it: Api) -> None:
    headers = {**ASYNC, "x-headrace-priority": "7", "x-headrace-result-ttl": "120"}

    exchange = await it.chat(headers=headers, user="u").finished()

    job = await it.next_job()
    record = await stored(it, exchange.json["id"])
    assert (job.durable, job.lane, job.deadline - job.accepted_at) == (True, Lane.BATCH, 86_400)
    assert (record.priority, record.result_ttl, record.job.customer, record.dispatches) == (7, 120, "u", 1)
    assert record.job.body == job.body
    assert record.weight > 1024


async def test_a_job_on_its_lane_is_noted_as_dispatched_soon(it: Api) -> None:
    exchange = await it.chat(headers=ASYNC).finished()

    async with asyncio.timeout(60):
        while (await stored(it, exchange.json["id"])).state is not JobState.DISPATCHED:
            await asyncio.sleep(0.01)


async def test_what_was_not_noted_yet_is_noted_on_shutdown(tmp_path: Path) -> None:
    async with api(tmp_path) as it:
        exchange = await it.chat(headers=ASYNC).finished()

    async with api(tmp_path) as it:
        assert (await stored(it, exchange.json["id"])).state is JobState.DISPATCHED


async def test_without_its_store_nothing_is_accepted(it: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise Unavailable("the database is away")

    monkeypatch.setattr(it.backends.store.jobs, "add", away)
    exchange = await it.chat(headers=ASYNC).finished()

    assert exchange.status == 503
    assert (await it.backends.queue.stats())[1].depth == 0


async def test_a_full_lane_refuses_the_job_for_good(tmp_path: Path) -> None:
    async with api(tmp_path, bound=1) as it:
        await it.worker.pause("openai", 60)
        await it.chat(headers=ASYNC).finished()

        refused = await it.chat(headers={**ASYNC, "idempotency-key": "k"}).finished()

        assert (refused.status, refused.error["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) >= 1
        listed = (await it.ask("GET", "/v1/jobs?status=failed")).json["data"]
        assert [job["error"]["code"] for job in listed] == ["429"]


async def test_a_refused_job_gives_its_idempotency_key_back(tmp_path: Path) -> None:
    async with api(tmp_path, bound=1) as it:
        await it.worker.pause("openai", 60)
        await it.chat(headers=ASYNC).finished()
        headers = {**ASYNC, "idempotency-key": "k"}
        await it.chat(headers=headers).finished()
        await it.worker.pause("openai", 0)
        await it.next_job()

        again = await it.chat(headers=headers).finished()

        assert again.status == 202
        assert "x-headrace-idempotent-replayed" not in again.headers


async def test_an_unconfirmed_job_is_accepted_for_the_reaper_will_find_it(
    it: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(job: Job, *, delay: float = 0.0) -> "asyncio.Future[None]":
        confirm = asyncio.get_running_loop().create_future()
        confirm.set_exception(Unavailable("RabbitMQ is away"))
        return confirm

    monkeypatch.setattr(it.queue, "publish", lost)
    exchange = await it.chat(headers=ASYNC).finished()

    assert exchange.status == 202
    assert (await stored(it, exchange.json["id"])).state is JobState.DISPATCHING


async def test_a_large_body_stays_in_the_store(it: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(job_id: str, body: bytes, ttl: float) -> None:
        raise Unavailable("Redis is away")

    monkeypatch.setattr(it.log, "put_body", away)
    exchange = await it.chat(headers=ASYNC, user="x" * CLAIM_CHECK_BYTES).finished()

    job = await it.next_job()
    assert (job.claim, job.body) == (True, b"")
    assert len((await stored(it, exchange.json["id"])).job.body) > CLAIM_CHECK_BYTES


async def test_a_wait_that_is_long_enough_gives_the_answer(it: Api) -> None:
    exchange = it.chat(headers={"prefer": "wait=30"})
    job = await it.next_job()
    await it.completed(job, body=b'{"answer": 1}')

    await exchange.finished()

    assert (job.lane, job.durable) == (Lane.INTERACTIVE, True)
    assert (exchange.status, exchange.json) == (200, {"answer": 1})


async def test_a_wait_that_is_over_gives_the_job_which_goes_on(it: Api) -> None:
    exchange = it.chat(headers={"prefer": "respond-async, wait=0.05"})
    job = await it.next_job()

    await exchange.finished()

    assert (exchange.status, exchange.json["id"]) == (202, job.id)
    assert not await it.log.is_cancelled(job.id, since=job.accepted_at)


async def test_an_error_within_the_wait_has_its_own_status(it: Api) -> None:
    exchange = it.chat(headers={"prefer": "wait=30"})
    await it.failed(await it.next_job(), UpstreamOverloaded("busy"))

    assert (await exchange.finished()).status == 503


@pytest.mark.parametrize(
    ("headers", "goes_on"),
    [
        ({"prefer": "wait=30"}, True),
        ({"x-headrace-on-disconnect": "continue"}, True),
        ({"idempotency-key": "k"}, True),
        ({"idempotency-key": "k", "x-headrace-on-disconnect": "cancel"}, False),
        ({"x-headrace-on-disconnect": "cancel"}, False),
    ],
)
async def test_when_the_client_leaves_its_wish_decides(it: Api, headers: dict[str, str], goes_on: bool) -> None:
    exchange = it.chat(headers=headers)
    job = await it.next_job()

    exchange.leave()
    await exchange.finished()

    assert await it.log.is_cancelled(job.id, since=job.accepted_at) is not goes_on


@pytest.mark.parametrize("headers", [{"prefer": "wait=soon"}, {"x-headrace-dedupe": "yes"}])
async def test_a_wish_that_means_nothing_is_a_400(it: Api, headers: dict[str, str]) -> None:
    exchange = await it.chat(headers=headers).finished()

    assert (exchange.status, exchange.error["param"]) == (400, next(iter(headers)))


def test_preferences_may_be_spread_over_several_headers() -> None:
    scope = {"headers": [(b"prefer", b"respond-async"), (b"a", b"b"), (b"prefer", b"wait=3")]}

    assert chat._headers(scope)["prefer"] == "respond-async,wait=3"


# Idempotency-Key

KEYED = {"idempotency-key": "order-7"}


async def test_two_requests_under_one_key_are_one_job_and_both_get_its_answer(it: Api) -> None:
    first = it.chat(headers=KEYED)
    job = await it.next_job()
    second = it.chat(headers=KEYED)
    await asyncio.sleep(0.05)
    await it.completed(job, body=b'{"answer": 1}')

    bodies = [(await each.finished()).body for each in (first, second)]

    assert bodies == [b'{"answer": 1}'] * 2
    assert second.headers["x-headrace-job-id"] == job.id
    assert second.headers["x-headrace-idempotent-replayed"] == "true"
    assert "x-headrace-idempotent-replayed" not in first.headers
    assert [lane.depth for lane in await it.queue.stats()] == [0, 0]


async def test_a_finished_jobs_answer_is_replayed(it: Api) -> None:
    first = it.chat(headers=KEYED)
    job = await it.next_job()
    await finish(it, job)
    await first.finished()

    second = await it.chat(headers=KEYED).finished()

    assert (second.status, second.body) == (200, b'{"answer": 1}')
    assert second.headers["x-headrace-idempotent-replayed"] == "true"


async def test_a_failure_is_replayed_as_the_failure_it_was(it: Api) -> None:
    first = it.chat(headers=KEYED)
    job = await it.next_job()
    error = UpstreamOverloaded("busy")
    await it.failed(job, error)
    await first.finished()
    ending = Ending(job.id, JobState.FAILED, job.accepted_at + 1, 1, error=error.to_wire())
    await it.backends.store.record([], [ending])

    second = await it.chat(headers=KEYED).finished()

    assert (second.status, second.body) == (first.status, first.body)


async def test_a_stream_is_joined_from_its_beginning(it: Api) -> None:
    first = it.chat(headers=KEYED, stream=True)
    job = await it.next_job()
    await it.chunk(job, 1, "one")
    await first.contains(b"one")
    second = it.chat(headers=KEYED, stream=True)
    await second.contains(b"one")
    await it.chunk(job, 2, "two")
    await it.completed(job, 3)

    await asyncio.gather(first.finished(), second.finished())

    assert first.body == second.body
    assert second.headers["x-headrace-idempotent-replayed"] == "true"


async def test_another_body_under_the_key_is_refused(it: Api) -> None:
    await it.chat(headers={**ASYNC, **KEYED}).finished()

    second = await it.chat(headers={**ASYNC, **KEYED}, user="somebody else").finished()

    assert (second.status, second.error["param"]) == (422, "idempotency-key")


async def test_keys_of_different_callers_do_not_meet(it: Api) -> None:
    made = (await it.ask("POST", "/key/generate", body=b"{}")).json["key"]
    first = await it.chat(headers={**ASYNC, **KEYED}).finished()

    other = await it.chat(headers={**ASYNC, **KEYED, "authorization": f"Bearer {made}"}).finished()

    assert (other.status, other.json["id"] != first.json["id"]) == (202, True)


async def test_the_second_request_may_prefer_another_way_to_get_the_answer(it: Api) -> None:
    first = it.chat(headers=KEYED)
    job = await it.next_job()

    later = await it.chat(headers={**KEYED, **ASYNC}).finished()
    waited = await it.chat(headers={**KEYED, "prefer": "wait=0.05"}).finished()

    assert (later.status, later.json["id"], later.headers["preference-applied"]) == (202, job.id, "respond-async")
    assert (waited.status, waited.json["id"], waited.headers["preference-applied"]) == (202, job.id, "wait=0.05")
    await it.completed(job, body=b"{}")
    await first.finished()


async def test_a_viewer_that_leaves_does_not_take_the_job_along(it: Api) -> None:
    first = it.chat(headers=KEYED)
    job = await it.next_job()
    second = it.chat(headers={**KEYED, "x-headrace-on-disconnect": "cancel"})
    await asyncio.sleep(0.05)

    second.leave()
    await second.finished()

    assert not await it.log.is_cancelled(job.id, since=job.accepted_at)
    await it.completed(job, body=b"{}")
    assert (await first.finished()).status == 200


# x-headrace-dedupe

DEDUPED = {"x-headrace-dedupe": "body"}


async def test_identical_requests_in_flight_are_one_job(it: Api) -> None:
    exchanges = [it.chat(headers=DEDUPED) for _ in range(5)]
    job = await it.next_job()
    async with asyncio.timeout(60):
        while len(it.log._tails.of(job.id)) < 4:  # the others have found it; whoever comes after its end starts anew
            await asyncio.sleep(0.001)
    await it.completed(job, body=b'{"answer": 1}')

    bodies = [(await each.finished()).body for each in exchanges]

    assert bodies == [b'{"answer": 1}'] * 5
    assert [lane.depth for lane in await it.queue.stats()] == [0, 0]


@pytest.mark.parametrize("recorded", [True, False])
async def test_a_newcomer_after_the_end_starts_anew(it: Api, recorded: bool) -> None:
    first = it.chat(headers=DEDUPED)
    job = await it.next_job()
    await (finish(it, job) if recorded else it.completed(job, body=b"{}"))
    await first.finished()

    second = it.chat(headers=DEDUPED)
    again = await it.next_job()
    await it.completed(again, body=b'{"answer": 2}')

    assert again.id != job.id
    assert (await second.finished()).json == {"answer": 2}


async def test_different_requests_are_different_jobs(it: Api) -> None:
    for name in ("a", "b"):
        await it.chat(headers={**DEDUPED, **ASYNC}, user=name).finished()

    assert len({(await it.next_job()).id for _ in range(2)}) == 2


async def test_an_idempotency_key_wins_over_deduplication(it: Api) -> None:
    one = await it.chat(headers={**DEDUPED, **ASYNC, "idempotency-key": "1"}).finished()
    two = await it.chat(headers={**DEDUPED, **ASYNC, "idempotency-key": "2"}).finished()

    assert one.json["id"] != two.json["id"]


async def test_a_transient_request_leaves_no_row(it: Api) -> None:
    exchange = it.chat()
    job = await it.next_job()
    await it.completed(job, body=b"{}")
    await exchange.finished()

    assert not job.durable
    assert await it.backends.store.jobs.get(job.id) is None
