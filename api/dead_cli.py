"""`headrace dead`: jobs that were set aside, from the command line."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.remote import BaseUrlOption, run
from api.terminal import JsonOption, moment, print_json, print_table, say, segment

if TYPE_CHECKING:
    from api.client import ApiClient

app = typer.Typer(
    help="Jobs that were set aside: they crashed their workers or could not be read.", no_args_is_help=True
)

LetterArgument = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
LettersArgument = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of jobs.")]
ProviderOption = Annotated[str | None, typer.Option("--provider", "-p", help="Only those of this provider.")]

_ATTEMPT_COLUMNS = ("attempt", "deployment", "status", "started", "seconds", "dollars", "error")


@app.command("list")
def list_command(
    provider: ProviderOption = None,
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1, max=100)] = 20,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Those that come after this one.")] = None,
    json: JsonOption = False,
    base_url: BaseUrlOption = None,
) -> None:
    """List dead jobs, the newest first."""
    params = {"provider": provider, "limit": limit, "after": after}
    page = run(lambda client: client.request("GET", "/v1/dead", params=params), base_url)
    if json:
        print_json(page)
        return
    rows = [[each["id"], each["provider"], moment(each["died_at"]), each["reason"]] for each in page["data"]]
    print_table(("id", "provider", "died", "reason"), rows)
    if page["has_more"]:
        say(f"there are more: add --after {page['last_id']}")


@app.command()
def show(
    job_id: LetterArgument,
    body: Annotated[bool, typer.Option("--body", help="Also the request, prompts included.")] = False,
    json: JsonOption = False,
    base_url: BaseUrlOption = None,
) -> None:
    """Show why a job died, and the attempts at it."""
    params = {"body": "true"} if body else None
    letter = run(lambda client: client.request("GET", f"/v1/dead/{segment(job_id)}", params=params), base_url)
    if json:
        print_json(letter)
        return
    for name, value in _facts(letter):
        typer.echo(f"{name:<10} {value}")
    if letter["history"]:
        print_table(_ATTEMPT_COLUMNS, [_attempt(each) for each in letter["history"]])
    if body:
        print_json(letter["body"])


@app.command()
def retry(job_ids: LettersArgument, json: JsonOption = False, base_url: BaseUrlOption = None) -> None:
    """Run dead jobs again, each as a new job. Prints the new jobs' ids."""

    async def publish(client: "ApiClient") -> None:
        for job_id in job_ids:
            job = await client.request("POST", f"/v1/dead/{segment(job_id)}/retry")
            # At once: should the next one fail, this one runs all the same.
            if json:
                print_json(job)
            else:
                typer.echo(job["id"])

    run(publish, base_url)


@app.command()
def purge(
    job_ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of jobs.")] = None,
    provider: Annotated[str | None, typer.Option("--provider", "-p", help="All of this provider.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
    base_url: BaseUrlOption = None,
) -> None:
    """Throw dead jobs away: those named, those of a provider, or all."""
    if (bool(job_ids), provider is not None, everything).count(True) != 1:
        raise typer.BadParameter("name jobs, or give --provider, or --all")
    if not job_ids and not yes:
        typer.confirm(f"Throw away all dead jobs{f' of {provider}' if provider else ''}?", abort=True, err=True)

    async def remove(client: "ApiClient") -> int:
        for job_id in job_ids or ():
            await client.request("DELETE", f"/v1/dead/{segment(job_id)}")
        if job_ids:
            return len(job_ids)
        deleted: int = (await client.request("DELETE", "/v1/dead", params={"provider": provider}))["deleted"]
        return deleted

    deleted = run(remove, base_url)
    if json:
        print_json({"deleted": deleted})
    else:
        typer.echo(f"{deleted} thrown away")


def _facts(letter: dict[str, Any]) -> list[tuple[str, Any]]:
    facts = [
        ("id", letter["id"]),
        ("provider", letter["provider"]),
        ("reason", letter["reason"]),
        ("died", moment(letter["died_at"])),
        ("accepted", moment(letter["accepted_at"])),
    ]
    facts += [(name, letter[name]) for name in ("model", "lane", "team", "user") if letter[name]]
    return facts + ([("tags", ", ".join(letter["tags"]))] if letter["tags"] else [])


def _attempt(attempt: dict[str, Any]) -> list[str]:
    error = attempt["error"]
    return [
        str(attempt["attempt"]),
        attempt["deployment"],
        attempt["status"],
        moment(attempt["started_at"]),
        f"{attempt['duration']:.3f}",
        f"{attempt['cost']:.6f}",
        f"{error['code']}: {error['message']}" if error else "",
    ]
