"""The kill matrix in small: each part of a deployment is killed once. `make chaos` kills each in every phase."""

from collections.abc import AsyncIterator
from random import Random

import pytest
import pytest_asyncio

from tests.chaos import cell
from tests.chaos.cell import SMALL, Phase
from tests.chaos.fleet import Fleet, Victim, fleet
from tests.conftest import server_address
from tests.servers import ALL

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

CELLS = [
    (Victim.API, Phase.STREAMING),
    (Victim.FEEDER, Phase.QUEUED),
    (Victim.WORKER, Phase.RUNNING),
    (Victim.RECORDER, Phase.RECORDING),
    (Victim.REDIS, Phase.STREAMING),
    (Victim.POSTGRESQL, Phase.RECORDING),
    (Victim.RABBITMQ, Phase.RUNNING),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    for kind in ALL:  # not for our use: it decides what happens on a machine without the servers' packages
        server_address(kind.variable)
    async with fleet(tmp_path_factory.mktemp("fleet"), Random(1)) as it:
        yield it


@pytest.mark.parametrize(("victim", "phase"), CELLS, ids=lambda each: each.value.replace(" ", "-"))
async def test_what_was_accepted_finishes_once_whoever_is_killed(running: Fleet, victim: Victim, phase: Phase) -> None:
    result = await cell.run(running, victim, phase, SMALL)

    print(f"\n{result}")
    assert result.violations == [], running.tails()
    assert result.finished == result.accepted == SMALL.singles + SMALL.lines
