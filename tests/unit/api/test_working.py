"""Which parts of the keeper a process runs."""

import pytest

from api import embedded, working
from shared.errors import ConfigError


def test_a_keeper_runs_all_parts_unless_some_are_named() -> None:
    assert working.known_parts([]) == list(embedded.PARTS)
    assert working.known_parts(["reaper", "feeder", "reaper"]) == ["reaper", "feeder"]


def test_a_part_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match="--only cook: no such part: expected one of recorder, feeder, batches"):
        working.known_parts(["cook"])


def test_the_recorder_is_the_part_that_stops_last() -> None:
    assert set(embedded.OTHER_PARTS) == set(embedded.PARTS) - {"recorder"}
