"""Clients that follow a job's events, on an api with two tenants."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

from broker.account_records import Actor
from broker.records import KeyRecord
from shared.jobs import Job
from tests.fakes import asgi
from tests.fakes.api import KEY, Api, api
from tests.fakes.asgi import Exchange

TENANT = "sk-tenant-1"
OTHER = "sk-tenant-2"


@asynccontextmanager
async def api_with_tenants(folder: Path) -> AsyncIterator[Api]:
    async with api(folder, keepalive_seconds=0.05) as running:
        for key in (TENANT, OTHER):
            await running.backends.store.keys.add(
                KeyRecord(hashed(key), f"{key[:4]}...", created_at=time.time()), Actor("test")
            )
        yield running


def hashed(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def watch(it: Api, job_id: str, query: str = "", last: str | None = None, key: str = KEY) -> Exchange:
    """Ask for a job's events."""
    headers = {"authorization": f"Bearer {key}"} | ({} if last is None else {"last-event-id": last})
    return asgi.start(it.app, "GET", f"/v1/jobs/{job_id}/events{query}", headers=headers)


async def streaming(it: Api, key: str = KEY) -> tuple[Exchange, Job]:
    exchange = it.chat(stream=True, headers={"authorization": f"Bearer {key}"})
    return exchange, await it.next_job()


def frames(body: bytes) -> list[bytes]:
    """What a client makes of it: complete frames, without comments and the opening."""
    lines = [line for line in body.split(b"\n") if not line.startswith(b":")]
    return [frame for frame in b"\n".join(lines[1:]).split(b"\n\n") if frame]


async def finished_stream(it: Api) -> tuple[Job, bytes]:
    """Three events of four frames, and what the first client got."""
    exchange, job = await streaming(it)
    await it.chunk(job, 1, "one")
    await it.chunk(job, 2, "two\n\ndata: three")
    await it.chunk(job, 3, "four")
    await it.completed(job, 4)
    return job, (await exchange.finished()).body
