"""A few go on at a time, and a tenant's burst does not go before another's single request."""

import asyncio
from collections.abc import Sequence

import pytest

from shared import turns
from shared.turns import Turns


class Scene:
    def __init__(self, most: int) -> None:
        self.turns = Turns(most)
        self.begun: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def come(self, tenants: Sequence[str]) -> None:
        self.tasks += [asyncio.create_task(self._request(tenant)) for tenant in tenants]

    async def _request(self, tenant: str) -> None:
        await self.turns.wait(tenant)
        self.begun.append(tenant)

    async def turn(self) -> list[str]:
        """Who begins in the next turn of the loop."""
        before = len(self.begun)
        await asyncio.sleep(0)
        return self.begun[before:]

    async def all(self) -> list[str]:
        await asyncio.gather(*self.tasks)
        return self.begun


async def beside_others(most: int) -> Scene:
    """Where other tenants have come a moment ago."""
    it = Scene(most)
    for tenant in "xy":
        await it.turns.wait(tenant)
    await it.turn()
    await it.turn()
    return it


async def test_who_is_alone_waits_for_no_turn() -> None:
    it = Scene(most=2)

    it.come("a" * 7)

    assert len(await it.turn()) == 7


async def test_others_are_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    it = await beside_others(most=2)
    monkeypatch.setattr(turns, "_LATELY", -1.0)

    it.come("y" * 7)

    assert len(await it.turn()) == 7


async def test_who_goes_first_does_not_wait_and_makes_others_take_turns() -> None:
    it = Scene(most=2)
    await it.turns.wait("loud")
    it.come(["loud"] * 3)
    await it.turn()  # they were alone

    await it.turns.wait("quiet", first=True)
    it.come(["loud"] * 7)

    assert it.begun == ["loud"] * 3
    assert len(await it.turn()) == 2


async def test_few_requests_begin_at_once() -> None:
    it = Scene(most=2)

    it.come("ab")

    assert await it.turn() == ["a", "b"]


async def test_no_turn_has_more_than_its_share_of_a_burst() -> None:
    it = await beside_others(most=2)
    it.come("a" * 7)

    turns = []
    while len(it.begun) < 7:
        turns.append(len(await it.turn()))

    assert max(turns) == 2


async def test_who_sends_one_request_does_not_wait_behind_a_burst() -> None:
    it = await beside_others(most=2)
    it.come("a" * 10)
    await it.turn()

    it.come("b")

    order = await it.all()
    assert len(order) == 11
    assert order.index("b") <= 6


async def test_tenants_take_turns_and_each_keeps_its_order() -> None:
    it = await beside_others(most=1)
    it.come("aaabbb")

    assert "".join(await it.all()) == "aababb"


async def test_a_request_that_was_given_up_takes_no_place() -> None:
    it = await beside_others(most=1)
    it.come("aab")
    await it.turn()

    it.tasks[1].cancel()

    await asyncio.gather(*it.tasks, return_exceptions=True)
    assert it.begun == ["a", "b"]


async def test_an_idle_server_has_nothing_scheduled() -> None:
    it = await beside_others(most=1)
    it.come("a")
    await it.all()
    await it.turn()
    await it.turn()

    assert not it.turns._due
