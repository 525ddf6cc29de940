from itertools import pairwise

import pytest

from broker import topology
from shared.jobs import Lane


def test_names_start_with_the_namespace() -> None:
    names = [
        topology.jobs_exchange("staging"),
        topology.lane_queue("openai", Lane.BATCH, "staging"),
        topology.dead_exchange("staging"),
        topology.dead_queue("openai", "staging"),
        topology.delay_name(125, "staging"),
        topology.outcomes_queue("staging"),
        topology.dead_outcomes_queue("staging"),
    ]

    assert all(name.startswith("staging.") for name in names)


def test_names_are_those_that_the_documentation_promises() -> None:
    assert topology.lane_queue("openai", Lane.INTERACTIVE) == "headrace.jobs.openai.interactive"
    assert topology.routing_key("openai", Lane.BATCH) == "openai.batch"
    assert topology.first_queue("openai") == "headrace.jobs.openai.interactive.first"
    assert topology.first_key("openai") == "openai.interactive.first"
    assert topology.dead_queue("openai") == "headrace.dead.openai"
    assert topology.outcomes_queue() == "headrace.outcomes"


@pytest.mark.parametrize(
    ("delay", "level_ms"),
    [
        (0.001, 125),
        (0.125, 125),
        (0.126, 250),
        (1.0, 1_000),
        (5.0, 8_000),
        (60.0, 64_000),
        (3_600.0, 4_096_000),
        (90_000.0, 4_096_000),
        (float("inf"), 4_096_000),
    ],
)
def test_delay_rounds_up_to_a_level(delay: float, level_ms: int) -> None:
    assert topology.delay_level_ms(delay) == level_ms


def test_levels_double() -> None:
    levels = topology.DELAY_LEVELS_MS

    assert all(longer == 2 * shorter for shorter, longer in pairwise(levels))
