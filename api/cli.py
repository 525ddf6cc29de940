"""The `headrace` command. Each subcommand loads what it needs and no more: a worker needs no FastAPI."""

import asyncio
import sys
from typing import Annotated

import typer
import uvloop

from api import batch_cli, dead_cli, import_cli, queues_cli, startup, supervisor
from api.response_headers import VERSION
from api.startup import ConfigOption
from shared import config as configuration
from shared.config_variables import Reference
from shared.errors import ConfigError
from shared.settings import environment, load_settings, resolve

app = typer.Typer(
    name="headrace",
    help="A queue-based inference broker: OpenAI's API in, every provider out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(batch_cli.app, name="batch")
app.add_typer(dead_cli.app, name="dead")
app.add_typer(import_cli.app, name="import")
app.add_typer(queues_cli.app, name="queues")


def main() -> None:
    """Run a command; a configuration that cannot run ends with one line and exit code 2."""
    try:
        app()
    except ConfigError as error:
        sys.stderr.write(f"headrace: {error}\n")
        sys.exit(2)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[  # its callback has done everything
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: HEADRACE_HOST or 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on. Default: HEADRACE_PORT or 4000.", min=0, max=65535)
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Api processes; more than one needs RABBITMQ_URL and REDIS_URL.", min=1)
    ] = 1,
) -> None:
    """Run the api. Without RABBITMQ_URL the workers run in the same process."""
    from api import serving

    settings, loaded = startup.load(config)
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = settings.model_copy(update=given)
    startup.require_key_unless_loopback(settings)
    if workers > 1 and supervisor.inherited() is None:
        startup.require_shared_seams(settings, workers)
        sys.exit(supervisor.supervise(settings, workers))
    uvloop.run(serving.serve(settings, loaded))


@app.command()
def worker(
    config: ConfigOption = None,
    provider: Annotated[
        list[str] | None, typer.Option("--provider", "-p", help="Take jobs of this provider only; may be repeated.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Jobs at a time. Default: HEADRACE_CONCURRENCY or 256.", min=1, max=10_000)
    ] = None,
    keeper: Annotated[
        bool,
        typer.Option(
            "--keeper/--no-keeper",
            "--recorder/--no-recorder",
            help="Also keep: record outcomes, feed batches, reap lost jobs, send webhooks.",
        ),
    ] = True,
    health_port: Annotated[
        int | None,
        typer.Option(help="Serve /health/liveliness and /metrics on this port of 127.0.0.1.", min=0, max=65535),
    ] = None,
) -> None:
    """Run a pool of workers. Needs RABBITMQ_URL and REDIS_URL."""
    from api import working

    settings, loaded = startup.load(config)
    startup.require_shared_seams(settings)
    if concurrency is not None:
        settings = settings.model_copy(update={"concurrency": concurrency})
    providers = startup.known_providers(provider, loaded.catalog, settings) if provider else None
    uvloop.run(working.work(settings, loaded, providers, keeper=keeper, health_port=health_port))


@app.command()
def keeper(
    config: ConfigOption = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Run one part; may be repeated: "
            "recorder, feeder, batches, provider-batches, reaper, webhooks, alerts, dead."
        ),
    ] = None,
    health_port: Annotated[
        int | None,
        typer.Option(help="Serve /health/liveliness and /metrics on this port of 127.0.0.1.", min=0, max=65535),
    ] = None,
) -> None:
    """Run what goes on beside the calls: any number of keepers may run. Needs RABBITMQ_URL and REDIS_URL."""
    from api import working

    settings, loaded = startup.load(config)
    startup.require_shared_seams(settings)
    parts = working.known_parts(only or [])
    uvloop.run(working.keep(settings, loaded, parts, health_port=health_port))


@app.command()
def check(config: ConfigOption = None) -> None:
    """Audit the environment before anything starts: variables, keys, config, and a connection to each server."""
    from rich.console import Console

    from api import check as auditing

    environ = environment()
    settings = load_settings()
    path = config or settings.config
    missing: list[Reference] = []
    loaded = configuration.load(path, environ, missing) if path else configuration.default_config(environ)
    settings = resolve(settings, loaded)
    findings = asyncio.run(auditing.audit(settings, loaded, path, startup.pings(settings)))
    Console().print(auditing.render(findings))
    sys.exit(1 if auditing.failed(findings) else 0)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(VERSION)


if __name__ == "__main__":
    main()
