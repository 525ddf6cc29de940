"""The report that travels with a heartbeat, and sums of it."""

import pytest

from shared.lane_reports import LaneReport, from_wire, to_wire, total

GPT = "openai.interactive"
CLAUDE = "anthropic.interactive"


def test_a_report_reads_as_documented() -> None:
    wire = to_wire({GPT: LaneReport(3, 12.5, 940)})

    assert wire == b'{"lanes":{"openai.interactive":{"in_flight":3,"drain_rate":12.5,"drained":940}}}'
    assert from_wire(wire) == {GPT: LaneReport(3, 12.5, 940)}


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"1",
        b"[]",
        b"{}",
        b'{"lanes": []}',
        b'{"lanes": {"a": {}}}',
        b'{"lanes": {"a": {"in_flight": "x"}}}',
        b"\xff",
    ],
)
def test_what_is_no_report_is_refused(wire: bytes) -> None:
    with pytest.raises(ValueError, match="not a worker's report"):
        from_wire(wire)


def test_workers_add_up_lane_by_lane_and_an_unreadable_one_is_left_out() -> None:
    one = to_wire({GPT: LaneReport(3, 1.5, 10), CLAUDE: LaneReport(1, 0.0)})
    two = to_wire({GPT: LaneReport(4, 2.0, 5)})

    assert total([one, b"another version", two]) == {GPT: LaneReport(7, 3.5, 15), CLAUDE: LaneReport(1, 0.0)}
