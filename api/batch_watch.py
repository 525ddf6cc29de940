"""Following a batch from a terminal: a progress bar that outlives restarts of the server."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from api.client import ApiClient
from api.remote import Refused, Unreachable
from api.terminal import segment

_FIRST_WAIT = 0.5  # seconds before connecting again, doubled up to the longest
_LONGEST_WAIT = 10.0
_PATIENCE = 900.0  # seconds without a word from the server

Batch = dict[str, Any]


async def watch(client: ApiClient, batch_id: str, console: Console, *, reached: bool = False) -> Batch:
    """Show the batch's progress until it ends; the batch as it is then. A server that is away is waited for if it was
    `reached` before. Raises `ClientError` when the server refuses, or has been away for 15 minutes."""
    columns = (
        TextColumn("{task.fields[state]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(batch_id, total=None, state="connecting", pace="")
        return await follow(client, batch_id, _Display(bar, task), reached=reached)


class _Display:
    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def __call__(self, state: str, batch: Batch | None) -> None:
        if batch is None:
            self._bar.update(self._task, state=state)
            return
        counts = batch["request_counts"]
        self._bar.update(
            self._task,
            state=state,
            total=counts["total"] or None,
            completed=counts["completed"] + counts["failed"],
            pace=pace(batch["progress"]),
        )


async def follow(
    client: ApiClient, batch_id: str, show: Callable[[str, Batch | None], None], *, reached: bool = False
) -> Batch:
    """The batch at its end. `show` is told of every change, and of a lost connection with None. Raises as `watch`."""
    loop = asyncio.get_running_loop()
    wait, heard_at, connected = _FIRST_WAIT, loop.time(), reached
    while True:
        lost: Unreachable | Refused | None = None
        try:
            async for event in client.events(f"/v1/batches/{segment(batch_id)}/events"):
                batch: Batch = orjson.loads(event.data)
                wait, heard_at, connected = _FIRST_WAIT, loop.time(), True
                show(batch["status"], batch)
                if event.name == "done":
                    return batch
        except Unreachable as error:
            lost = error
        except Refused as error:
            if error.status < 500:
                raise
            lost = error
        if lost is not None and (not connected or loop.time() - heard_at > _PATIENCE):
            raise lost
        show("reconnecting", None)
        await asyncio.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)


def summary(batch: Batch) -> str:
    """What became of it, and how to get at the answers."""
    counts, status = batch["request_counts"], batch["status"]
    lines = [f"{status}: {counts['completed']} of {counts['total']} done, {counts['failed']} failed"]
    ended = batch.get(f"{status}_at")
    if ended:
        lines[0] += f", in {duration(ended - batch['created_at'])}"
    lines[0] += f", {dollars(batch['progress']['cost'])}"
    lines += [f"  {each['message']}" for each in (batch["errors"] or {}).get("data", [])]
    if counts["completed"]:
        lines.append(f"answers: headrace batch results {batch['id']} -o answers.jsonl")
    if counts["failed"]:
        lines.append(f"errors:  headrace batch results {batch['id']} --errors")
    return "\n".join(lines)


def pace(progress: dict[str, Any]) -> str:
    """`41.5/s, 2m 05s left, $0.0123, 3 errors`: what is known of it."""
    parts = [f"{progress['rate']:.1f}/s"]
    if progress["eta_seconds"] is not None:
        parts.append(f"{duration(progress['eta_seconds'])} left")
    parts.append(dollars(progress["cost"]))
    if progress["errors"]:
        parts.append(f"{progress['errors']} {'error' if progress['errors'] == 1 else 'errors'}")
    return ", ".join(parts)


def dollars(amount: float) -> str:
    """Small amounts are most of them: four digits until there are whole dollars."""
    return f"${amount:.2f}" if amount >= 1 or amount == 0 else f"${amount:.4f}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {rest:02}s" if minutes else f"{rest}s"
