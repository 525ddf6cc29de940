"""What must agree once all is quiet: the attempts that the provider saw, the ledger's rows, and the buckets."""

import asyncio
import contextlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import yaml

from broker.interfaces import BucketState
from broker.limits import redis as redis_limits
from broker.limits import token_bucket
from shared import config as configuration
from shared.catalog import Deployment
from shared.catalog_builder import build_catalog
from tests.e2e.deployment import Servers

RPM = 600_000.0
TPM = 60_000_000.0
"""Limits that count everything and hold back nothing."""
_UNSEEN = ("unknown", "cancelled")
_POLL = 0.2  # seconds between two looks at something that settles by itself

Attempt = tuple[str, int]
"""A job's id and the attempt's number."""


@dataclass
class UpstreamProcess:
    """The fake provider outside of the test's process, so that neither slows the other down, and its log."""

    url: str
    log: Path
    bills: Path | None = None
    """One line for each attempt that is over, if it keeps any."""

    def attempts(self, model: str = "") -> list[Attempt]:
        """What has arrived so far, in order; of one upstream model, or of all."""
        text = self.log.read_text() if self.log.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [(line["job_id"], int(line["attempt"])) for line in lines if model in ("", line["model"])]

    async def arrived(self, count: int, model: str = "", *, timeout: float = 60.0) -> list[Attempt]:
        """Wait until so many attempts have arrived."""
        async with asyncio.timeout(timeout):
            while len(seen := self.attempts(model)) < count:
                await asyncio.sleep(0.02)
        return seen


@contextlib.asynccontextmanager
async def upstream_process(folder: Path, *, latency: float, pace: float = 0.0) -> AsyncIterator[UpstreamProcess]:
    """`latency` is seconds before an answer, `pace` seconds between two words of a stream."""
    log, bills = folder / "attempts.jsonl", folder / "bills.jsonl"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fakes.upstream",
        "--log", str(log), "--bills", str(bills), "--latency", str(latency), "--pace", str(pace),
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2], env=dict(os.environ),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            greeting = (await process.stdout.readline()).decode()
        yield UpstreamProcess(greeting.split()[-1], log, bills)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def write_config(folder: Path, upstream: UpstreamProcess, models: Sequence[str] = ("chat",)) -> Path:
    """`models`, with limits that the load does not reach, so that buckets and leases exist."""
    path = folder / "config.yaml"
    entries = [{"model_name": model, "litellm_params": _params(model, upstream)} for model in models]
    path.write_text(yaml.safe_dump({"model_list": entries}))
    return path


def _params(model: str, upstream: UpstreamProcess) -> dict[str, object]:
    limits = {"rpm": int(RPM), "tpm": int(TPM), "max_parallel_requests": 1000}
    return {"model": f"openai/{model}", "api_key": "sk-upstream", "api_base": f"{upstream.url}/v1", **limits}


@dataclass(frozen=True, slots=True)
class Books:
    """Attempts against rows."""

    attempts: int
    """That the provider saw."""
    rows: int
    statuses: dict[str, int]
    repeated: list[Attempt]
    """Seen by the provider more than once."""
    unbooked: list[Attempt]
    """Seen by the provider, and without a row."""
    unseen: list[Attempt]
    """Rows of attempts that the provider never saw: `unknown` if the worker died between its note and the call,
    `cancelled` if the client left before the provider had read the request, which is billed all the same."""
    invented: list[Attempt]
    """Other rows of attempts that the provider never saw."""

    @property
    def balanced(self) -> bool:
        return not (self.repeated or self.unbooked or self.invented)

    def __str__(self) -> str:
        flaws = {name: len(getattr(self, name)) for name in ("repeated", "unbooked", "unseen", "invented")}
        return f"{self.attempts} attempts, {self.rows} rows {self.statuses}, {flaws}"


async def balanced_books(upstream: UpstreamProcess, servers: Servers, *, timeout: float = 60.0) -> Books:
    """The books, as soon as they balance and stay so for a second; those of the last look if they never do."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + timeout
    good_since = None
    before: Books | None = None
    while True:
        books = await _books(upstream, servers)
        now = loop.time()
        if not books.balanced or books != before:
            good_since = None
        elif good_since is None:
            good_since = now
        if now > give_up or (good_since is not None and now - good_since > 1.0):
            return books
        before = books
        await asyncio.sleep(_POLL)


async def _books(upstream: UpstreamProcess, servers: Servers) -> Books:
    seen = Counter(upstream.attempts())
    connection = await asyncpg.connect(servers.database, timeout=30)
    try:
        found = await connection.fetch("SELECT job_id, attempt, status FROM ledger")
    except asyncpg.UndefinedTableError:
        found = []
    finally:
        await connection.close(timeout=30)
    rows = {(row["job_id"], row["attempt"]): row["status"] for row in found}
    extra = [each for each in rows if each not in seen]
    return Books(
        attempts=seen.total(),
        rows=len(rows),
        statuses=dict(sorted(Counter(rows.values()).items())),
        repeated=[each for each, times in seen.items() if times > 1],
        unbooked=[each for each in seen if each not in rows],
        unseen=[each for each in extra if rows[each] in _UNSEEN],
        invented=[each for each in extra if rows[each] not in _UNSEEN],
    )


async def resting_buckets(config: Path, servers: Servers, *, timeout: float = 30.0) -> list[BucketState]:
    """The states of all buckets, as soon as they rest, else after `timeout` seconds."""
    buckets = sorted({deployment.bucket for deployment in _deployments(config)})
    assert servers.redis is not None
    loop = asyncio.get_running_loop()
    give_up = loop.time() + timeout
    async with redis_limits.connect(servers.redis, namespace=servers.namespace) as limiter:
        while True:
            states = await limiter.state(buckets)
            if all(at_rest(state) for state in states) or loop.time() > give_up:
                return states
            await asyncio.sleep(_POLL)


def at_rest(state: BucketState) -> bool:
    """Nobody holds a slot, and both balances are what they were before the first request."""
    return (
        state.in_flight == 0
        and _full(state.requests, token_bucket.request_capacity(RPM))
        and _full(state.tokens, token_bucket.token_capacity(TPM))
    )


def _full(balance: float | None, capacity: float) -> bool:
    return balance is None or math.isclose(balance, capacity)


def _deployments(config: Path) -> list[Deployment]:
    return build_catalog(configuration.load(config, {})).deployments()
