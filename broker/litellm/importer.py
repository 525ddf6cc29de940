"""From LiteLLM's database into our store. What came once is left alone, so it may be run again at any time."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from broker import model_rows
from broker.account_records import Actor, Entry, EntryQuery, KeyQuery
from broker.litellm import models, rows, spend_logs
from broker.litellm.leftovers import leftovers
from broker.litellm.report import Report, Tally
from broker.litellm.rows import LeftOut, Moment, Unfit
from broker.litellm.source import PAGE, Row, Source
from broker.records import KeyRecord
from broker.store_interfaces import Store
from shared.catalog_builder import build_catalog
from shared.config import Config
from shared.errors import ConfigError, InvalidRequest
from shared.jobs import Outcome
from shared.secrets import Sealer

ACTOR = Actor("headrace import litellm")

T = TypeVar("T")


def _silent(_: str) -> None:
    return


@dataclass(frozen=True, slots=True)
class Task:
    """What to import, and how."""

    moment: Moment
    theirs: Sealer | None
    """Of LiteLLM's salt key; None when it is not known."""
    ours: Sealer | None
    config: Config
    dry_run: bool = False
    since: datetime | None = None
    """Of the first spend log, UTC."""
    progress: Callable[[str], None] = _silent
    """Is told how far it has come."""


