"""One call: what becomes an event, what is held back, what a fault turns into."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import orjson
import pytest

from shared.catalog import Deployment
from shared.errors import (
    AppError,
    UpstreamBroken,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamServerError,
    UpstreamTimeout,
)
from shared.events import Event, Kind
from shared.jobs import FIRST, Job, Leg
from tests.fakes.clock import FakeClock
from tests.fakes.scene import Timings
from tests.fakes.seams import NotedLog
from tests.fakes.upstream import ANSWER, FakeUpstream
from tests.fakes.wire import Exchange, Server
from workers import attempt as module
from workers import preparation
from workers.attempt import Attempt, Caller
from workers.providers import registry
from workers.upstream import Upstream


@dataclass
class Line:
    """A caller, the provider at the other end, and the log between it and the client."""

    upstream: FakeUpstream
    caller: Caller
    log: NotedLog
    clock: FakeClock
    attempts: list[Attempt] = field(default_factory=list)

    async def call(
        self,
        model: str,
        *,
        stream: bool = False,
        seconds: float = 60.0,
        precedence: int = 0,
        key: str = "",
        **fields: object,
    ) -> bytes:
        """The answer's body. The attempt itself is kept, whatever becomes of it."""
        deployment = Deployment("d", "chat", "openai", model, api_base=f"{self.upstream.url}/v1", **fields)  # type: ignore[arg-type]
        request = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "stream": stream}
        now = self.clock.now()
        route = (Leg("openai", "chat", ("d",)),)
        job = Job("job", "chat.completions", "chat", route, b"x" * 40, "", now, now + seconds, stream=stream)
        job = replace(job, precedence=precedence, key=key)
        attempt = Attempt(job, deployment, 0.25, self.clock.monotonic(), now)
        self.attempts.append(attempt)
        call = preparation.call(job, request, deployment, now)
        return await self.caller.perform(attempt, registry.adapter("openai"), call)

    def behind(self, gate: "_Gate") -> "Line":
        return replace(self, caller=Caller(gate, self.log, self.clock, "this-worker"))  # type: ignore[arg-type]  # all that is used of one

    @property
    def attempt(self) -> Attempt:
        return self.attempts[-1]

    async def events(self) -> list[Event]:
        return [event for event in await self.log.replay("job") if event.kind is not Kind.STARTED]


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    clock = FakeClock()
    timings = Timings(first_token=1.0, stall=3.0, silence=3.0, pace=0.001)
    async with FakeUpstream(timings=timings) as fake, Upstream() as upstream, NotedLog([]) as log:
        yield Line(fake, Caller(upstream, log, clock, "this-worker"), log, clock)


async def test_a_whole_answer_is_returned_and_not_emitted(line: Line) -> None:
    body = await line.call("gpt")

    assert ANSWER.encode() in body
    assert await line.events() == []
    assert line.attempt.usage is not None
    assert not line.attempt.best_usage().estimated


async def test_a_note_is_left_before_the_call(line: Line) -> None:
    await line.call("gpt")

    (note,) = await line.log.replay("job")
    assert note.kind is Kind.STARTED
    assert (note.meta["attempt"], note.meta["worker"], note.meta["deployment"]) == (1, "this-worker", "d")


class _Gate:
    """A provider whose answers all come in one turn of the event loop."""

    def __init__(self) -> None:
        self.calls = 0
        self.worked_on = 0
        self._open = asyncio.Event()

    def send(self, *_: object) -> Self:
        return self

    async def __aenter__(self) -> Self:
        self.calls += 1
        await self._open.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    status = 200
    headers: Mapping[str, str] = {}

    async def read(self) -> bytes:
        self.worked_on += 1
        return orjson.dumps({"id": "1", "choices": [{"message": {"role": "assistant", "content": "hello"}}]})

    async def answers(self, calls: int) -> None:
        while self.calls < calls:
            await asyncio.sleep(0)
        self._open.set()


async def test_answers_that_come_together_are_worked_on_a_few_at_a_time(line: Line) -> None:
    gate = _Gate()
    line = line.behind(gate)
    calls = [asyncio.create_task(line.call("gpt", key=f"key-{number % 2}")) for number in range(20)]
    await gate.answers(20)

    turns = []
    while gate.worked_on < 20:
        before = gate.worked_on
        await asyncio.sleep(0)
        turns.append(gate.worked_on - before)

    await asyncio.gather(*calls)
    assert turns[0] == module._ANSWERS + 1  # the very first was alone
    assert max(turns[1:]) == module._ANSWERS


async def test_the_answer_of_a_first_job_waits_for_no_others(line: Line) -> None:
    gate = _Gate()
    line = line.behind(gate)
    calls = [asyncio.create_task(line.call("gpt", key=f"key-{number % 2}")) for number in range(20)]
    first = asyncio.create_task(line.call("gpt", precedence=FIRST))
    await gate.answers(21)

    await first
    worked_on = gate.worked_on

    await asyncio.gather(*calls)
    assert worked_on <= 2 * module._ANSWERS + 1


async def test_the_provider_can_tell_attempts_apart(line: Line) -> None:
    await line.call("gpt")

    assert (line.upstream.requests[0].job_id, line.upstream.requests[0].attempt) == ("job", "1")


async def test_a_stream_becomes_numbered_events_whose_first_says_where_it_comes_from(line: Line) -> None:
    assert await line.call("gpt", stream=True) == b""

    events = await line.events()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert {event.kind for event in events} == {Kind.CHUNK}
    assert events[0].meta["deployment"] == "d"
    assert all(event.meta is None for event in events[1:])
    assert all(event.data.startswith(b"data: ") and event.data.endswith(b"\n\n") for event in events)


