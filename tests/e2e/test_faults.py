"""What providers do wrong, and what the client sees of it: the whole answer or one clean error, never half an answer.

The first table is Failover Bench's; its verdicts are that benchmark's: *pass* is the ideal outcome, *safe* a clean
error in bounded time, and everything else fails. The second table is of faults that operators of gateways reported.

All scenarios run side by side, once for each profile; each test looks at one of them.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import openai
import pytest
import pytest_asyncio

from tests.e2e.conftest import STREAM_TIMEOUT, TIMEOUT, write_config
from tests.e2e.deployment import MASTER_KEY, Headrace, Servers, deployed
from tests.fakes.scene import Timings
from tests.fakes.upstream import ANSWER, Attempt, FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUESTION = [{"role": "user", "content": "What is a headrace?"}]
TIMINGS = Timings(retry_after=1, first_token=5.0, stall=12.0, silence=16.0, outage=3.0, pace=0.002)
"""Some seconds from the time limits of `write_config`: 3 s without content for streams, 7 s for plain answers."""

_BUSY = 7.0  # seconds that a busy machine may add
_AT_ONCE = 8  # scenarios; the clients and the fake share one process
_SILENT = ("s06", "s07", "s09", "f07", "f20-a")
"""Faults that cost time and nothing else: those scenarios wait beside all others."""


@dataclass(frozen=True)
class Case:
    """A scenario and what must come of it."""

    model: str
    """As the client names it; the last part selects the fault."""
    stream: bool
    verdict: str
    """pass or safe."""
    attempts: tuple[int, int]
    """Fewest and most attempts at the primary."""
    seconds: float
    """The longest total."""
    status: int | None = None
    """Of the error, when it comes before any content."""

    @property
    def name(self) -> str:
        return f"{self.model.replace('/fb', '')}{'-stream' if self.stream else ''}"

    @property
    def group(self) -> str:
        return self.model.partition("/")[0]

    @property
    def asked(self) -> str:
        """The model's name with a part that keeps this case's attempts apart."""
        group, _, fault = self.model.partition("/")
        return f"{group}/{self.name.replace('/', '-')}/{fault}"

    @property
    def upstream_model(self) -> str:
        return self.asked.partition("/")[2]


@dataclass
class Run:
    """What a client saw."""

    text: str = ""
    finish: str | None = None
    finishes: int = 0
    error: openai.APIError | None = None
    unreadable: str = ""
    """What the official client choked on."""
    seconds: float = 0.0
    served_by: str = ""
    usage: int = 0
    """Tokens in all."""
    retries: int = 0
    healthy_after: bool = False
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        if self.unreadable:
            return f"fail: {self.unreadable}"
        if self.error is not None:
            return "safe"
        return "pass" if self.text == ANSWER and self.finish == "stop" else f"fail: {self.finish} {self.text!r}"

    @property
    def status(self) -> int | None:
        """The error's HTTP status; None for one inside a stream."""
        return getattr(self.error, "status_code", None)


def both(model: str, verdict: str, attempts: tuple[int, int], seconds: float, status: int | None = None) -> list[Case]:
    return [Case(model, stream, verdict, attempts, seconds, status) for stream in (True, False)]


def rescued(fault: str, attempts: tuple[int, int], seconds: float) -> list[Case]:
    return both(f"rescued/fb-{fault}", "pass", attempts, seconds)


def alone(fault: str, verdict: str, attempts: tuple[int, int], seconds: float, status: int | None = None) -> list[Case]:
    return both(f"fault/fb-{fault}", verdict, attempts, seconds, status)


