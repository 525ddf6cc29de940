"""What is said about waiting is true: how long, whether in time at all, and how fast an agent may go on."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e.conftest import model, write_config
from tests.e2e.deployment import MASTER_KEY, Headrace, Servers, deployed
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOUND = 40
CONCURRENCY = 4
LATENCY = 0.4  # seconds of each job: the lane drains ten a second, or less on a busy machine
RPM = 600
_PATIENCE = 60.0  # seconds


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any
    seconds: float

    @property
    def retry_after(self) -> int:
        return int(self.headers["retry-after"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def headrace(
    upstream: FakeUpstream, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Headrace]:
    """Two workers where there are workers, so that what one process sees is not the whole."""
    folder = tmp_path_factory.mktemp("tight")
    apart = replace(servers, namespace=f"{servers.namespace}tight")
    workers = 2 if servers.distributed else 1
    paced = model("paced", "mistral/paced", f"{upstream.url}/v1", rpm=RPM, api_key="sk-paced")
    settings = {"HEADRACE_QUEUE_BOUND": str(BOUND), "HEADRACE_CONCURRENCY": str(CONCURRENCY // workers)}
    config = write_config(folder, upstream, paced)
    async with deployed(config, apart, folder, workers=workers, extra=settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nothing_before(upstream: FakeUpstream) -> None:
    upstream.reset()
    upstream.latency = 0.0


@pytest_asyncio.fixture(loop_scope="module")
async def http(headrace: Headrace) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    authorized = {"Authorization": f"Bearer {MASTER_KEY}"}
    async with aiohttp.ClientSession(headrace.url, headers=authorized, connector=connector) as session:
        yield session


async def ask(http: aiohttp.ClientSession, headers: Mapping[str, str] | None = None, model: str = "gpt") -> Answer:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    began = time.monotonic()
    async with http.post("/v1/chat/completions", json=body, headers=headers) as answer:
        names = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status, names, await answer.json(), time.monotonic() - began)


class Crowd:
    """Keeps the lane at its bound: whoever is answered or refused asks again."""

    def __init__(self, http: aiohttp.ClientSession, size: int) -> None:
        self._http = http
        self.refused: list[Answer] = []
        self._more = asyncio.Condition()
        self._going = True
        self._tasks = [asyncio.create_task(self._ask_on()) for _ in range(size)]

    async def _ask_on(self) -> None:
        while self._going:
            answer = await ask(self._http)
            if answer.status == 429:
                async with self._more:
                    self.refused.append(answer)
                    self._more.notify_all()
                await asyncio.sleep(0.2)  # what its Retry-After asks for would leave the lane half empty

    async def until_refused(self, condition: Any) -> Answer:
        """The first refusal that meets the condition."""
        async with asyncio.timeout(_PATIENCE), self._more:
            await self._more.wait_for(lambda: any(condition(each) for each in self.refused))
            return next(each for each in self.refused if condition(each))

    async def disperse(self) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)


@pytest_asyncio.fixture(loop_scope="module")
async def crowd(http: aiohttp.ClientSession, upstream: FakeUpstream) -> AsyncIterator[Crowd]:
    await empty(http)
    upstream.latency = LATENCY
    it = Crowd(http, BOUND + CONCURRENCY + 10)
    yield it
    upstream.latency = 0.0
    await it.disperse()


async def empty(http: aiohttp.ClientSession) -> None:
    """Until the last crowd's pace, which was another one, is history."""
    async with asyncio.timeout(_PATIENCE):
        while (await ask(http)).headers.get("x-headrace-queue-depth") != "0":
            await asyncio.sleep(0.1)


