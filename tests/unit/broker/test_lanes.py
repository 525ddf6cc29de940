from collections import Counter

from broker.queues.lanes import LaneRotation
from shared.jobs import Lane

I, B = Lane.INTERACTIVE, Lane.BATCH  # noqa: E741 - short names keep the sequences below readable


class Waiting(Counter[tuple[str, Lane]]):
    """Jobs waiting in each lane."""

    def __call__(self, provider: str, lane: Lane) -> bool:
        return self[provider, lane] > 0


def served(rotation: LaneRotation, waiting: Waiting, count: int) -> list[tuple[str, Lane]]:
    turns = []
    for _ in range(count):
        turn = rotation.next(waiting)
        if turn is None:
            break
        waiting[turn] -= 1
        turns.append(turn)
    return turns


def lanes_of(turns: list[tuple[str, Lane]]) -> list[Lane]:
    return [lane for _, lane in turns]


def test_nothing_is_served_when_nothing_waits() -> None:
    assert LaneRotation(["p"], [I, B]).next(Waiting()) is None


def test_one_batch_job_goes_after_eight_interactive_ones() -> None:
    waiting = Waiting({("p", I): 100, ("p", B): 100})

    turns = served(LaneRotation(["p"], [I, B]), waiting, 18)

    assert lanes_of(turns) == [*[I] * 8, B, *[I] * 8, B]


def test_the_order_in_which_lanes_are_named_does_not_matter() -> None:
    waiting = Waiting({("p", I): 100, ("p", B): 100})

    assert lanes_of(served(LaneRotation(["p"], [B, I]), waiting, 9)) == [*[I] * 8, B]


def test_a_lane_that_waits_alone_is_served_without_pause() -> None:
    assert lanes_of(served(LaneRotation(["p"], [I, B]), Waiting({("p", B): 30}), 40)) == [B] * 30


def test_an_empty_lane_saves_nothing_up() -> None:
    rotation = LaneRotation(["p"], [I, B])
    served(rotation, Waiting({("p", I): 5}), 5)
    served(rotation, Waiting({("p", B): 50}), 50)

    turns = served(rotation, Waiting({("p", I): 100, ("p", B): 100}), 9)

    assert lanes_of(turns) == [*[I] * 8, B]


def test_interactive_goes_first_when_it_comes_in_the_middle_of_a_batch() -> None:
    rotation = LaneRotation(["p"], [I, B])
    waiting = Waiting({("p", B): 50})
    served(rotation, waiting, 3)

    waiting["p", I] = 1

    assert lanes_of(served(rotation, waiting, 1)) == [I]


def test_providers_take_turns_whatever_their_depth() -> None:
    waiting = Waiting({("p", I): 1000, ("q", I): 3, ("r", B): 1000})

    turns = served(LaneRotation(["p", "q", "r"], [I, B]), waiting, 9)

    assert Counter(provider for provider, _ in turns) == {"p": 3, "q": 3, "r": 3}


def test_a_provider_without_jobs_costs_the_others_nothing() -> None:
    turns = served(LaneRotation(["p", "q"], [I, B]), Waiting({("q", I): 3}), 5)

    assert turns == [("q", I)] * 3


def test_a_provider_named_twice_has_one_turn() -> None:
    waiting = Waiting({("p", I): 10, ("q", I): 10})

    turns = served(LaneRotation(["p", "p", "q"], [I]), waiting, 4)

    assert Counter(provider for provider, _ in turns) == {"p": 2, "q": 2}
