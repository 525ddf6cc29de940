"""What commands make of what was typed, and print: tables for people, JSON for programs."""

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import orjson
import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print the api's JSON.")]

_UNBOUNDED = 10_000  # columns; what another program reads is not folded


def print_json(value: Any) -> None:
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column stays whole, the others fold to the terminal's width."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])  # a provider's text is not markup
    Console(width=None if sys.stdout.isatty() else _UNBOUNDED).print(table)


def say(text: str) -> None:
    """To the person, beside the output."""
    typer.echo(text, err=True)


def moment(seconds: float | None) -> str:
    """In the terminal's time zone; a dash for none."""
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def segment(text: str) -> str:
    """As a part of a path: what somebody typed is never a path of its own."""
    return quote(text, safe="")
