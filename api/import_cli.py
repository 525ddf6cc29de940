"""`headrace import`: what another gateway has, brought over."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
import uvloop

from api import startup
from api.startup import ConfigOption, Loaded
from api.terminal import print_table, say
from broker import backends
from broker.litellm.report import Report, Tally
from shared.errors import ConfigError, Unavailable
from shared.secrets import Sealer
from shared.settings import Settings, environment

app = typer.Typer(help="Bring over what another gateway has.", no_args_is_help=True)

_SALT_KEYS = ("LITELLM_SALT_KEY", "LITELLM_MASTER_KEY")
"""Where LiteLLM itself looks, in this order."""

_MOST_SHOWN = 20  # things of a kind that did not come


@app.callback()
def importing() -> None:
    """Bring over what another gateway has."""


@app.command()
def litellm(
    database_url: Annotated[
        str,
        typer.Option(envvar="LITELLM_DATABASE_URL", show_envvar=True, help="LiteLLM's PostgreSQL. It is only read."),
    ],
    config: ConfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would come, and write nothing.")] = False,
    salt_key_env: Annotated[
        str | None,
        typer.Option(help="The variable that has LiteLLM's salt key. Default: LITELLM_SALT_KEY, LITELLM_MASTER_KEY."),
    ] = None,
    spend_logs: Annotated[
        bool, typer.Option("--spend-logs", help="Also bring its spend logs into the ledger.")
    ] = False,
    since: Annotated[
        datetime | None, typer.Option(help="Only spend logs from this moment on, UTC: to go on after an interruption.")
    ] = None,
) -> None:
    """Bring keys, budgets, teams, users, customers, models and spend over from LiteLLM. Running it again adds what is
    new there, and changes nothing else.

    Exit code 0 when everything came, 1 when something did not, 2 when nothing could be done."""
    settings, loaded = startup.load(config)
    moment = since.replace(tzinfo=since.tzinfo or UTC) if since else None
    salt_key = _salt_key(salt_key_env)
    try:
        report = uvloop.run(
            _imported(settings, loaded, database_url, salt_key, dry_run=dry_run, spend_logs=spend_logs, since=moment)
        )
    except Unavailable as error:
        say(f"headrace: {error.message}. What came by then stays: run the command again")
        sys.exit(2)
    _print(report, settings, dry_run=dry_run)
    sys.exit(0 if report.complete else 1)


async def _imported(  # noqa: PLR0913 - the command's options
    settings: Settings,
    loaded: Loaded,
    database_url: str,
    salt_key: str | None,
    *,
    dry_run: bool,
    spend_logs: bool,
    since: datetime | None,
) -> Report:
    from broker.litellm import source as litellm
    from broker.litellm.importer import Importer, Task
    from broker.litellm.rows import Moment

    ours = settings.salt_key or settings.master_key
    task = Task(
        moment=Moment(datetime.now(UTC).timestamp(), spend_logs),
        theirs=Sealer(salt_key) if salt_key else None,
        ours=Sealer(ours.get_secret_value()) if ours else None,
        config=loaded.config,
        dry_run=dry_run,
        since=since,
        progress=say,
    )
    async with litellm.connect(database_url) as source, backends.store(settings) as store:
        if not dry_run and not await startup.prepared_ledger(store, settings):
            raise Unavailable("our own database is away")
        return await Importer(source, store, task).run()


def _salt_key(variable: str | None) -> str | None:
    """Raises `ConfigError` for a variable that was named and is not set."""
    environ = environment()
    if variable is not None and not environ.get(variable):
        raise ConfigError(f"--salt-key-env: the environment variable {variable} is not set or empty")
    names = _SALT_KEYS if variable is None else (variable,)
    return next((environ[name] for name in names if environ.get(name)), None)


def _print(report: Report, settings: Settings, *, dry_run: bool) -> None:
    columns = ("", "in LiteLLM", "would come" if dry_run else "came", "there already", "left out", "failed")
    print_table(columns, [_row(tally) for tally in report.tallies])
    _print_list(
        "Worth knowing",
        [(tally.kind, f"{count} {note}") for tally in report.tallies for note, count in tally.notes.items()],
    )
    for tally in report.tallies:
        _print_list(f"Did not come: {tally.kind}", tally.failures[:_MOST_SHOWN])
        if tally.failed > _MOST_SHOWN:
            typer.echo(f"  ... and {tally.failed - _MOST_SHOWN} more\n")
    _print_list("Not imported", report.elsewhere)
    models = next(tally for tally in report.tallies if tally.kind == "models")
    if models.added + models.there and not settings.store_model_in_db:
        typer.echo("The models are served once general_settings.store_model_in_db is true.")


def _row(tally: Tally) -> Sequence[str]:
    return (tally.kind, *(str(each) for each in (tally.read, tally.added, tally.there, tally.left_out, tally.failed)))


def _print_list(title: str, rows: Sequence[tuple[str, str]]) -> None:
    if rows:
        print_table((title, ""), rows)