async def measured(http: aiohttp.ClientSession) -> Answer:
    """A refusal, as soon as the lane's pace is known and the lane nearly full: in 50 ms nobody behind dozens of jobs
    has had a turn."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            answer = await ask(http, {"x-litellm-timeout": "0.05"})
            late = answer.status == 429 and answer.body["error"]["type"] == "deadline_unreachable"
            if late and int(answer.headers["x-headrace-queue-depth"]) > 0.8 * BOUND:
                return answer
            await asyncio.sleep(0.1)


def rate(upstream: FakeUpstream) -> float:
    """Jobs a second that have ended since the crowd came, as the provider saw it."""
    ends = [each.ended_at for each in upstream.requests if each.ended_at and each.ended_at - each.at >= LATENCY]
    return (len(ends) - CONCURRENCY) / (max(ends) - min(ends))


async def test_a_full_lane_says_when_it_will_be_empty(
    http: aiohttp.ClientSession, upstream: FakeUpstream, crowd: Crowd
) -> None:
    await measured(http)
    crowd.refused.clear()

    refusal = await crowd.until_refused(lambda answer: "is full" in answer.body["error"]["message"])

    assert refusal.body["error"]["type"] == "rate_limit_error"
    assert refusal.retry_after == pytest.approx(BOUND / rate(upstream), rel=0.5)
    assert int(refusal.headers["x-headrace-queue-depth"]) >= BOUND / 2


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(
    http: aiohttp.ClientSession, upstream: FakeUpstream, crowd: Crowd
) -> None:
    await measured(http)
    began = len(upstream.requests)

    late, impatient, patient = await asyncio.gather(
        ask(http, {"x-litellm-timeout": "1"}),
        ask(http, {"x-headrace-max-queue-wait": "1"}),
        ask(http, {"prefer": "respond-async"}),
    )

    wait = int(late.headers["x-headrace-estimated-wait-ms"]) / 1000
    assert (late.status, late.body["error"]["type"]) == (429, "deadline_unreachable")
    assert "its deadline is in 1 s" in late.body["error"]["message"]
    assert (impatient.status, patient.status) == (429, 202)
    assert "its max_queue_wait is 1 s" in impatient.body["error"]["message"]
    assert late.retry_after - 1 <= wait - 1 <= late.retry_after
    assert wait == pytest.approx(int(late.headers["x-headrace-queue-depth"]) / rate(upstream), rel=0.5)
    assert late.seconds < 1  # before its deadline
    assert len(upstream.requests) - began < BOUND


async def test_the_wait_that_an_answer_told_is_the_wait_it_had(http: aiohttp.ClientSession, crowd: Crowd) -> None:
    await measured(http)

    async with asyncio.timeout(_PATIENCE):
        while (answer := await ask(http)).status != 200:
            await asyncio.sleep(0.05)

    told, had = (float(answer.headers[f"x-headrace-{what}-ms"]) for what in ("estimated-wait", "queue-wait"))
    assert told == pytest.approx(had, rel=0.5)


async def test_an_agent_that_heeds_the_headers_is_never_refused(
    http: aiohttp.ClientSession, upstream: FakeUpstream
) -> None:
    """Twice as many requests as the lane has places for, as fast as the key allows, and in no other rhythm."""
    answers: list[Answer] = []
    for _ in range(2 * BOUND // CONCURRENCY):
        answers += await asyncio.gather(*(ask(http, model="paced") for _ in range(CONCURRENCY)))
        await asyncio.sleep(pause(answers[-1].headers))

    assert {answer.status for answer in answers} == {200}
    assert answers[-1].headers["x-ratelimit-limit-requests"] == str(RPM)
    assert max(float(answer.headers["x-headrace-queue-wait-ms"]) for answer in answers) < 8000


async def test_agents_that_heed_retry_after_all_get_their_answers(
    http: aiohttp.ClientSession, upstream: FakeUpstream
) -> None:
    """Twice as many as the lane has places for, all at once."""
    upstream.latency = 0.1
    agents = 2 * BOUND

    refusals = await asyncio.gather(*(_agent(http) for _ in range(agents)))

    assert len(upstream.requests) == agents
    assert sum(refusals) < 3 * agents


async def _agent(http: aiohttp.ClientSession) -> int:
    """How often it was refused until it had its answer."""
    refusals = 0
    while (answer := await ask(http)).status == 429:
        refusals += 1
        await asyncio.sleep(answer.retry_after)
    assert answer.status == 200
    return refusals


def pause(headers: Mapping[str, str]) -> float:
    """Seconds that an agent waits before it sends another handful, by OpenAI's headers."""
    remaining = headers.get("x-ratelimit-remaining-requests")
    if remaining is None or int(remaining) >= CONCURRENCY:
        return 0.0
    return seconds(headers["x-ratelimit-reset-requests"])


def seconds(text: str) -> float:
    """Of OpenAI's `6m0s`, `1s`, `12ms`."""
    parts = re.findall(r"([0-9]+)(ms|[hms])", text)
    return sum(int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit] for number, unit in parts)
