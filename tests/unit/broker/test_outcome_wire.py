"""Outcomes and endings as bytes: whole, split, of older and newer versions, and broken."""

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.queues import outcome_wire
from broker.queues.outcome_wire import decode, encode
from shared.errors import RequestTooLarge
from shared.jobs import Ending, JobState, Outcome, Status, Usage

MOST = 900_000
OUTCOME = Outcome(
    "a", 1, 0.5, "chat.completions", "fast", "fast", "d1", "p", "m", Status.SUCCESS, Usage(3), tags=("t",)
)
ENDING = Ending("a", JobState.FAILED, 1.5, 1, b"{}", {"code": "quarantined", "message": "é"}, {"headers": {}}, 7)

names = st.text(min_size=1, max_size=8)
endings = st.builds(
    Ending,
    job_id=names,
    state=st.sampled_from([state for state in JobState if state.final]),
    finished_at=st.floats(0, 4e9),
    attempts=st.integers(0, 9),
    answer=st.binary(max_size=300),
    error=st.none() | st.dictionaries(names, names, max_size=2),
    served=st.none() | st.dictionaries(names, st.integers(0, 9), max_size=2),
    cost=st.integers(0, 2**53),
)


@given(st.lists(names, max_size=5), st.lists(endings, max_size=5), st.integers(1, 2_000))
def test_what_goes_in_comes_out_however_it_is_split(ids: list[str], sent: list[Ending], size: int) -> None:
    outcomes = [replace(OUTCOME, job_id=name) for name in ids]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome_wire, "MESSAGE_BYTES", size)
        messages = encode(outcomes, sent, MOST)

    got = [decode(message) for message in messages]

    assert [each for part in got for each in part.outcomes] == outcomes
    assert [each for part in got for each in part.endings] == sent


def test_outcomes_alone_are_json_that_an_older_recorder_reads() -> None:
    [message] = encode([OUTCOME, OUTCOME], [], MOST)

    assert [Outcome.from_wire(fields) for fields in orjson.loads(message)] == [OUTCOME, OUTCOME]


def test_an_answer_costs_its_bytes_and_no_more() -> None:
    answer = b'"\x00\\' * 100_000

    [message] = encode([], [replace(ENDING, answer=answer)], MOST)

    assert answer in message
    assert len(message) < len(answer) + 500


def test_messages_stay_under_their_size_where_they_can() -> None:
    answer = bytes(outcome_wire.MESSAGE_BYTES // 3)

    messages = encode([OUTCOME] * 3, [replace(ENDING, answer=answer)] * 6, 1 << 30)

    assert len(messages) == 3
    assert all(len(message) <= outcome_wire.MESSAGE_BYTES + 100 for message in messages)


@pytest.mark.parametrize("over", [0, 1])
def test_an_ending_may_be_as_large_as_a_message_and_no_larger(over: int) -> None:
    [smallest] = encode([], [replace(ENDING, answer=b"x" * 500_000)], MOST)
    answer = b"x" * (500_000 + MOST - len(smallest) + over)

    if over:
        with pytest.raises(RequestTooLarge, match="job a has"):
            encode([OUTCOME], [replace(ENDING, answer=answer)], MOST)
    else:
        [message] = encode([], [replace(ENDING, answer=answer)], MOST)
        assert len(message) == MOST


def test_fields_of_a_newer_version_are_left_out() -> None:
    [message] = encode([], [ENDING], MOST)

    newer = message.replace(b'"attempts":1', b'"attempt_":1,"attempts":1')
    size = int.from_bytes(message[1:5]) + len(newer) - len(message)
    [ending] = decode(newer[:1] + size.to_bytes(4) + newer[5:]).endings

    assert ending == ENDING


@pytest.mark.parametrize("cut", [1, 3, 5, 40, -1])
def test_a_message_that_is_cut_off_is_unreadable(cut: int) -> None:
    [message] = encode([OUTCOME], [ENDING], MOST)

    with pytest.raises((ValueError, KeyError, TypeError)):
        decode(message[:cut])
