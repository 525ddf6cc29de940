"""A batch followed from a terminal goes on through restarts of the server, and says what a person wants to know."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from api import batch_watch
from api.batch_watch import Batch, dollars, duration, follow, pace, summary
from api.client import ServerEvent
from api.remote import ClientError, Refused, Unreachable


def batch(status: str = "in_progress", done: int = 0, failed: int = 0) -> Batch:
    return {
        "id": "batch_1", "status": status, "created_at": 100, "completed_at": 225, "errors": None,
        "request_counts": {"total": 10, "completed": done, "failed": failed},
        "progress": {"rate": 41.52, "eta_seconds": 125.0, "cost": 0.0123, "errors": failed},
    }  # fmt: skip


def event(name: str = "progress", **fields: Any) -> ServerEvent:
    return ServerEvent(name, orjson.dumps(batch(**fields)))


class Connections:
    """A client whose connections bring what the script says: events, then an error or just the end."""

    def __init__(self, *script: list[ServerEvent | ClientError]) -> None:
        self._script = list(script)

    async def events(self, path: str) -> AsyncIterator[ServerEvent]:
        assert path == "/v1/batches/batch_1/events"
        for each in self._script.pop(0):
            if isinstance(each, ClientError):
                raise each
            yield each


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_watch, "_FIRST_WAIT", 0.0)


async def followed(connections: Connections, *, reached: bool = False) -> tuple[Batch, list[str]]:
    states: list[str] = []

    def show(state: str, _: Batch | None) -> None:
        states.append(state)

    end = await follow(connections, "batch_1", show, reached=reached)  # type: ignore[arg-type]
    return end, states


async def test_a_lost_server_is_found_again() -> None:
    connections = Connections(
        [event(), Unreachable("reset")],
        [Unreachable("refused")],
        [Refused("starting", 503)],
        [],
        [event(done=9), event("done", status="completed", done=10)],
    )

    end, states = await followed(connections)

    assert end["request_counts"]["completed"] == 10
    assert states == ["in_progress", *["reconnecting"] * 4, "in_progress", "completed"]


@pytest.mark.parametrize(
    "connections",
    [Connections([Unreachable("refused")]), Connections([Refused("No batch found", 404)]),
     Connections([event(), Unreachable("reset")], [Refused("No batch found", 404)])],
)  # fmt: skip
async def test_a_server_that_never_was_or_says_no_is_not_waited_for(connections: Connections) -> None:
    with pytest.raises(ClientError, match=r"refused|No batch"):
        await followed(connections)


async def test_a_server_that_took_the_batch_is_waited_for() -> None:
    connections = Connections([Unreachable("refused")], [event("done", status="completed", done=10)])

    end, states = await followed(connections, reached=True)

    assert (end["status"], states) == ("completed", ["reconnecting", "completed"])


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_watch, "_PATIENCE", -1.0)

    with pytest.raises(Unreachable):
        await followed(Connections([event(), Unreachable("reset")]))


def test_the_bar_says_rate_time_to_go_spend_and_errors() -> None:
    assert pace(batch(failed=2)["progress"]) == "41.5/s, 2m 05s left, $0.0123, 2 errors"
    assert pace({"rate": 0.0, "eta_seconds": None, "cost": 0.0, "errors": 0}) == "0.0/s, $0.00"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (60, "1m 00s"), (3599, "59m 59s"), (93_784, "26h 03m")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"), [(0.0, "$0.00"), (0.00042, "$0.0004"), (1.5, "$1.50"), (1234.0, "$1234.00")]
)
def test_amounts_read_well(amount: float, text: str) -> None:
    assert dollars(amount) == text


def test_the_summary_says_how_to_get_at_everything() -> None:
    text = summary(batch("completed", done=8, failed=2))

    assert text.splitlines()[0] == "completed: 8 of 10 done, 2 failed, in 2m 05s, $0.0123"
    assert "headrace batch results batch_1 -o answers.jsonl" in text
    assert "headrace batch results batch_1 --errors" in text


def test_the_summary_of_a_failed_batch_says_why() -> None:
    failed = {**batch("failed"), "errors": {"data": [{"message": "The file is empty."}]}, "failed_at": None}

    assert summary(failed).splitlines() == ["failed: 0 of 10 done, 0 failed, $0.0123", "  The file is empty."]