FAILOVER_BENCH = [
    # S01: the provider says when to come back, and is waited for.
    *rescued("s01", (2, 2), 2.5),
    *alone("s01", "pass", (2, 2), 2.5),
    # S02, S04, S16: a few attempts, then the fallback, or the provider's own error.
    *rescued("s02", (1, 4), 15.0),
    *alone("s02", "safe", (1, 4), 15.0, 429),
    *rescued("s04", (1, 3), 15.0),
    *alone("s04", "safe", (1, 3), 5.0, 503),
    *rescued("s16", (1, 3), 15.0),
    *alone("s16", "safe", (1, 3), 5.0, 503),
    *rescued("s03", (2, 2), 2.0),
    *alone("s03", "pass", (2, 2), 2.0),
    *rescued("s05", (2, 2), 2.0),
    *alone("s05", "pass", (2, 2), 2.0),
    # S06, S07: a route that stayed silent is not asked a second time.
    Case("rescued/fb-s06", True, "pass", (1, 1), STREAM_TIMEOUT),
    Case("rescued/fb-s06", False, "pass", (1, 1), TIMEOUT),
    Case("fault/fb-s06", True, "safe", (1, 1), STREAM_TIMEOUT, 408),
    Case("fault/fb-s06", False, "safe", (1, 1), TIMEOUT, 408),
    Case("rescued/fb-s07", True, "pass", (1, 1), STREAM_TIMEOUT),
    Case("rescued/fb-s07", False, "pass", (1, 1), 5.0),
    Case("fault/fb-s07", True, "safe", (1, 1), STREAM_TIMEOUT, 408),
    Case("fault/fb-s07", False, "pass", (1, 1), 5.0),
    # S08, S09, S14: words that are out cannot be taken back, so a stream ends with an error. A plain answer is retried.
    Case("rescued/fb-s08", True, "safe", (1, 1), 1.0),
    Case("rescued/fb-s08", False, "pass", (1, 3), 4.0),
    Case("fault/fb-s08", True, "safe", (1, 1), 1.0),
    Case("fault/fb-s08", False, "safe", (1, 3), 4.0, 502),
    Case("rescued/fb-s09", True, "safe", (1, 1), STREAM_TIMEOUT + 0.5),
    Case("rescued/fb-s09", False, "pass", (1, 1), TIMEOUT),
    Case("fault/fb-s09", True, "safe", (1, 1), STREAM_TIMEOUT + 0.5),
    Case("fault/fb-s09", False, "safe", (1, 1), TIMEOUT, 408),
    Case("prefill-rescued/fb-s14", True, "safe", (1, 1), 1.0),
    Case("prefill-rescued/fb-s14", False, "pass", (1, 3), 4.0),
    # S10: an event that does not parse.
    Case("rescued/fb-s10", True, "pass", (1, 1), 1.0),
    Case("rescued/fb-s10", False, "pass", (1, 3), 4.0),
    Case("fault/fb-s10", True, "pass", (1, 1), 1.0),
    Case("fault/fb-s10", False, "safe", (1, 3), 4.0, 502),
    # S11: whole but for its [DONE].
    *alone("s11", "pass", (1, 1), 2.5),
    # S12: the same prompt is too long every time.
    *rescued("s12", (1, 1), 1.0),
    *alone("s12", "safe", (1, 1), 1.0, 400),
    # S13: a refusal is the answer, and is not routed around.
    *both("rescued/fb-s13", "safe", (1, 1), 1.0, 400),
    *alone("s13", "safe", (1, 1), 1.0, 400),
]

