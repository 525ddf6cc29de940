"""`headrace dead` and `headrace queues`, against a server in this process."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import orjson
import pytest
from click.testing import Result
from typer.testing import CliRunner

from api.cli import app
from broker.records import DeadLetter
from shared.jobs import Job, Lane, Leg, Outcome, Status
from tests.fakes.api import KEY, Api, api
from tests.fakes.http_server import serving

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path) as it:
        yield it


@pytest.fixture
async def run(it: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Run]:
    """Runs a command with the master key, as an operator would."""
    async with serving(it.app) as address:
        monkeypatch.chdir(tmp_path)  # away from anybody's .env
        monkeypatch.setenv("HEADRACE_BASE_URL", address)
        monkeypatch.setenv("HEADRACE_API_KEY", KEY)

        async def run(*words: str, answer: str = "") -> Result:
            # The command runs an event loop of its own.
            return await asyncio.to_thread(CliRunner().invoke, app, words, answer)

        yield run


def a_letter(job_id: str, provider: str = "openai", age: float = 0.0) -> DeadLetter:
    now = time.time()
    job = Job(
        id=job_id,
        endpoint="chat.completions",
        model="chat",
        route=(Leg(provider, "chat", ("d",)),),
        body=b'{"model":"chat","messages":[{"role":"user","content":"a secret"}]}',
        reply_to="",
        accepted_at=now - 60,
        deadline=now + 60,
        lane=Lane.BATCH,
        tags=("nightly",),
    )
    return DeadLetter(job_id, provider, "crashed 3 workers [bold]", job.headers(), job.body, now - age)


async def left(it: Api) -> list[str]:
    return [letter.job_id for letter in await it.backends.store.dead_letters.find()]


async def test_dead_jobs_are_listed_with_their_reasons(it: Api, run: Run) -> None:
    await it.backends.store.dead_letters.add([a_letter("old", age=5), a_letter("new"), a_letter("else", "mistral")])

    result = await run("dead", "list", "--provider", "openai")
    short = await run("dead", "list", "--provider", "openai", "--limit", "1")

    lines = [line.split() for line in result.stdout.splitlines() if "crashed" in line]
    assert result.exit_code == 0
    assert [(line[0], line[1]) for line in lines] == [("new", "openai"), ("old", "openai")]
    assert "crashed 3 workers [bold]" in result.stdout
    assert "add --after new" in short.stderr


async def test_the_json_of_a_command_is_the_apis(it: Api, run: Run) -> None:
    await it.backends.store.dead_letters.add([a_letter("a")])

    listed = orjson.loads((await run("dead", "list", "--json")).stdout)
    shown = orjson.loads((await run("dead", "show", "a", "--json")).stdout)
    queues = orjson.loads((await run("queues", "list", "--json")).stdout)

    assert listed == (await it.ask("GET", "/v1/dead")).json
    assert shown == (await it.ask("GET", "/v1/dead/a")).json
    assert [lane["id"] for lane in queues["data"]] == ["openai.interactive", "openai.batch"]


async def test_a_dead_job_is_shown_with_its_attempts_and_its_prompt_only_if_asked_for(it: Api, run: Run) -> None:
    await it.backends.store.dead_letters.add([a_letter("a")])
    attempt = Outcome(
        "a", 1, time.time(), "chat.completions", "chat", "chat", "d", "openai", "gpt", Status.UNKNOWN,
        error_code="worker_lost", error_message="it went away", duration=1.25,
    )  # fmt: skip
    await it.backends.store.record([attempt])

    plain = await run("dead", "show", "a")
    whole = await run("dead", "show", "a", "--body")

    for words in ("crashed 3 workers [bold]", "nightly", "unknown", "1.250", "worker_lost: it went away"):
        assert words in plain.stdout
    assert ("secret" in plain.stdout, "secret" in whole.stdout) == (False, True)


async def test_dead_jobs_run_again(it: Api, run: Run) -> None:
    await it.backends.store.dead_letters.add([a_letter("a"), a_letter("b"), a_letter("c")])

    result = await run("dead", "retry", "a", "b")

    async with asyncio.timeout(60):
        jobs = [await it.next_job() for _ in range(2)]
    assert result.exit_code == 0
    assert result.stdout.split() == [job.id for job in jobs]
    assert await left(it) == ["c"]


@pytest.mark.parametrize(
    ("words", "answer", "exit_code", "remaining"),
    [
        (["a"], "", 0, {"b", "c"}),
        (["a", "b"], "", 0, {"c"}),
        (["--provider", "mistral", "--yes"], "", 0, {"a", "b"}),
        (["--provider", "mistral"], "y\n", 0, {"a", "b"}),
        (["--provider", "mistral"], "n\n", 1, {"a", "b", "c"}),
        (["--all", "-y"], "", 0, set()),
        (["--all"], "", 1, {"a", "b", "c"}),
        ([], "", 2, {"a", "b", "c"}),
        (["a", "--all"], "", 2, {"a", "b", "c"}),
        (["--provider", "mistral", "--all"], "", 2, {"a", "b", "c"}),
        (["none"], "", 1, {"a", "b", "c"}),
        ([""], "", 1, {"a", "b", "c"}),
        (["../dead"], "", 1, {"a", "b", "c"}),
        (["."], "", 1, {"a", "b", "c"}),
    ],
)
async def test_dead_jobs_are_thrown_away(
    it: Api, run: Run, words: list[str], answer: str, exit_code: int, remaining: set[str]
) -> None:
    await it.backends.store.dead_letters.add([a_letter("a"), a_letter("b"), a_letter("c", "mistral")])

    result = await run("dead", "purge", *words, answer=answer)

    assert result.exit_code == exit_code, result.output
    assert set(await left(it)) == remaining


async def test_a_queue_is_paused_and_resumed(it: Api, run: Run) -> None:
    paused = await run("queues", "pause", "openai.batch")
    listed = await run("queues", "list")
    resumed = await run("queues", "resume", "openai.batch")

    assert (paused.stdout, resumed.stdout) == ("openai.batch: paused\n", "openai.batch: running\n")
    states = {line.split()[0]: line.split()[-1] for line in listed.stdout.splitlines() if "openai." in line}
    assert states == {"openai.interactive": "running", "openai.batch": "paused"}
    assert await it.log.paused_lanes() == frozenset()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dead", "show", "none"], "No dead letter found with id 'none'."),
        (["dead", "retry", "none"], "No dead letter found with id 'none'."),
        (["queues", "pause", "nobody.batch"], "No such queue: nobody.batch."),
    ],
)
async def test_what_the_server_refuses_is_one_line_and_exit_code_1(run: Run, words: list[str], said: str) -> None:
    result = await run(*words)

    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
