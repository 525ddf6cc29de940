"""The demo that the README promises: it ends by itself with exit code 0, and at Ctrl-C with its server stopped."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
_PATIENCE = 90.0  # seconds; two cores may be shared with other tests


async def test_the_demo_shows_a_stream_a_tool_call_a_batch_and_its_bill_and_ends_by_itself() -> None:
    async with demo("--prompts", "120") as running:
        output = await rest(running)

    assert running.returncode == 0, output
    assert "it waits in the channel" in output
    assert 'it calls weather({"city":"Bern"})' in output
    assert "120 answers and 0 errors" in output
    assert re.search(r"123 answers took \d+ attempts, each of them in the ledger once", output)
    assert await refused(address(output))


async def test_the_demo_leaves_nothing_running_at_ctrl_c() -> None:
    async with demo() as running:
        output = await until(running, "A batch of")
        running.send_signal(signal.SIGINT)
        output += await rest(running)

    assert running.returncode == 130, output
    assert "Traceback" not in output
    assert await refused(address(output))


@contextlib.asynccontextmanager
async def demo(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "100"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "docs" / "examples" / "demo.py"), *arguments,
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_PATIENCE):
            yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            await process.communicate()


async def until(running: asyncio.subprocess.Process, text: str) -> str:
    assert running.stdout is not None
    output = ""
    while text not in output:
        line = await running.stdout.readline()
        assert line, f"it ended without saying {text!r}:\n{output}"
        output += line.decode()
    return output


async def rest(running: asyncio.subprocess.Process) -> str:
    output, _ = await running.communicate()
    return output.decode()


def address(output: str) -> str:
    found = re.search(r"It listens on (\S+)", output)
    assert found, output
    return found[1]


async def refused(url: str) -> bool:
    """Whether nobody listens there any more."""
    try:
        _, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False
