"""`headrace batch`: batches from the command line."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TypeVar

import typer

from api import prompts
from api.remote import BaseUrlOption, ClientError, run
from api.terminal import JsonOption, moment, print_json, print_table, say, segment

if TYPE_CHECKING:
    from api.client import ApiClient

app = typer.Typer(help="Run many requests in the background, from a file.", no_args_is_help=True)

BatchArgument = Annotated[str, typer.Argument(metavar="ID", help="The batch's id: batch_...")]

_FINAL = ("completed", "failed", "expired", "cancelled")
_INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it

Batch = dict[str, Any]
"""OpenAI's object."""
T = TypeVar("T")
Work = Callable[["ApiClient"], Awaitable[T]]


@app.command()
def submit(  # noqa: PLR0913 - the command's options
    file: Annotated[Path, typer.Argument(help="OpenAI's batch lines (.jsonl), or prompts, one a line (.txt).")],
    model: Annotated[str | None, typer.Option(help="The model for a .txt file.")] = None,
    priority: Annotated[int | None, typer.Option(help="Of yours, the higher goes first.", min=-100, max=100)] = None,
    deadline: Annotated[str | None, typer.Option(help="When lines expire, e.g. 2030-01-31T08:00, in UTC.")] = None,
    window: Annotated[str, typer.Option(help="Time to finish in: 90m, 24h, 7d.")] = "24h",
    metadata: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be repeated.")] = None,
    watching: Annotated[bool, typer.Option("--watch/--no-watch", help="Show progress until it ends.")] = True,
    base_url: BaseUrlOption = None,
) -> None:
    """Upload FILE and start a batch of its lines. Prints the batch's id."""
    pairs = _pairs(metadata or [], priority, deadline)

    async def start(client: "ApiClient") -> Batch:
        uploaded = await _upload(client, file, model)
        order = {
            "input_file_id": uploaded["id"],
            "endpoint": prompts.CHAT if _plain(file) else prompts.endpoint_of(file),
            "completion_window": window,
            "metadata": pairs or None,
        }
        batch: Batch = await client.request("POST", "/v1/batches", json=order)
        return batch

    batch_id = run(_readable(file, start), base_url)["id"]
    typer.echo(batch_id)
    if watching:
        _watch(batch_id, base_url, reached=True)


@app.command()
def status(batch_id: BatchArgument, json: JsonOption = False, base_url: BaseUrlOption = None) -> None:
    """Say how a batch stands."""
    batch = run(lambda client: client.request("GET", f"/v1/batches/{segment(batch_id)}"), base_url)
    if json:
        print_json(batch)
        return
    for name, value in _facts(batch):
        typer.echo(f"{name:<10} {value}")


@app.command("watch")
def watch_command(batch_id: BatchArgument, base_url: BaseUrlOption = None) -> None:
    """Show a batch's progress until it ends. Exit code 0 when it completed."""
    _watch(batch_id, base_url)


@app.command()
def cancel(batch_id: BatchArgument, base_url: BaseUrlOption = None) -> None:
    """Cancel a batch. What is done by then stays."""
    batch = run(lambda client: client.request("POST", f"/v1/batches/{segment(batch_id)}/cancel"), base_url)
    typer.echo(f"{batch_id}: {batch['status']}")


@app.command()
def results(
    batch_id: BatchArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.", dir_okay=False)] = None,
    errors: Annotated[bool, typer.Option("--errors", help="The failed lines instead of the answers.")] = False,
    base_url: BaseUrlOption = None,
) -> None:
    """Fetch a batch's answers as JSON lines: all of them, or of a running batch those it has so far."""

    async def fetch(client: "ApiClient") -> Batch:
        batch: Batch = await client.request("GET", f"/v1/batches/{segment(batch_id)}")
        pieces = client.download(f"/v1/batches/{segment(batch_id)}/{'errors' if errors else 'output'}")
        if output is None:
            await _copy(pieces, sys.stdout.buffer)
        else:
            await _save(pieces, output)
        return batch

    batch = run(_readable(output, fetch), base_url)
    if batch["status"] not in _FINAL:
        say(f"the batch is {batch['status']}: these are the lines so far")


