"""Reads the ledger as an operator does; the recorder is a moment behind the answers."""

import asyncio
from typing import Any

import aiohttp

from tests.e2e.deployment import MASTER_KEY, Headrace

_PATIENCE = 60.0  # seconds
_POLL = 0.05


async def get(headrace: Headrace, path: str, **query: str) -> Any:
    """The JSON at `path`, asked for by the operator."""
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {MASTER_KEY}"}) as session,
        session.get(f"{headrace.url}{path}", params=query) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def ledger_rows(headrace: Headrace, job_id: str, count: int = 1) -> list[dict[str, Any]]:
    """The rows of a job's attempts, in order, as soon as there are `count`."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            rows = await get(headrace, "/spend/logs", limit="10000")
            found = [row for row in rows if row["litellm_call_id"] == job_id]
            if len(found) >= count:
                return sorted(found, key=lambda row: row["attempt"])
            await asyncio.sleep(_POLL)
