"""What an api says of itself, to wait for."""

import asyncio

import aiohttp

from tests.e2e.deployment import MASTER_KEY, Headrace

_PATIENCE = 60.0  # seconds
_POLL = 0.02
_IN_FLIGHT = "\nlitellm_in_flight_requests "


async def in_flight(headrace: Headrace) -> int:
    """Requests that the first api is answering, this one not among them."""
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {MASTER_KEY}"}) as session,
        session.get(f"{headrace.url}/metrics") as answer,
    ):
        page = await answer.text()
    return round(float(page.partition(_IN_FLIGHT)[2].partition("\n")[0])) - 1


async def all_accepted(headrace: Headrace, asking: "list[asyncio.Task[object]]", before: int = 0) -> None:
    """Wait until the first api has every request of these tasks in hand, or has answered it; `before` are those of
    others that it has in hand all the time."""
    async with asyncio.timeout(_PATIENCE):
        while sum(task.done() for task in asking) + await in_flight(headrace) < len(asking) + before:
            await asyncio.sleep(_POLL)


async def few_left(headrace: Headrace, count: int) -> None:
    """Wait until the first api has no more than so many requests in hand."""
    async with asyncio.timeout(_PATIENCE):
        while await in_flight(headrace) > count:
            await asyncio.sleep(_POLL)