FAULTS: list[tuple[str, type[AppError]]] = [
    ("fb-s02", UpstreamRateLimited),
    ("fb-s04", UpstreamOverloaded),
    ("fb-s03", UpstreamServerError),
    ("fb-s08", UpstreamBroken),
    ("fb-s10", UpstreamBroken),
    ("fb-f01-a", UpstreamBroken),
    ("fb-f01-c", UpstreamBroken),
    ("fb-f01-d", UpstreamBroken),
    ("fb-f02-b", UpstreamBroken),
    ("fb-f03-a", UpstreamBroken),
]


@pytest.mark.parametrize(("fault", "kind"), FAULTS)
async def test_a_fault_of_a_whole_answer_is_told_by_its_class(line: Line, fault: str, kind: type[AppError]) -> None:
    with pytest.raises(kind):
        await line.call(fault)


@pytest.mark.parametrize("fault", ["fb-f07", "fb-f14-a", "fb-f14-b", "fb-f15-b", "fb-f15-c", "fb-s07", "fb-s06"])
async def test_a_fault_before_the_first_content_reaches_nobody(line: Line, fault: str) -> None:
    with pytest.raises(AppError) as caught:
        await line.call(fault, stream=True, stream_timeout=0.3)

    assert caught.value.retryable
    assert await line.events() == []
    assert not line.attempt.committed


@pytest.mark.parametrize("fault", ["fb-s08", "fb-s09", "fb-f14-c", "fb-f20-b", "fb-f20-c", "fb-f20-d"])
async def test_a_fault_after_the_first_content_is_known_to_be_one(line: Line, fault: str) -> None:
    with pytest.raises(AppError):
        await line.call(fault, stream=True, stream_timeout=2.0)

    assert line.attempt.committed
    assert line.attempt.best_usage().output > 0


async def test_an_answer_that_is_whole_needs_no_terminator(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DRAIN_AFTER_FINISH", 0.1)

    await line.call("fb-f20-a", stream=True)

    assert ANSWER.rpartition(" ")[2].encode() in b"".join(event.data for event in await line.events())


async def test_pings_do_not_count_as_content(line: Line) -> None:
    with pytest.raises(UpstreamTimeout, match=r"No content within 0\.3 s"):
        await line.call("fb-f07", stream=True, stream_timeout=0.3)


async def test_content_just_within_the_limit_keeps_a_stream_alive(line: Line) -> None:
    line.upstream.timings = Timings(stall=0.2, pace=0.0)

    await line.call("fb-f10", stream=True, stream_timeout=1.5)  # the ten words take longer in all

    assert line.attempt.committed


async def test_the_deployments_timeout_ends_a_silent_call(line: Line) -> None:
    with pytest.raises(UpstreamTimeout, match=r"No answer within 0\.2 s"):
        await line.call("fb-s06", timeout=0.2)


async def test_the_deadline_ends_a_call_before_the_deployments_timeout(line: Line) -> None:
    with pytest.raises(UpstreamTimeout, match=r"No answer within 0\.2 s"):
        await line.call("fb-s06", seconds=0.2, timeout=60.0)


async def test_a_hint_in_the_headers_travels_with_the_error(line: Line) -> None:
    with pytest.raises(UpstreamRateLimited) as caught:
        await line.call("fb-f16-h")

    assert caught.value.retry_after == pytest.approx(0.7)


async def test_usage_that_a_vendor_does_not_send_is_estimated_and_marked(line: Line) -> None:
    await line.call("fb-f12-a", stream=True)

    usage = line.attempt.best_usage()
    assert usage.estimated
    assert usage.input == 10
    assert usage.output == pytest.approx(len(ANSWER) / 4, abs=1)


async def test_usage_of_a_whole_answer_is_estimated_by_its_text_and_not_its_json(line: Line) -> None:
    await line.call("fb-f12-a")

    assert line.attempt.best_usage().output == pytest.approx(len(ANSWER) / 4, rel=0.5)


def test_secret_headers_are_not_passed_on() -> None:
    headers = {"Set-Cookie": "s", "Authorization": "a", "X-API-Key": "k", "X-Request-Id": "r"}

    assert module._public(headers) == {"x-request-id": "r"}


def test_headers_are_bounded() -> None:
    assert len(module._public({f"x-{number}": "y" for number in range(500)})) == 50


async def test_a_cancelled_call_hangs_up_and_knows_that_it_was_sent(line: Line) -> None:
    line.upstream.latency = 30.0
    running = asyncio.create_task(line.call("gpt"))
    await line.upstream.arrived(1)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    await line.upstream.ended(line.upstream.requests[0])
    assert line.upstream.requests[0].hung_up_at is not None
    assert line.attempt.dispatched


async def test_what_comes_before_the_first_content_is_held_back(line: Line) -> None:
    """The role alone, in a read of its own, commits nobody: the fault after it is still silent."""

    async def role_then_silence(exchange: Exchange) -> None:
        await exchange.stream_head()
        await exchange.chunk(b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\n\n')
        await asyncio.sleep(30)

    server = Server(role_then_silence)
    line.upstream.port, own = await server.start(), line.upstream.port
    try:
        with pytest.raises(UpstreamTimeout):
            await line.call("gpt", stream=True, stream_timeout=0.2)
    finally:
        await server.stop()
        line.upstream.port = own

    assert await line.events() == []
