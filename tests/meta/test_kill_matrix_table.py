"""The kill matrix's table takes the place of the one before, and adds up."""

from pathlib import Path

import pytest

from tests.chaos import table
from tests.chaos.cell import Phase, Result
from tests.chaos.fleet import Victim

RESULTS = [
    Result(Victim.API, Phase.QUEUED, accepted=208, finished=208, calls=208, rows=208, resumed=5, seconds=7.04),
    Result(Victim.WORKER, Phase.RUNNING, accepted=208, finished=207, calls=312, rows=312, violations=["a job is lost"]),
]


def test_the_last_row_is_the_sum() -> None:
    *_, total = table.markdown(RESULTS).splitlines()

    assert total == "| all |  | 416 | 415 | 520 | 520 | 0 | 0 | 5 | 0 | at most 7.0 | 1 |"


def test_the_table_stands_between_its_marks_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- kill matrix: written by `make chaos` -->\nold\n<!-- end of the kill matrix -->\nafter\n"
    )

    table.write(page, RESULTS)
    once = page.read_text()
    table.write(page, RESULTS)

    assert once.startswith("before\n") and once.endswith("\nafter\n") and "old" not in once
    assert page.read_text() == once


def test_a_page_without_marks_is_not_touched(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")

    with pytest.raises(AssertionError, match="no marks"):
        table.write(page, RESULTS)
    assert page.read_text() == "nothing"
