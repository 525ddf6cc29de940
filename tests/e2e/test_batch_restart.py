"""A new user's trial: submit a batch, pull the plug in the middle, start again, and have every line once."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.conftest import write_config
from tests.e2e.deployment import Headrace, Process, Servers, deployed
from tests.fakes.upstream import ANSWER, FakeUpstream

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

_LINES = 200
_CONCURRENCY = 8  # lines that a worker has in hand, so that there is a middle
_LATENCY = 0.1  # seconds
_PATIENCE = 120.0  # seconds


@pytest_asyncio.fixture(loop_scope="module")
async def headrace(upstream: FakeUpstream, servers: Servers, tmp_path: Path) -> AsyncIterator[Headrace]:
    upstream.reset()
    upstream.latency = _LATENCY
    settings = {"HEADRACE_CONCURRENCY": str(_CONCURRENCY)}
    async with deployed(write_config(tmp_path, upstream), servers, tmp_path, workers=2, extra=settings) as running:
        yield running


async def test_a_batch_completes_with_every_line_once_after_everything_was_killed(
    headrace: Headrace, upstream: FakeUpstream
) -> None:
    (headrace.folder / "prompts.jsonl").write_text("".join(f"{json.dumps(_line(n))}\n" for n in range(_LINES)))
    processes = [*headrace.apis, *headrace.workers]

    submitting = await _command(headrace, "submit", "prompts.jsonl")
    await asyncio.wait_for(upstream.arrived(_LINES // 3), _PATIENCE)
    await _kill(processes)
    called = len(upstream.requests)
    await asyncio.gather(*(each.start() for each in processes))
    output, progress = await asyncio.wait_for(submitting.communicate(), _PATIENCE)
    answers = await _command(headrace, "results", output.decode().strip())
    lines = [json.loads(line) for line in (await answers.communicate())[0].splitlines()]

    print(f"\nrestart: {called} of {_LINES} lines called before the kill, {len(upstream.requests)} calls in all")
    assert submitting.returncode == 0, progress.decode()
    assert f"completed: {_LINES} of {_LINES} done, 0 failed" in progress.decode()
    assert called < _LINES
    assert sorted(line["custom_id"] for line in lines) == sorted(f"line-{n}" for n in range(_LINES))
    assert {line["response"]["body"]["choices"][0]["message"]["content"] for line in lines} == {ANSWER}
    assert len(upstream.requests) < _LINES + called  # what was done was not done again


def _line(number: int) -> dict[str, object]:
    body = {"model": "gpt", "messages": [{"role": "user", "content": f"What is headrace number {number}?"}]}
    return {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


async def _command(headrace: Headrace, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "api.cli", "batch", *arguments, cwd=headrace.folder,
        env={**headrace.environment, "HEADRACE_BASE_URL": headrace.url},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def _kill(processes: list[Process]) -> None:
    for each in processes:
        each.kill()
    for each in processes:
        assert each.process is not None
        await each.process.wait()
