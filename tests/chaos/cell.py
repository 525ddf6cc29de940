"""One cell of the kill matrix: work, a kill in the right moment, and what must hold when all is quiet again."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import asyncpg

from tests.chaos.clients import Clients, clients
from tests.chaos.fleet import NARROW, WIDE, Fleet, Victim
from tests.e2e.books import Books, at_rest, balanced_books, resting_buckets
from tests.fakes.upstream import ANSWER, FakeUpstream


class Phase(StrEnum):
    """What most of the work is doing when the victim is killed."""

    QUEUED = "queued"  # being submitted, and waiting: eight calls at a time
    RUNNING = "running"  # every call is at the provider, which has not answered
    STREAMING = "streaming"  # a third of every stream is at its client
    RECORDING = "being recorded"  # all answers come at once, and the first did just now


@dataclass(frozen=True, slots=True)
class Size:
    """How much work a cell has."""

    jobs: int = 40
    """With `Prefer: respond-async`."""
    waiting: int = 8
    """With `Prefer: wait`."""
    streams: int = 10
    """With `x-headrace-on-disconnect: continue`."""
    lines: int = 150
    """Of one batch."""

    @property
    def singles(self) -> int:
        return self.jobs + self.waiting + self.streams


FULL = Size()
SMALL = Size(jobs=12, waiting=3, streams=4, lines=40)

_PATIENCE = 180.0  # seconds for a cell's work; a job that is published again may take 70
_LAST_LOOK = 30.0  # seconds to find out what was not over by then
_POLL = 0.2  # seconds
_DOWN = (1.0, 2.0)  # seconds until the victim is started again
_ANSWERS_COME = 0.5  # seconds after the kill at which a provider that kept silent answers
_JITTER = 0.15  # seconds after the first answers within which the kill comes: rows wait for 0.1 s to be written
_PACE = 0.04  # seconds between two words of a stream when streams are the victims
_LATENCY = 0.05  # seconds before an answer
_FRAMES = 20  # of about 62
_CUT = 8  # frames after which half of the clients of streams change their connections, and the api
_MAY_BREAK_STREAMS = frozenset({Victim.WORKER, Victim.REDIS})
"""A stream whose words are on their way through one of these may end with an error."""
_FINAL = ("completed", "failed", "expired", "cancelled")


@dataclass
class Result:
    """What came of a cell; a row of the table."""

    victim: Victim
    phase: Phase
    accepted: int = 0
    """Jobs with a 202 or a stream, and lines."""
    finished: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    """How the jobs and lines ended."""
    calls: int = 0
    """Attempts that the provider saw."""
    rows: int = 0
    unseen: int = 0
    """Rows marked `unknown` of attempts that the provider never saw."""
    unknown: int = 0
    """Rows marked `unknown` of attempts whose worker died."""
    resumed: int = 0
    """Streams that were taken up again over another connection."""
    in_band: int = 0
    """Streams that ended with an error."""
    seconds: float = 0.0
    """From the kill until all was finished."""
    violations: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.victim} killed while jobs are {self.phase}"

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.accepted} accepted, {self.finished} finished {dict(self.ends)}, {self.calls} calls, "
            f"{self.rows} rows ({self.unknown} unknown, {self.unseen} unseen), {self.resumed} resumed, "
            f"{self.in_band} in-band errors, {self.seconds:.1f} s"
        )


async def run(fleet: Fleet, victim: Victim, phase: Phase, size: Size = FULL) -> Result:
    """After a cell with violations the fleet may not be fit for another one."""
    result = Result(victim, phase)
    await fleet.forget()
    _set_up(fleet.upstream, phase)
    async with clients(fleet.urls, NARROW if phase is Phase.QUEUED else WIDE) as users:
        try:
            async with asyncio.timeout(_PATIENCE):
                batch = await _work_through(fleet, users, size, result)
            async with asyncio.timeout(_PATIENCE):  # a longer one than those of the books and the buckets
                await _judge(fleet, users, batch, result)
        except (TimeoutError, AssertionError, ExceptionGroup) as error:
            result.violations.append(f"it never came to its end: {error!r}")
            result.violations += await _unfinished(users)
        finally:
            fleet.upstream.gate.set()
    return result


async def _work_through(fleet: Fleet, users: Clients, size: Size, result: Result) -> dict[str, Any]:
    """The batch, when it and every client has come to its end."""
    async with asyncio.TaskGroup() as group:
        batch_id = await users.batch(size.lines)
        for number in range(size.streams):
            group.create_task(users.streaming(most=_CUT if number % 4 < 2 else None))
        for client, count in ((users.in_background, size.jobs), (users.waiting, size.waiting)):
            for _ in range(count):
                group.create_task(client())
        await _moment(fleet, users, result.phase, size)
        killed = time.monotonic()
        await _kill_and_restart(fleet, result.victim)
    while (await users.get("/v1/jobs", search=users.tag, status="queued,in_progress", limit=1))["data"]:
        await asyncio.sleep(_POLL)
    while (batch := await users.get(f"/v1/batches/{batch_id}"))["status"] not in _FINAL:
        await asyncio.sleep(_POLL)
    result.seconds = time.monotonic() - killed
    return dict(batch)


def _set_up(upstream: FakeUpstream, phase: Phase) -> None:
    upstream.latency = _LATENCY
    upstream.pace = _PACE if phase is Phase.STREAMING else 0.0
    if phase is Phase.STREAMING:
        upstream.gate.set()
    else:
        upstream.gate.clear()


async def _moment(fleet: Fleet, users: Clients, phase: Phase, size: Size) -> None:
    """Return when the work is where it is to be hit."""
    upstream = fleet.upstream
    match phase:
        case Phase.QUEUED:
            await _until(lambda: len(users.jobs) >= size.jobs // 2)
        case Phase.RUNNING:
            await upstream.arrived(size.singles + size.lines // 2)
        case Phase.STREAMING:
            await _until(lambda: sum(len(each.numbers) >= _FRAMES for each in users.readers) == size.streams)
        case Phase.RECORDING:
            await upstream.arrived(size.singles + size.lines // 2)
            first = upstream.requests[0]
            upstream.gate.set()
            await upstream.ended(first)
            await asyncio.sleep(fleet.rng.uniform(0.0, _JITTER))


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def _kill_and_restart(fleet: Fleet, victim: Victim) -> None:
    await fleet.kill(victim)
    await asyncio.sleep(_ANSWERS_COME)
    fleet.upstream.gate.set()
    await asyncio.sleep(fleet.rng.uniform(*_DOWN) - _ANSWERS_COME)
    await fleet.restart()


# --- What must hold ---------------------------------------------------------------------------------------------------


async def _judge(fleet: Fleet, users: Clients, batch: dict[str, Any], result: Result) -> None:
    await fleet.whole()
    jobs = await _all_jobs(users)
    found = [*users.failures, *_wrong_jobs(users, jobs), *_wrong_streams(users, result.victim)]
    found += await _wrong_answers(users, jobs)
    found += await _wrong_lines(users, batch)
    books = await balanced_books(fleet.attempts, fleet.servers)
    found += [] if books.balanced else [f"the books do not balance: {books}; {_first(books)}"]
    found += [f"{count} jobs have several successful rows" for count in await _repeated_successes(fleet) if count]
    buckets = await resting_buckets(fleet.headrace.config, fleet.servers)
    found += [f"not at rest: {bucket}" for bucket in buckets if not at_rest(bucket)]
    result.violations += found

    counts = batch["request_counts"]
    result.accepted = len(users.jobs) + counts["total"]
    result.ends = Counter(job["status"] for job in jobs.values()) + Counter(
        completed=counts["completed"], failed=counts["failed"]
    )
    result.finished = sum(result.ends[status] for status in _FINAL)
    result.calls, result.rows, result.unseen = books.attempts, books.rows, len(books.unseen)
    result.unknown = books.statuses.get("unknown", 0) - result.unseen
    result.resumed = len(users.resumed)
    result.in_band = sum(bool(each.failure) for each in users.readers)


async def _all_jobs(users: Clients) -> dict[str, dict[str, Any]]:
    """Everything that the users submitted one by one, as the list has it."""
    jobs: dict[str, dict[str, Any]] = {}
    page: dict[str, Any] = {"has_more": True, "last_id": None}
    while page["has_more"]:
        after = {"after": page["last_id"]} if page["last_id"] else {}
        page = await users.get("/v1/jobs", search=users.tag, limit=100, **after)
        jobs |= {job["id"]: job for job in page["data"]}
    return jobs


def _wrong_jobs(users: Clients, jobs: dict[str, dict[str, Any]]) -> Iterator[str]:
    if lost := set(users.jobs) - jobs.keys():
        yield f"accepted and not there: {sorted(lost)}"
    if twice := jobs.keys() - set(users.jobs):
        yield f"there and nobody's, so that a request ran twice: {sorted(twice)}"
    streams = {each.job_id for each in users.readers if each.failure}
    for job_id in sorted(jobs.keys() - streams):
        if jobs[job_id]["status"] != "completed":
            yield f"a job ended otherwise: {jobs[job_id]}"


def _wrong_streams(users: Clients, victim: Victim) -> Iterator[str]:
    for each in users.readers:
        if not each.gapless:
            yield f"stream {each.job_id} has a gap or a repeat: {each.numbers}"
        if each.done and each.text != ANSWER:
            yield f"stream {each.job_id} has another text: {each.text!r}"
        if each.failure and victim not in _MAY_BREAK_STREAMS:
            yield f"stream {each.job_id} ended with an error: {each.failure}"
        if each.failure and not ANSWER.startswith(each.text):
            yield f"stream {each.job_id} broke off with another text: {each.text!r}"


async def _wrong_answers(users: Clients, jobs: dict[str, dict[str, Any]]) -> list[str]:
    found = [f"a waiting client got another text: {text!r}" for text in users.answers if text != ANSWER]
    for job_id, job in jobs.items():
        if job["status"] == "completed":
            whole = await users.get(f"/v1/jobs/{job_id}")
            text = whole["result"]["choices"][0]["message"]["content"]
            found += [f"job {job_id} has another text: {text!r}"] if text != ANSWER else []
    return found


async def _wrong_lines(users: Clients, batch: dict[str, Any]) -> list[str]:
    counts, file_id = batch["request_counts"], batch["output_file_id"]
    if batch["status"] != "completed" or counts["completed"] != counts["total"] or counts["failed"] or not file_id:
        return [f"the batch ended otherwise: {batch}"]
    lines = await users.lines_of(file_id)
    times = Counter(line["custom_id"] for line in lines)
    found = [f"lines that are there several times: {[id for id, count in times.items() if count > 1]}"]
    found = [] if len(times) == len(lines) else found
    if len(times) != counts["total"]:
        found.append(f"{len(times)} lines in the file, {counts['total']} in the batch")
    texts = {line["response"]["body"]["choices"][0]["message"]["content"] for line in lines}
    return found if texts == {ANSWER} else [*found, f"lines with other texts: {texts - {ANSWER}}"]


def _first(books: Books) -> dict[str, object]:
    return {name: getattr(books, name)[:5] for name in ("repeated", "unbooked", "invented")}


async def _repeated_successes(fleet: Fleet) -> list[int]:
    connection = await asyncpg.connect(fleet.servers.database, timeout=30)
    try:
        repeated = "SELECT job_id FROM ledger WHERE status = 'success' GROUP BY job_id HAVING count(*) > 1"
        return [len(await connection.fetch(repeated))]
    finally:
        await connection.close(timeout=30)


async def _unfinished(users: Clients) -> list[str]:
    try:
        async with asyncio.timeout(_LAST_LOOK):
            page = await users.get("/v1/jobs", search=users.tag, status="queued,in_progress", limit=100)
            batches = await users.get("/v1/batches", limit=1)
    except TimeoutError:
        return ["the apis do not answer"]
    streams = [
        f"stream {each.job_id} at {each.last_id!r}, {each.trouble!r}" for each in users.readers if not each.ended
    ]
    return [*(f"unfinished: {job}" for job in page["data"]), *streams, f"the batch: {batches['data']}"]