REPORTED = [
    # F01: a login page, nothing, null or an error object with a 200.
    *(case for variant in "abcde" for case in rescued(f"f01-{variant}", (1, 3), 4.0)),
    *(case for variant in "abcd" for case in alone(f"f01-{variant}", "safe", (1, 3), 4.0, 502)),
    # F02: gzip that ends early, and a label without gzip.
    *(case for variant in "ab" for case in rescued(f"f02-{variant}", (1, 3), 4.0)),
    # F03: lengths that are wrong, for plain answers.
    *(Case(f"rescued/fb-f03-{variant}", False, "pass", (1, 3), 5.0) for variant in "abcd"),
    # F04 to F06: legal, and rarely seen.
    *(Case(f"fault/fb-f04-{variant}", True, "pass", (1, 1), 1.0) for variant in "abcde"),
    # One byte a segment takes a busy machine longer than `fault` has for the next content.
    Case("patient/fb-f05", True, "pass", (1, 1), 2.0),
    Case("fault/fb-f06", True, "pass", (1, 1), 1.0),
    # F07: comments are not content.
    Case("rescued/fb-f07", True, "pass", (1, 1), STREAM_TIMEOUT),
    Case("fault/fb-f07", True, "safe", (1, 1), STREAM_TIMEOUT, 408),
    Case("fault/fb-f08-endless", True, "safe", (1, 3), 6.0, 502),
    # F11, F12: odd ends, odd usage.
    *(Case(f"fault/fb-f11-{variant}", True, "pass", (1, 1), 1.0) for variant in "abcd"),
    *(Case(f"fault/fb-f12-{variant}", True, "pass", (1, 1), 1.0) for variant in "abcd"),
    # F14: an error inside a stream; before the first word it can still be retried.
    *(Case(f"rescued/fb-f14-{variant}", True, "pass", (1, 3), 4.0) for variant in "ab"),
    *(Case(f"claude-rescued/fb-f14-{variant}", True, "pass", (1, 3), 15.0) for variant in "ab"),
    *(Case(f"claude-fault/fb-f14-{variant}", True, "safe", (1, 3), 4.0, 503) for variant in "ab"),
    Case("claude-fault/fb-f14-c", True, "safe", (1, 1), 1.0),
    Case("claude-rescued/fb-f14-c", True, "safe", (1, 1), 1.0),
    # F15: success without an answer.
    *(case for variant in "abc" for case in rescued(f"f15-{variant}", (1, 3), 4.0)),
    # F16: when to come back.
    *(Case(f"fault/fb-f16-{variant}", False, "pass", (2, 2), 4.5) for variant in "abcdfhij"),
    Case("rescued/fb-f16-g", False, "pass", (1, 1), 1.0),
    Case("quota/fb-f16-k", False, "safe", (1, 1), 1.0, 429),
    # F20: ends that are none, and one that is.
    Case("fault/fb-f20-a", True, "pass", (1, 1), 3.0),
    *(Case(f"fault/fb-f20-{variant}", True, "safe", (1, 1), 1.0) for variant in "bcd"),
]

CASES = [*FAILOVER_BENCH, *REPORTED]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(timings=TIMINGS) as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def headrace(
    upstream: FakeUpstream, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Headrace]:
    """With keep-alives so rare that errors keep their own status."""
    folder = tmp_path_factory.mktemp("headrace")
    settings = {"HEADRACE_KEEPALIVE_SECONDS": "60"}
    async with deployed(write_config(folder, upstream), servers, folder, extra=settings) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runs(headrace: Headrace, upstream: FakeUpstream) -> dict[str, Run]:
    """Every case, played side by side with others."""
    upstream.reset()
    slots = asyncio.Semaphore(_AT_ONCE)
    async with openai.AsyncOpenAI(base_url=f"{headrace.url}/v1", api_key=MASTER_KEY, max_retries=0) as client:
        played = await asyncio.gather(*(_play(client, case, slots) for case in CASES))
    for case, run in zip(CASES, played, strict=True):
        run.attempts = [each for each in upstream.requests if each.model == case.upstream_model]
    return {case.name: run for case, run in zip(CASES, played, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_fault_ends_in_the_whole_answer_or_one_clean_error(runs: dict[str, Run], case: Case) -> None:
    run = runs[case.name]

    assert run.verdict == case.verdict, run
    assert run.finishes <= 1
    assert case.attempts[0] <= len(run.attempts) <= case.attempts[1]
    assert run.seconds < case.seconds + _BUSY
    assert case.status is None or run.status == case.status
    assert run.healthy_after


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("fault-s01-stream", 0.9, 2.0),
        ("rescued-s01", 0.9, 2.0),
        ("fault-f16-a", 1.8, 4.5),  # a date is cut to whole seconds
        ("fault-f16-b", 0.0, 1.0),
        ("fault-f16-f", 1.4, 2.5),
        ("fault-f16-h", 0.6, 1.7),
        ("fault-f16-i", 1.1, 2.2),
        ("fault-f16-j", 0.9, 2.0),
    ],
)
async def test_the_provider_is_asked_again_when_it_said_to(
    runs: dict[str, Run], name: str, least: float, most: float
) -> None:
    first, second = runs[name].attempts

    assert first.ended_at is not None
    assert least <= second.at - first.ended_at < most + _BUSY


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("rescued-s06", TIMEOUT),
        ("rescued-s06-stream", STREAM_TIMEOUT),
        ("fault-s09", TIMEOUT),
        ("fault-s09-stream", STREAM_TIMEOUT),
        ("rescued-f07-stream", STREAM_TIMEOUT),
    ],
)
async def test_an_attempt_that_timed_out_is_hung_up_on(runs: dict[str, Run], name: str, limit: float) -> None:
    [attempt] = runs[name].attempts

    assert attempt.hung_up_at is not None
    assert limit - 0.2 < attempt.hung_up_at - attempt.at < limit + 3.0


