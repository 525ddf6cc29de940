"""The intake: every line becomes a job or an error line, whatever it looks like and whenever the intake dies."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest

from broker.account_records import Actor
from broker.backends import Backends
from broker.policies import PolicyCache
from broker.records import BatchRecord, BatchStatus, JobRecord, KeyRecord, Progress
from shared.catalog import Catalog
from shared.errors import InvalidRequest, Unavailable
from shared.jobs import JobState, Lane
from tests.fakes.batching import Desk, a_line, json_lines, memory_backends, simulated_catalog
from tests.fakes.clock import FakeClock
from workers import batch_intake
from workers.batch_intake import BatchIntake
from workers.provider_batches.consigner import Consigner


@dataclass
class Scene(Desk):
    clock: FakeClock
    intake: BatchIntake
    ready: list[str]

    async def take_in(self, content: bytes, owner: str = "alice", **fields: Any) -> BatchRecord:
        batch = await self.batch(content, owner, **fields)
        await self.intake.round()
        return await self.batch_of(batch.id)

    async def queued(self, batch: BatchRecord) -> list[JobRecord]:
        return await self.backends.store.jobs.head(batch.tenant, "simulated", 10_000)

    async def bad(self, batch: BatchRecord) -> list[tuple[int, str, str]]:
        """Number, custom id and code of the lines that failed."""
        found = []
        for record in await self.lines_of(batch.id):
            assert record.ending.error is not None
            found.append((record.line, record.custom_id, record.ending.error["line_code"]))
        return found


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    clock = FakeClock(time.time())  # the store of files has no other
    ready: list[str] = []
    async with memory_backends(clock) as backends:
        yield Scene(backends, clock, an_intake(backends, clock, ready), ready)


def an_intake(backends: Backends, clock: FakeClock, ready: list[str]) -> BatchIntake:
    return BatchIntake(backends.store, simulated_catalog(), clock, lambda: ready.append("ready"))


async def test_good_lines_become_queued_jobs_of_the_batchs_owner() -> None:
    async with scene() as it:
        batch = await it.take_in(json_lines([a_line(1), a_line(2)]), owner="alice", priority=7, user="ann")

        assert (batch.status, batch.total, batch.failed) == (BatchStatus.IN_PROGRESS, 2, 0)
        first, second = await it.queued(batch)
        assert (first.custom_id, first.line, second.custom_id, second.line) == ("line-1", 1, "line-2", 2)
        job = first.job
        assert (job.key, job.team, job.user, job.lane, job.durable) == ("alice", "", "ann", Lane.BATCH, True)
        assert (job.deadline, job.reply_to, job.stream) == (batch.expires_at, "", False)
        assert orjson.loads(job.body) == a_line(1)["body"]
        assert (first.priority, first.batch_id) == (7, batch.id)
        assert first.weight >= 10
        assert it.ready


async def test_a_teams_lines_are_the_teams_in_the_fair_order() -> None:
    async with scene() as it:
        batch = await it.take_in(json_lines([a_line(1)]), owner="key", tenant="team")

        (record,) = await it.queued(batch)
        assert (record.job.key, record.job.team, record.job.tenant) == ("key", "team", "team")


async def test_bad_lines_are_failed_lines_with_their_number_and_never_a_failed_batch() -> None:
    async with scene() as it:
        lines = [
            b"\xef\xbb\xbf" + json_lines([a_line(1)]).rstrip() + b"\r\n",
            b"\r\n",
            b"{broken\n",
            json_lines([a_line(1)]),
            json_lines([a_line(3, body={"model": "nobody"})]),
            json_lines([a_line(4, url="/v1/embeddings")]),
            json_lines([a_line(5, body={"fallbacks": [{"x": 1}]})]),
            json_lines([a_line(6)]).rstrip(),
        ]

        batch = await it.take_in(b"".join(lines))

        assert (batch.status, batch.total, batch.failed) == (BatchStatus.IN_PROGRESS, 7, 5)
        assert [record.line for record in await it.queued(batch)] == [1, 8]
        assert await it.bad(batch) == [
            (3, "", "invalid_json_line"),
            (4, "line-1", "duplicate_custom_id"),
            (5, "line-3", "model_not_found"),
            (6, "line-4", "invalid_url"),
            (7, "line-5", "invalid_request"),
        ]


async def test_a_duplicate_is_found_across_transactions() -> None:
    async with scene() as it:
        batch = await it.take_in(json_lines([a_line(number) for number in range(250)] + [a_line(3)]))

        assert (batch.total, batch.failed) == (251, 1)
        assert await it.bad(batch) == [(251, "line-3", "duplicate_custom_id")]


async def test_a_line_over_10_mb_is_an_error_line_and_the_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_intake, "LONGEST_LINE", 2_000)
    async with scene() as it:
        long = a_line(1, body={"padding": "x" * 3_000})
        content = json_lines([long, a_line(2)])

        batch = await it.batch(b"", input_file_id=await it.file(content, chunk=700))
        await it.intake.round()

        assert await it.bad(await it.batch_of(batch.id)) == [(1, "", "line_too_long")]
        assert [record.line for record in await it.queued(batch)] == [2]


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "empty_file"), (b"\n\r\n\n", "empty_file"), (b"a,b\n1,2\n", "invalid_json_line"),
     (b"[\n{}\n" .replace(b"{}", b"1"), "invalid_json_line")],
)  # fmt: skip
async def test_a_file_without_a_single_request_fails_its_batch(content: bytes, code: str) -> None:
    async with scene() as it:
        batch = await it.take_in(content)

        assert (batch.status, batch.total) == (BatchStatus.FAILED, 0)
        assert [error["code"] for error in batch.errors] == [code]
        assert it.ready == []


async def test_too_many_lines_fail_the_batch_before_any_is_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_intake, "MOST_LINES", 5)
    async with scene() as it:
        exactly = await it.take_in(json_lines([a_line(number) for number in range(5)]))
        over = await it.take_in(json_lines([a_line(number) for number in range(6)]))

        assert exactly.status is BatchStatus.IN_PROGRESS
        assert (over.status, over.total) == (BatchStatus.FAILED, 0)
        assert over.errors[0]["code"] == "too_many_tasks"


async def test_a_batch_whose_file_is_gone_fails() -> None:
    async with scene() as it:
        batch = await it.batch(json_lines([a_line(1)]))
        await it.backends.store.files.delete(batch.input_file_id)

        await it.intake.round()

        after = await it.batch_of(batch.id)
        assert after.status is BatchStatus.FAILED
        assert after.errors[0]["code"] == "file_not_found"


async def _die_halfway(it: Scene, intake: BatchIntake) -> BatchRecord:
    """A batch of 500 lines, of which the intake has taken in 200."""
    content = json_lines([a_line(number) for number in range(1, 501)])
    batch = await it.batch(b"", input_file_id=await it.file(content, chunk=4_096))
    taken = 0
    really = it.backends.store.batches.take_in

    async def take_in(*args: Any, **options: Any) -> bool:
        nonlocal taken
        taken += 1
        if taken > 1:
            raise Unavailable("the store went away")
        return await really(*args, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(it.backends.store.batches, "take_in", take_in)
        await intake.round()
    half = await it.batch_of(batch.id)
    assert (half.status, half.total) == (BatchStatus.VALIDATING, 200)
    return half


async def test_an_intake_that_died_is_continued_where_it_was() -> None:
    async with scene() as it:
        half = await _die_halfway(it, an_intake(it.backends, it.clock, []))

        await it.intake.round()

        whole = await it.batch_of(half.id)
        assert (whole.status, whole.total, whole.failed) == (BatchStatus.IN_PROGRESS, 500, 0)
        assert [record.line for record in await it.queued(whole)] == list(range(1, 501))


async def test_lines_may_run_while_the_rest_of_their_file_is_read() -> None:
    async with scene() as it:
        ready: list[str] = []

        half = await _die_halfway(it, an_intake(it.backends, it.clock, ready))

        assert [record.line for record in await it.queued(half)] == list(range(1, 201))
        assert ready == ["ready"]


async def test_no_line_runs_before_a_consigner_has_seen_all_that_may_go_to_a_providers_batch() -> None:
    async with scene() as it:
        (served,) = simulated_catalog().connections()
        catalog = Catalog([replace(served, provider_batch=True)])
        consigner = Consigner(it.backends.store, catalog, it.clock)

        half = await _die_halfway(
            it, BatchIntake(it.backends.store, simulated_catalog(), it.clock, consigner=consigner)
        )

        assert await it.queued(half) == []


async def test_a_batch_that_is_cancelled_while_it_is_taken_in_takes_in_no_more() -> None:
    async with scene() as it:
        batch = await it.batch(json_lines([a_line(1)]))
        validating = await it.batch_of(batch.id)
        await it.backends.store.batches.move(
            batch.id, BatchStatus.CANCELLING, it.clock.now(), expected=[BatchStatus.VALIDATING]
        )

        await it.intake.take_in(validating)

        after = await it.batch_of(batch.id)
        assert (after.status, after.total) == (BatchStatus.CANCELLING, 0)


async def test_a_line_that_the_store_refuses_is_a_bad_line_and_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene() as it:
        batch = await it.batch(json_lines([a_line(1), a_line(2), a_line(3)]))
        really = it.backends.store.batches.take_in

        async def take_in(batch_id: str, records: list[JobRecord], progress: Progress, *, held: bool) -> bool:
            if any(record.custom_id == "line-2" and record.state is JobState.QUEUED for record in records):
                raise InvalidRequest("the database refused a row")
            return await really(batch_id, records, progress, held=held)

        monkeypatch.setattr(it.backends.store.batches, "take_in", take_in)
        await it.intake.round()

        after = await it.batch_of(batch.id)
        assert (after.status, after.total, after.failed) == (BatchStatus.IN_PROGRESS, 3, 1)
        assert [record.line for record in await it.queued(after)] == [1, 3]


async def test_older_batches_are_taken_in_first_and_each_of_many() -> None:
    async with scene() as it:
        batches = []
        for _ in range(5):
            batches.append(await it.batch(json_lines([a_line(1)])))
            it.clock.advance(1)

        await it.intake.round()

        after = [await it.batch_of(batch.id) for batch in batches]
        assert {batch.status for batch in after} == {BatchStatus.IN_PROGRESS}


async def test_lines_with_models_that_the_key_may_not_call_are_bad_and_the_others_carry_its_tags() -> None:
    async with scene() as it:
        store = it.backends.store
        fields = {"models": ["echo"], "tags": ["research"], "aliases": {"mine": "echo"}}
        await store.keys.add(KeyRecord("picky", "sk-...picky", fields=fields), Actor("test"))
        policies = PolicyCache(store.keys, store.directory, it.clock, it.backends.log)
        catalog = Catalog(
            [*simulated_catalog().deployments(), replace(simulated_catalog().deployment("d"), id="e", group="dear")]
        )
        it.intake = BatchIntake(store, catalog, it.clock, policies=policies)
        models = ["echo", "dear", "mine"]

        batch = await it.take_in(
            json_lines([a_line(n, body={"model": each}) for n, each in enumerate(models)]), "picky"
        )

        assert await it.bad(batch) == [(2, "line-1", "key_model_access_denied")]
        assert [record.job.tags for record in await it.queued(batch)] == [("research",), ("research",)]


async def test_a_batch_whose_key_is_gone_is_taken_in_all_the_same() -> None:
    async with scene() as it:
        store = it.backends.store
        it.intake = BatchIntake(
            store,
            simulated_catalog(),
            it.clock,
            policies=PolicyCache(store.keys, store.directory, it.clock, it.backends.log),
        )

        batch = await it.take_in(json_lines([a_line(1)]), "deleted")

        assert (batch.status, len(await it.queued(batch))) == (BatchStatus.IN_PROGRESS, 1)
