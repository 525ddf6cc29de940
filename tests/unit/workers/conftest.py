"""The provider that answers, and a worker's world in front of it."""

from collections.abc import AsyncIterator

import pytest

from tests.fakes.seams import World, deployment, world
from tests.fakes.upstream import FakeUpstream


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest.fixture
async def one(upstream: FakeUpstream) -> AsyncIterator[World]:
    """A world with a single deployment that answers."""
    async with world(deployment("a", upstream.url)) as it:
        yield it
