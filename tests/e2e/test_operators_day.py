"""The operator's day in `docs/keys.md`, block by block, with curl alone."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.deployment import MASTER_KEY, Headrace, Servers, deployed
from tests.e2e.servers import real_servers

_PAGE = (Path(__file__).parents[2] / "docs" / "keys.md").read_text()
_PATIENCE = 100.0  # seconds


@pytest_asyncio.fixture(params=["embedded", "distributed"])
async def headrace(request: pytest.FixtureRequest, worker_number: int, tmp_path: Path) -> AsyncIterator[Headrace]:
    config = tmp_path / "config.yaml"
    config.write_text(_block("yaml")[0])
    if request.param == "embedded":
        async with deployed(config, Servers(), tmp_path) as running:
            yield running
        return
    async with real_servers(worker_number) as servers, deployed(config, servers, tmp_path) as running:
        yield running


async def test_the_operators_day_runs_as_it_is_written(headrace: Headrace) -> None:
    assert shutil.which("curl"), "the page is for people with curl"
    steps = [step for block in _block("bash")[1:] for step in _steps(block)]

    answers = await asyncio.to_thread(_run, headrace, steps)

    asked = [step.split()[2] for step in steps if step.startswith("curl")]
    said = dict(zip(asked, answers, strict=True))  # of several to one address the last
    refused = [answer["error"]["type"] for answer in answers if isinstance(answer, dict) and "error" in answer]
    assert refused == ["budget_exceeded", "auth_error"]
    assert said["$URL/key/regenerate"]["key"] == "sk-ann-after-the-leak-01"
    assert any(row["end_user"] == "customer-7" for row in _of(said, "/spend/logs/v2")["data"])
    assert _of(said, "/team/daily/activity")["metadata"]["total_spend"] > 0
    assert [day["metrics"]["api_requests"] for day in _of(said, "/tag/daily/activity")["results"]] == [1]
    assert {row["action"] for row in _of(said, "/audit")["audit_logs"]} >= {"regenerated", "blocked", "unblocked"}


def _of(said: dict[str, dict[str, object]], path: str) -> dict[str, object]:
    return next(answer for url, answer in said.items() if path in url)


def _block(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", _PAGE, re.MULTILINE | re.DOTALL)


def _steps(block: str) -> list[str]:
    """Its commands: a line with an open quote goes on."""
    steps: list[str] = []
    for line in block.splitlines():
        if steps and steps[-1].count("'") % 2:
            steps[-1] += f"\n{line}"
        else:
            steps.append(line)
    return steps


def _run(headrace: Headrace, steps: list[str]) -> list[dict[str, object]]:
    """Run the steps in one shell; what each call answered."""
    marked = [f"{step}; printf '\\036'" if step.startswith("curl") else step for step in steps]
    # The ledger is written a moment after the answer.
    recorded = 'until curl -s "$URL/spend/logs" -H "$ADMIN" | grep -q customer-7; do sleep 0.1; done'
    marked.insert(next(n for n, step in enumerate(steps) if step.startswith("MONTH")), recorded)
    script = "\n".join(marked).replace("http://127.0.0.1:4000", headrace.url)
    environment = {"PATH": headrace.environment["PATH"], "HEADRACE_MASTER_KEY": MASTER_KEY}
    done = subprocess.run(
        ["/bin/sh", "-eu"], input=script, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=True
    )
    return [json.loads(part) for part in done.stdout.split("\036") if part.strip()]
