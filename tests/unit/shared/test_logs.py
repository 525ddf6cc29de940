"""What the log shows of an error that nobody expected."""

from collections.abc import Iterator

import pytest
import structlog

from shared import logs


@pytest.fixture(autouse=True)
def configuration() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_traceback_shows_lines_and_no_values(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", style)

    def fail(api_key: str) -> None:
        raise ValueError("it broke")

    try:
        fail("-".join(["sk", "secret"]))
    except ValueError as error:
        structlog.get_logger().error("a call failed", exc_info=error)

    shown = capsys.readouterr().err
    assert "ValueError: it broke" in shown
    assert "in fail" in shown
    assert "sk-secret" not in shown