@app.command("list")
def list_command(
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1, max=100)] = 20,
    json: JsonOption = False,
    base_url: BaseUrlOption = None,
) -> None:
    """List batches."""
    page = run(lambda client: client.request("GET", "/v1/batches", params={"limit": limit}), base_url)
    if json:
        print_json(page)
        return
    rows = [[batch["id"], batch["status"], *_counts(batch), moment(batch["created_at"])] for batch in page["data"]]
    print_table(["id", "status", "done", "failed", "total", "created"], rows)


def _watch(batch_id: str, base_url: str | None, *, reached: bool = False) -> None:
    from rich.console import Console

    from api import batch_watch

    console = Console(stderr=True)
    try:
        batch = run(lambda client: batch_watch.watch(client, batch_id, console, reached=reached), base_url)
    except KeyboardInterrupt:
        say(f"the batch goes on. Come back with: headrace batch watch {batch_id}")
        raise typer.Exit(_INTERRUPTED) from None
    say(batch_watch.summary(batch))
    if batch["status"] != "completed":
        raise typer.Exit(1)


def _counts(batch: Batch) -> list[str]:
    return [str(batch["request_counts"][name]) for name in ("completed", "failed", "total")]


def _facts(batch: Batch) -> list[tuple[str, str]]:
    done, failed, total = _counts(batch)
    facts = [
        ("id", batch["id"]),
        ("status", batch["status"]),
        ("endpoint", batch["endpoint"]),
        ("lines", f"{done} done, {failed} failed, {total} in all"),
        ("created", moment(batch["created_at"])),
        ("expires", moment(batch["expires_at"])),
    ]
    facts += [(name, batch[f"{name}_file_id"]) for name in ("input", "output", "error") if batch[f"{name}_file_id"]]
    facts += [(f"metadata.{key}", value) for key, value in (batch["metadata"] or {}).items()]
    facts += [("error", each["message"]) for each in (batch["errors"] or {}).get("data", [])]
    return facts


async def _upload(client: "ApiClient", file: Path, model: str | None) -> Any:
    if _plain(file):
        if model is None:
            raise ClientError(f"{file}: a text file names no model: add --model MODEL")
        if not prompts.count(file):
            raise ClientError(f"{file}: no prompt in it: expected one a line")
        lines = prompts.as_json_lines(file, model)
        return await client.upload("/v1/files", lines, f"{file.stem}.jsonl", {"purpose": "batch"})
    if model is not None:
        raise ClientError("--model is for .txt files: the lines of a .jsonl file name their models themselves")
    with file.open("rb") as content:
        return await client.upload("/v1/files", content, file.name, {"purpose": "batch"})


def _plain(file: Path) -> bool:
    return file.suffix.lower() == ".txt"


def _pairs(given: list[str], priority: int | None, deadline: str | None) -> Mapping[str, str]:
    pairs: dict[str, str] = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{each!r}: expected KEY=VALUE", param_hint="--metadata")
        pairs[key] = value
    if priority is not None:
        pairs["priority"] = str(priority)
    if deadline is not None:
        pairs["deadline"] = deadline
    return pairs


def _readable(path: Path | None, work: Work[T]) -> Work[T]:
    """`work`, with what the file system says against `path` in one line."""

    async def attempt(client: "ApiClient") -> T:
        try:
            return await work(client)
        except UnicodeDecodeError as exc:
            raise ClientError(f"{path}: not UTF-8 text, at byte {exc.start}") from exc
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise ClientError(f"{exc.filename or path}: {exc.strerror or exc}") from exc

    return attempt


async def _save(pieces: AsyncIterator[bytes], path: Path) -> None:
    """Into the file, which appears when it is whole."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            await _copy(pieces, file)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


async def _copy(pieces: AsyncIterator[bytes], file: BinaryIO) -> None:
    async for piece in pieces:
        await asyncio.to_thread(file.write, piece)
    file.flush()
