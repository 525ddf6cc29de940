"""`headrace queues`: the lanes from the command line."""

from typing import Annotated, Any

import typer

from api.remote import BaseUrlOption, run
from api.terminal import JsonOption, print_json, print_table, segment

app = typer.Typer(help="Look at the queues, and stop one.", no_args_is_help=True)

LaneArgument = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue's id, as openai.batch.")]

_COLUMNS = ("queue", "waiting", "oldest", "running", "per second", "wait", "workers", "state")


@app.command("list")
def list_command(json: JsonOption = False, base_url: BaseUrlOption = None) -> None:
    """List the queues: how many jobs wait and run, how fast they go, and how long a new one would wait."""
    page = run(lambda client: client.request("GET", "/v1/queues"), base_url)
    if json:
        print_json(page)
    else:
        print_table(_COLUMNS, [_row(lane) for lane in page["data"]])


@app.command()
def pause(lane: LaneArgument, json: JsonOption = False, base_url: BaseUrlOption = None) -> None:
    """Stop a queue: workers take no more of its jobs. New ones still come in, up to its bound."""
    _turn(lane, "pause", json, base_url)


@app.command()
def resume(lane: LaneArgument, json: JsonOption = False, base_url: BaseUrlOption = None) -> None:
    """Let a stopped queue go on."""
    _turn(lane, "resume", json, base_url)


def _turn(lane: str, act: str, json: bool, base_url: str | None) -> None:
    answer = run(lambda client: client.request("POST", f"/v1/queues/{segment(lane)}/{act}"), base_url)
    if json:
        print_json(answer)
    else:
        typer.echo(f"{answer['id']}: {'paused' if answer['paused'] else 'running'}")


def _row(lane: dict[str, Any]) -> list[str]:
    return [
        lane["id"],
        f"{lane['depth']:,} of {lane['bound']:,}",
        "-" if lane["oldest"] is None else f"{lane['oldest']:.1f} s",
        f"{lane['in_flight']:,}",
        f"{lane['drain_rate']:.1f}",
        f"{lane['estimated_wait']:.1f} s",
        str(lane["consumers"]),
        "paused" if lane["paused"] else "running",
    ]
