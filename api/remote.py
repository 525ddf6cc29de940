"""What the commands that ask a running server share: which server, whose key, and errors in one line."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from shared.settings import environment, load_settings

if TYPE_CHECKING:
    from api.client import ApiClient

# A machine that runs the server may have OpenAI's own key under OPENAI_API_KEY, so that name comes last.
_KEY_VARIABLES = ("HEADRACE_API_KEY", "HEADRACE_MASTER_KEY", "LITELLM_MASTER_KEY", "OPENAI_API_KEY")

BaseUrlOption = Annotated[
    str | None,
    typer.Option("--base-url", help="The server. Default: HEADRACE_BASE_URL, or HEADRACE_PORT on this machine."),
]

T = TypeVar("T")


class ClientError(Exception):
    """The server did not do what it was asked. The message is one line, for the person at the terminal."""


class Unreachable(ClientError):
    """No answer, or half of one: another attempt may go better."""


class Refused(ClientError):
    """The server answered with an error."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def run(work: "Callable[[ApiClient], Awaitable[T]]", base_url: str | None = None) -> T:
    """Do `work` with a client of the server that the option or the environment names. A `ClientError` becomes a line on
    stderr and exit code 1. Raises `ConfigError` for an environment that cannot be read."""
    from api.client import ApiClient  # aiohttp is slow to load, and servers do without it

    environ = environment()
    address = base_url or environ.get("HEADRACE_BASE_URL") or f"http://127.0.0.1:{load_settings().port}"
    key = next((environ[name] for name in _KEY_VARIABLES if environ.get(name)), None)

    async def connected() -> T:
        async with ApiClient(address, key) as client:
            return await work(client)

    try:
        return asyncio.run(connected())
    except ClientError as error:
        sys.stderr.write(f"headrace: {error}\n")
        raise typer.Exit(1) from None
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
