"""The kill matrix in small: each part of a deployment is killed once. `make chaos` kills each in every phase."""

from pathlib import Path
from random import Random

import pytest

from tests.chaos import cell
from tests.chaos.cell import SMALL, Phase
from tests.chaos.fleet import Victim, fleet
from tests.conftest import server_address
from tests.servers import ALL

_CELLS = [
    (Victim.API, Phase.STREAMING),
    (Victim.FEEDER, Phase.QUEUED),
    (Victim.WORKER, Phase.RUNNING),
    (Victim.RECORDER, Phase.RECORDING),
    (Victim.REDIS, Phase.STREAMING),
    (Victim.POSTGRESQL, Phase.RECORDING),
    (Victim.RABBITMQ, Phase.RUNNING),
]

pytestmark = pytest.mark.timeout(600)


async def test_what_was_accepted_finishes_once_whoever_is_killed(tmp_path: Path) -> None:
    """One test for all cells, as a deployment of six processes and three servers is dear."""
    for kind in ALL:  # not for its use: it decides what happens on a machine without the servers' packages
        server_address(kind.variable)

    async with fleet(tmp_path, Random(1)) as running:
        for victim, phase in _CELLS:
            result = await cell.run(running, victim, phase, SMALL)

            print(f"\n{result}")
            assert result.violations == [], f"{result.name}\n{running.tails()}"
            assert result.finished == result.accepted == SMALL.singles + SMALL.lines, result
