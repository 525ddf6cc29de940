"""The examples of the documentation run as they are, against the config that `make run` starts."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.e2e.deployment import MASTER_KEY, Headrace, Servers, deployed

_ROOT = Path(__file__).parents[2]
_PATIENCE = 100.0  # seconds


@pytest_asyncio.fixture
async def headrace(tmp_path: Path) -> AsyncIterator[Headrace]:
    config = Path(shutil.copy(_ROOT / "config.example.yaml", tmp_path / "config.yaml"))
    async with deployed(config, Servers(), tmp_path) as running:
        yield running


async def test_the_batch_example_answers_every_prompt(headrace: Headrace) -> None:
    output = await _example(headrace, "batch.py", "--base-url", f"{headrace.url}/v1", "--prompts", "5")

    assert "completed: 5 of 5 done, 0 failed" in output
    assert "document-5: Summarise document 5." in output


async def test_the_resume_example_survives_its_own_cuts(headrace: Headrace) -> None:
    cut = await _example(headrace, "resume.py", "--base-url", headrace.url, "--cut-every", "10")
    whole = await _example(headrace, "resume.py", "--base-url", headrace.url)

    assert cut.count("[cut]") >= 3
    assert cut.replace("[cut]", "").split() == whole.split() != []


async def _example(headrace: Headrace, name: str, *arguments: str) -> str:
    """What it prints; it must end well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(_ROOT / "docs" / "examples" / name), *arguments,
        env={**headrace.environment, "HEADRACE_API_KEY": MASTER_KEY},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_PATIENCE):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()
