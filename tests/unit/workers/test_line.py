"""Who asks for a key first: interactive before batch, tenants fairly, each tenant's own in their order."""

from dataclasses import replace

import pytest

from shared.jobs import FIRST, Job, Lane, Leg
from workers.line import Line, Place, Standing, standing

INTERACTIVE, BATCH = Lane.INTERACTIVE, Lane.BATCH


def join(line: Line, names: str, lane: Lane = INTERACTIVE) -> dict[Place, str]:
    """A job for each name, such as `a1`, of the tenant that its first letter says."""
    return {line.join(Standing(lane, name[0], first=False)): name for name in names.split()}


def served(line: Line, names: dict[Place, str], cost: float = 1.0) -> list[str]:
    order = []
    while (place := line.first()) is not None:
        line.leave(place, cost)
        order.append(names[place])
    return order


def test_one_tenants_jobs_keep_their_order() -> None:
    line = Line()

    assert served(line, join(line, "a1 a2 a3 a4")) == ["a1", "a2", "a3", "a4"]


def test_interactive_jobs_go_before_all_batch_jobs() -> None:
    line = Line()
    names = join(line, "a1 a2", BATCH) | join(line, "b1 a3", INTERACTIVE)

    assert served(line, names) == ["b1", "a3", "a1", "a2"]


@pytest.mark.parametrize("lane", list(Lane))
def test_whoever_comes_late_waits_for_one_job_of_each_other_tenant(lane: Lane) -> None:
    line = Line()
    names = join(line, "a1 a2 a3 a4 b1 b2 b3", lane)
    first = line.first()
    assert first is not None
    line.leave(first, 1.0)

    order = served(line, names | join(line, "c1", lane))

    assert order.index("c1") <= 2
    assert [name for name in order if name[0] == "a"] == ["a2", "a3", "a4"]


def test_tenants_share_by_tokens_and_not_by_jobs() -> None:
    line = Line()
    names = join(line, " ".join(f"a{n}" for n in range(40)) + " " + " ".join(f"b{n}" for n in range(40)))
    order = []
    for _ in range(20):
        place = line.first()
        assert place is not None
        order.append(names[place][0])
        line.leave(place, 400.0 if names[place][0] == "a" else 100.0)

    assert order.count("a") == 4


def test_whoever_leaves_with_nothing_has_not_had_its_turn() -> None:
    line = Line()
    names = join(line, "a1 b1 a2 b2")
    first = line.first()
    assert first is not None

    line.leave(first)

    assert served(line, names) == ["a2", "b1", "b2"]


def test_it_counts_who_waits() -> None:
    line = Line()
    places = list(join(line, "a1 b1", BATCH)) + list(join(line, "a2"))

    counts = (line.waiting(INTERACTIVE), line.waiting(BATCH), line.waiting(*Lane))
    for place in places:
        line.leave(place)

    assert counts == (1, 2, 3)
    assert not line
    assert line.first() is None


@pytest.mark.parametrize(
    ("lane", "precedence", "first"),
    [(INTERACTIVE, FIRST, True), (INTERACTIVE, FIRST - 1, False), (BATCH, FIRST, False)],
)
def test_first_jobs_are_interactive_and_of_the_highest_precedence(lane: Lane, precedence: int, first: bool) -> None:
    leg = Leg("p", "m", ("d",))
    job = Job("job", "chat.completions", "m", (leg,), b"{}", "api", accepted_at=0.0, deadline=60.0, key="key")

    found = standing(replace(job, lane=lane, precedence=precedence, team="team"))

    assert found == Standing(lane, "team", first)
