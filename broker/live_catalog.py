"""A process's catalog, as the config and the database say it: what others change there is here a moment later."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog

from broker import model_rows
from broker.account_records import Entry, EntryQuery, Kind
from broker.directory_interfaces import Directory
from broker.interfaces import EventLog
from shared.catalog import Catalog
from shared.catalog_builder import build_catalog
from shared.config import Config
from shared.config import Entry as CatalogEntry
from shared.errors import ConfigError, Unavailable
from shared.secrets import Sealer

MODELS = "models"
"""What changes of models are announced as."""

LOOK_EVERY = 30.0  # seconds between looks that nobody asked for; an announcement may be lost
LOOK_OFTEN = 10.0  # the same while announcements cannot come
MOST_MODELS = 10_000  # of the database
_RETRY = 1.0  # seconds until a look that failed is tried again, doubled up to LOOK_OFTEN
_PAGE = 1000

log = structlog.get_logger(__name__)

Declare = Callable[[Sequence[str]], Awaitable[None]]


class LiveCatalog:
    """Renews `catalog`, in place, from `config` and the models of the database."""

    def __init__(
        self,
        catalog: Catalog,
        config: Config,
        directory: Directory,
        event_log: EventLog,
        sealer: Sealer,
        declare: Declare,
    ) -> None:
        """`declare` makes the lanes of providers: it is awaited before the catalog names them."""
        self.catalog = catalog
        self.sealer = sealer
        self._config = config
        self._directory = directory
        self._log = event_log
        self._declare = declare
        self._version: str | None = None
        self._warned: frozenset[str] = frozenset()
        self._turn = asyncio.Lock()
        self._begun = 0
        self._done = 0
        """The latest look that succeeded, by number."""
        self._asked = asyncio.Event()
        event_log.on_change(self._heard)

    async def renew(self) -> None:
        """Return when the catalog has everything that was in the database at the time of the call. Many may call at a
        time: they share their looks. Raises `Unavailable`."""
        wanted = self._begun + 1
        async with self._turn:
            if self._done >= wanted:
                return
            self._begun += 1
            number = self._begun
            await self._look()
            self._done = number

    async def changed(self) -> None:
        """This process has changed a model: use it here, and tell the others. What fails is made up for by `run`, and
        by the others' looks: the change itself is done."""
        try:
            await self.renew()
            await self._log.announce_change(MODELS)
        except Unavailable as error:
            self._asked.set()
            log.warning("a changed model is not in use everywhere yet", reason=error.message)

    async def check(self, id: str, name: str, params: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        """Raises `ConfigError` when this model could not run beside the others, and `Unavailable`."""
        entry = model_rows.asked_entry(id, name, params, info, self._config.environ)
        others = self._entries([each for each in await self._rows() if each.id != id], [])
        warnings = build_catalog(self._config, [*others, entry]).warnings
        problem = next((each for each in warnings if each.startswith(entry.where)), None)
        if problem is not None:
            raise ConfigError(problem)

    async def run(self) -> None:
        """Until cancelled: renew whenever somebody announces a change, and in any case from time to time."""
        wait = _RETRY
        while True:
            self._asked.clear()
            try:
                await self.renew()
                wait = _RETRY
                pause = await self._pause()
            except Unavailable as error:
                log.warning("the database's models are not to be had; the known ones are served", reason=error.message)
                pause, wait = wait, min(wait * 2, LOOK_OFTEN)
            except Exception:
                log.exception("renewing the models failed")
                pause = LOOK_OFTEN
            try:
                await asyncio.wait_for(self._asked.wait(), pause)
            except TimeoutError:
                continue

    def _heard(self, subject: str) -> None:
        if subject in (MODELS, ""):  # "": something may have been missed
            self._asked.set()

    async def _pause(self) -> float:
        try:
            await self._log.ping()
        except Unavailable:
            return LOOK_OFTEN
        return LOOK_EVERY

    async def _look(self) -> None:
        version = await self._directory.version(Kind.MODEL)
        if version == self._version:
            return
        rows = await self._rows()
        skipped: list[str] = []
        renewed = build_catalog(self._config, self._entries(rows, skipped))
        await self._declare(renewed.providers())
        self.catalog.adopt(renewed)
        self._version = version
        self._warn([*skipped, *renewed.warnings])
        log.info("models renewed", models=len(rows))

    async def _rows(self) -> list[Entry]:
        rows: list[Entry] = []
        while len(rows) < MOST_MODELS:
            query = EntryQuery(Kind.MODEL, newest_first=False, offset=len(rows), limit=_PAGE)
            page = await self._directory.find(query)
            rows += page
            if len(page) < _PAGE:
                break
        return [each for each in rows if not model_rows.blocked(each)]

    def _entries(self, rows: Sequence[Entry], skipped: list[str]) -> list[CatalogEntry]:
        """Why one is left out goes to `skipped`."""
        entries = []
        for each in rows:
            try:
                entries.append(model_rows.catalog_entry(each, self.sealer, self._config.environ))
            except ConfigError as error:
                skipped.append(str(error))
        return entries

    def _warn(self, warnings: Sequence[str]) -> None:
        """Of what was not said at the last look."""
        for each in warnings:
            if each not in self._warned:
                log.warning(each)
        self._warned = frozenset(warnings)