class Importer:
    """Runs once."""

    def __init__(self, source: Source, store: Store, task: Task) -> None:
        self._source = source
        self._store = store
        self._task = task
        self._moment = task.moment
        self._report = Report()
        self._blank = False
        """A dry run into a database without our tables."""

    async def run(self) -> Report:
        """Raises `Unavailable` when one of the databases is away: what came by then stays."""
        self._blank = self._task.dry_run and not await self._store.current()
        steps: Sequence[Callable[[], Awaitable[object]]] = (
            self._budgets, self._users, self._teams, self._customers, self._models, self._keys,
        )  # fmt: skip
        for step in steps:
            await step()
        if self._moment.spend_logs:
            await self._spend_logs()
        self._report.elsewhere = await leftovers(self._source, spend_logs=self._moment.spend_logs)
        return self._report

    # --- The directory ----------------------------------------------------------------------------------------------

    async def _budgets(self) -> None:
        await self._entries("budgets", "LiteLLM_BudgetTable", "budget_id", rows.budget)

    async def _customers(self) -> None:
        await self._entries("customers", "LiteLLM_EndUserTable", "user_id", rows.customer)

    async def _users(self) -> None:
        def user(row: Row, moment: Moment) -> Entry:
            if row.get("user_role") == "proxy_admin":
                tally.notes["administrators; their keys may manage everything, as in LiteLLM"] += 1
            return rows.user(row, moment)

        tally = self._report.tally("users")
        await self._entries("users", "LiteLLM_UserTable", "user_id", user, tally)

    async def _entries(
        self, kind: str, table: str, key: str, convert: Callable[[Row, Moment], Entry], tally: Tally | None = None
    ) -> None:
        tally = tally or self._report.tally(kind)
        async for page in self._source.pages(table, [key]):
            await self._add(tally, _each(tally, page, key, lambda row: convert(row, self._moment)))

    async def _teams(self) -> None:
        teams, people = self._report.tally("teams"), self._report.tally("team members")
        aliases = {each["id"]: each for each in await self._all("LiteLLM_ModelTable", "id")}
        memberships: dict[str, dict[str, Row]] = {}
        for row in await self._all("LiteLLM_TeamMembership", "team_id", "user_id"):
            memberships.setdefault(row["team_id"], {})[row["user_id"]] = row

        def team(row: Row) -> Entry:
            return rows.team(row, _aliases(aliases.get(row.get("model_id"), {})), self._moment)

        async for page in self._source.pages("LiteLLM_TeamTable", ["team_id"]):
            made = _each(teams, page, "team_id", team)
            await self._add(teams, made)
            come = {each.id for each in made}
            for row in page:
                if row["team_id"] in come:
                    await self._members(people, row, memberships.get(row["team_id"], {}))

    async def _members(self, tally: Tally, team: Row, memberships: Mapping[str, Row]) -> None:
        members = rows.members(team, memberships, self._moment)
        tally.read += len(members)
        if nameless := rows.nameless_members(team):
            tally.notes["left out: known by an email address only; add them when they have a user id"] += nameless
        for begin in range(0, len(members), PAGE):
            await self._add(tally, members[begin : begin + PAGE])

    async def _all(self, table: str, *keys: str) -> list[Row]:
        return [row async for page in self._source.pages(table, keys) for row in page]

    async def _add(self, tally: Tally, entries: Sequence[Entry]) -> None:
        """At most a page, all of one kind."""
        if not entries:
            return
        there: set[str] = set()
        if not self._blank:
            query = EntryQuery(entries[0].kind, ids=tuple(each.id for each in entries), limit=PAGE)
            there = {each.id for each in await self._store.directory.find(query)}
        new = [each for each in entries if each.id not in there]
        if new and not self._task.dry_run and (taken := await self._store.directory.add(new, ACTOR)):
            # Somebody made them since.
            new = [each for each in new if each.id not in taken]
            await self._store.directory.add(new, ACTOR)
        tally.added += len(new)
        tally.there += len(entries) - len(new)

    # --- Models -----------------------------------------------------------------------------------------------------

    async def _models(self) -> None:
        tally = self._report.tally("models")
        credentials = await self._credentials()

        def model(row: Row) -> Entry:
            if self._task.theirs is None or self._task.ours is None:
                raise Unfit("no salt key: see --salt-key-env")
            entry = models.entry(row, credentials, self._task.theirs, self._task.ours, self._moment)
            if problem := self._problem(entry, self._task.ours):
                tally.notes[f"kept, and not served while this holds: {problem}"] += 1
            return entry

        async for page in self._source.pages("LiteLLM_ProxyModelTable", ["model_id"]):
            await self._add(tally, _each(tally, page, "model_id", model, name="model_name"))

    async def _credentials(self) -> dict[str, dict[str, Any]]:
        """Those that can be read, by name."""
        tally = self._report.tally("credentials")
        found: dict[str, dict[str, Any]] = {}
        for row in await self._all("LiteLLM_CredentialsTable", "credential_name"):
            tally.read += 1
            try:
                if self._task.theirs is None:
                    raise Unfit("no salt key: see --salt-key-env")
                found[row["credential_name"]] = models.readable(row["credential_values"], self._task.theirs)
                tally.leave_out("they become the key and address of the models that name them")
            except Unfit as unfit:
                tally.fail(row["credential_name"], str(unfit))
        return found

    def _problem(self, entry: Entry, ours: Sealer) -> str:
        """Why the model could not run here; empty if it could."""
        config = replace(self._task.config, entries=())
        try:
            warnings = build_catalog(config, [model_rows.catalog_entry(entry, ours, config.environ)]).warnings
        except ConfigError as error:
            return str(error)
        return next((each for each in warnings if each.startswith("database: ")), "")

    # --- Keys -------------------------------------------------------------------------------------------------------

    async def _keys(self) -> None:
        tally = self._report.tally("keys")
        async for page in self._source.pages("LiteLLM_VerificationToken", ["token"]):
            records = _each(tally, page, "token", lambda row: rows.key(row, self._moment), name="key_name")
            there: set[str] = set()
            if records and not self._blank:
                query = KeyQuery(hashes=tuple(each.hash for each in records), limit=PAGE)
                there = {each.hash for each in await self._store.keys.find(query)}
            for record in records:
                if record.hash in there or not await self._add_key(tally, record):
                    tally.there += 1
                else:
                    tally.added += 1
            self._task.progress(f"keys: {tally.read}")

    async def _add_key(self, tally: Tally, record: KeyRecord) -> bool:
        """Whether it is new."""
        if self._task.dry_run:
            return True
        taken = await self._store.keys.add(record, ACTOR)
        if taken == "alias":
            tally.notes["have an alias that another key has: they come without it"] += 1
            taken = await self._store.keys.add(replace(record, alias=""), ACTOR)
        return not taken

    # --- The ledger -------------------------------------------------------------------------------------------------

    async def _spend_logs(self) -> None:
        tally = self._report.tally("spend logs")
        after = None if self._task.since is None else (self._task.since.astimezone(UTC).replace(tzinfo=None), "")
        pages = self._source.pages("LiteLLM_SpendLogs", spend_logs.KEYS, after, spend_logs.CONTENT)
        async for page in pages:
            outcomes = _each(tally, page, "request_id", spend_logs.outcome)
            if self._task.dry_run:
                tally.added += len(outcomes)
            else:
                await self._record(tally, outcomes)
            self._task.progress(f"spend logs: {tally.read}, up to {page[-1]['startTime']:%Y-%m-%dT%H:%M:%S}")

    async def _record(self, tally: Tally, outcomes: Sequence[Outcome]) -> None:
        try:
            new = await self._store.record(outcomes)
        except InvalidRequest as error:
            if len(outcomes) == 1:
                tally.fail(outcomes[0].response_id, error.message)
                return
            middle = len(outcomes) // 2
            await self._record(tally, outcomes[:middle])
            await self._record(tally, outcomes[middle:])
        else:
            tally.added += new
            tally.there += len(outcomes) - new


def _each(tally: Tally, page: Sequence[Row], key: str, convert: Callable[[Row], T], *, name: str = "") -> list[T]:
    """Those rows that could be converted; the others are in the tally, under their `key`, with their `name`."""
    converted = []
    for row in page:
        tally.read += 1
        label = f"{row[key]} ({row.get(name)})" if name else str(row[key])
        try:
            converted.append(convert(row))
        except LeftOut as left:
            tally.leave_out(str(left))
        except Unfit as unfit:
            tally.fail(label, str(unfit))
    return converted


def _aliases(row: Row) -> dict[str, Any]:
    """The column is called `aliases` in the database."""
    given = row.get("aliases", row.get("model_aliases"))
    return given if isinstance(given, dict) else {}