@pytest.mark.parametrize("name", ["rescued-s16", "rescued-s16-stream"])
async def test_a_rescued_answer_names_the_fallbacks_model_and_its_usage(runs: dict[str, Run], name: str) -> None:
    run = runs[name]

    assert run.served_by == "fb-ok"
    assert run.usage == 68


async def test_a_flapping_primary_is_used_again_when_it_is_back(
    client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    """S15, with an outage of 3 s."""
    answers = []
    for _ in range(10):
        began = time.monotonic()
        answers.append(await _ask(client, "rescued/flapping/fb-s15", stream=True))
        await asyncio.sleep(max(0.0, 0.6 - (time.monotonic() - began)))

    primary = [each for each in upstream.requests if each.model == "flapping/fb-s15"]
    assert [answer.verdict for answer in answers] == ["pass"] * 10
    assert primary[-1].status == 200


@pytest.mark.parametrize("variant", "ab")
async def test_a_pooled_connection_that_died_costs_nobody_an_answer(client: openai.AsyncOpenAI, variant: str) -> None:
    """F18: the provider closes connections after one answer; many of them are in the pool."""
    model = f"fault/pooled/fb-f18-{variant}"
    await asyncio.gather(*(_ask(client, "gpt", stream=False) for _ in range(8)))

    runs = [await _ask(client, model, stream=False) for _ in range(6)]

    assert [run.verdict for run in runs] == ["pass"] * 6
    assert [run.retries for run in runs] == [0] * 6, "a dead connection is not the provider's failure"


async def test_a_pooled_connection_that_fell_silent_is_rescued(client: openai.AsyncOpenAI) -> None:
    model = "rescued/pooled/fb-f18-c"

    runs = [await _ask(client, model, stream=True) for _ in range(3)]

    assert [run.verdict for run in runs] == ["pass"] * 3


async def _play(client: openai.AsyncOpenAI, case: Case, slots: asyncio.Semaphore) -> Run:
    async with contextlib.nullcontext() if any(each in case.model for each in _SILENT) else slots:
        run = await _ask(client, case.asked, stream=case.stream)
        run.healthy_after = (await _ask(client, "gpt", stream=False)).verdict == "pass"
        return run


async def _ask(client: openai.AsyncOpenAI, model: str, *, stream: bool) -> Run:
    run = Run()
    began = time.monotonic()
    try:
        if stream:
            await _read(client, model, run)
        else:
            response = await client.chat.completions.with_raw_response.create(model=model, messages=QUESTION)
            answer = response.parse()
            run.retries = int(response.headers["x-litellm-attempted-retries"])
            run.text, run.finish = answer.choices[0].message.content or "", answer.choices[0].finish_reason
            run.served_by, run.usage = answer.model, answer.usage.total_tokens if answer.usage else 0
    except openai.APIError as error:
        run.error = error
    except ValueError as error:
        run.unreadable = repr(error)
    run.seconds = time.monotonic() - began
    return run


async def _read(client: openai.AsyncOpenAI, model: str, run: Run) -> None:
    options = {"include_usage": True}
    async for chunk in await client.chat.completions.create(
        model=model, messages=QUESTION, stream=True, stream_options=options
    ):
        run.served_by = chunk.model
        run.usage = chunk.usage.total_tokens if chunk.usage else run.usage
        for choice in chunk.choices:
            run.text += choice.delta.content or ""
            run.finish = choice.finish_reason or run.finish
            run.finishes += choice.finish_reason is not None
