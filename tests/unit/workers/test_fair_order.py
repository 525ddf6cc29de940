"""Start-time fair queueing: equal shares while two wait, no credit for idling, and little to remember."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers import fair_order
from workers.fair_order import FairOrder

TENANTS = ("a", "b", "c", "d")
WEIGHTS = st.integers(1, 10_000)


@dataclass(frozen=True)
class Release:
    tenant: str
    weight: int
    waiting: frozenset[str]
    """Who waited when it was chosen."""


def serve(
    queues: Mapping[str, Sequence[int]], arrivals: Mapping[int, Mapping[str, Sequence[int]]] = {}
) -> list[Release]:
    """Release every job of `queues` and of the `arrivals` that come before the so-manieth choice, in fair order."""
    order = FairOrder()
    left = {tenant: list(weights) for tenant, weights in queues.items()}
    released: list[Release] = []
    last = max(arrivals, default=0)
    step = 0
    while any(left.values()) or step <= last:
        for tenant, weights in arrivals.get(step, {}).items():
            left.setdefault(tenant, []).extend(weights)
        step += 1
        order.waiting([tenant for tenant, weights in left.items() if weights])
        tenant = order.next()
        if tenant is None:
            continue
        waiting = frozenset(each for each, weights in left.items() if weights)
        weight = left[tenant].pop(0)
        order.released(tenant, weight)
        released.append(Release(tenant, weight, waiting))
    return released


loads = st.dictionaries(st.sampled_from(TENANTS), st.lists(WEIGHTS, max_size=25))
later = st.dictionaries(st.integers(0, 40), loads, max_size=4)


@settings(deadline=None)  # another process may have the machine
@given(loads, later)
def test_over_any_interval_two_waiting_tenants_get_shares_that_differ_by_two_jobs_at_most(
    queues: dict[str, list[int]], arrivals: dict[int, dict[str, list[int]]]
) -> None:
    released = serve(queues, arrivals)

    for one, other in (("a", "b"), ("a", "c"), ("b", "d")):
        heaviest = {
            tenant: max((each.weight for each in released if each.tenant == tenant), default=0)
            for tenant in (one, other)
        }
        for begin in range(len(released)):
            shares: dict[str, int] = defaultdict(int)
            for each in released[begin:]:
                if not {one, other} <= each.waiting:
                    break
                shares[each.tenant] += each.weight
                assert abs(shares[one] - shares[other]) <= heaviest[one] + heaviest[other]


@settings(deadline=None)  # another process may have the machine
@given(loads, later)
def test_nobody_starves_and_nothing_is_released_twice(
    queues: dict[str, list[int]], arrivals: dict[int, dict[str, list[int]]]
) -> None:
    released = serve(queues, arrivals)

    expected: dict[str, list[int]] = defaultdict(list)
    for load in (queues, *(arrivals[step] for step in sorted(arrivals))):
        for tenant, weights in load.items():
            expected[tenant] += weights
    got: dict[str, list[int]] = defaultdict(list)
    for each in released:
        got[each.tenant].append(each.weight)
    assert {tenant: weights for tenant, weights in expected.items() if weights} == got


def test_a_tenant_that_was_idle_has_saved_nothing_up() -> None:
    released = serve({"busy": [10] * 50}, {40: {"late": [10] * 10}})

    after = [each.tenant for each in released[40:]]
    assert after.count("late") == 10
    assert after[:10].count("late") <= 6


def test_a_tenant_that_had_the_lane_to_itself_is_not_punished_for_it() -> None:
    released = serve({"early": [10] * 60}, {50: {"late": [10] * 10}})

    assert [each.tenant for each in released[50:56]].count("early") >= 2


def test_a_quiet_tenants_job_passes_a_flood() -> None:
    released = serve({"flood": [100] * 200}, {100: {"quiet": [100]}})

    assert "quiet" in [each.tenant for each in released[100:102]]


def test_a_tenant_with_heavy_jobs_gets_fewer_of_them() -> None:
    released = serve({"light": [10] * 100, "heavy": [100] * 100})

    first = [each.tenant for each in released[:55]]
    assert first.count("heavy") in (5, 6)


def test_leaving_in_debt_and_coming_back_does_not_wipe_it_out() -> None:
    order = FairOrder()
    order.waiting(["a", "b"])
    order.released("a", 1_000)
    order.waiting(["b"])

    order.waiting(["a", "b"])
    turns = []
    for _ in range(9):
        tenant = order.next()
        assert tenant is not None
        turns.append(tenant)
        order.released(tenant, 100)

    assert turns == ["b"] * 9


def test_idle_tenants_are_forgotten_once_their_debt_is_paid() -> None:
    order = FairOrder()
    for number in range(1_000):
        order.waiting([f"tenant-{number}", "steady"])
        order.released(f"tenant-{number}", 1)
        order.released("steady", 1)

    assert len(order) <= 3


def test_debts_of_idle_tenants_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_order, "_MOST_IDLE", 5)
    order = FairOrder()
    tenants = [f"tenant-{number}" for number in range(20)]
    order.waiting([*tenants, "steady"])
    for tenant in tenants:
        order.released(tenant, 1_000)

    order.waiting(["steady"])

    assert len(order) == 6


def test_when_nobody_waits_there_is_no_next_and_nothing_to_remember() -> None:
    order = FairOrder()
    order.waiting(["a"])
    order.released("a", 5)

    order.waiting([])

    assert order.next() is None
    assert len(order) == 0


def test_tenants_are_listed_in_the_order_of_their_turns() -> None:
    order = FairOrder()
    order.waiting(["a", "b", "c"])
    order.released("a", 20)
    order.released("b", 10)

    assert order.first(2) == ["c", "b"]


def test_a_tenant_owes_nothing_for_what_was_returned_and_has_saved_nothing_up() -> None:
    order = FairOrder()
    order.waiting(["a", "b"])
    for _ in range(10):
        order.released("a", 10)
        order.released("b", 10)
    for _ in range(10):
        order.returned("a", 10)

    released = []
    for _ in range(6):
        tenant = order.next()
        assert tenant is not None
        order.released(tenant, 10)
        released.append(tenant)

    assert released == ["a", "a", "b", "a", "b", "a"]
