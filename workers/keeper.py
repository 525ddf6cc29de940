"""The keeper: everything that goes on beside the calls themselves, as parts of one process or of several."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import structlog
from pydantic import SecretStr

from broker import gate
from broker.backends import Backends
from shared import metrics
from shared.catalog import Catalog
from shared.clock import Clock
from shared.errors import Unavailable
from shared.ids import uuid7
from shared.settings import Settings
from shared.windows import Duration
from workers.alert_delivery import Messenger, targets
from workers.alerts import Alerts
from workers.batch_intake import BatchIntake
from workers.batch_output import BatchOutput
from workers.charges import Charges
from workers.checkout import Checkout
from workers.feeder import Feeder
from workers.lease import Lease
from workers.line_gate import LineGate
from workers.provider_batches.consigner import Consigner
from workers.provider_batches.driver import ProviderBatches
from workers.provider_batches.results import Results
from workers.purge import Purge
from workers.reaper import Reaper
from workers.recorder import Recorder
from workers.rounds import Rounds
from workers.undertaker import Undertaker
from workers.upstream import Upstream
from workers.webhooks import WebhookSender

PARTS = ("recorder", "feeder", "batches", "provider-batches", "reaper", "webhooks", "alerts", "dead")

_FEEDER_TTL = 6.0  # seconds; while nobody has this lease batches stand still
_TTL = 15.0  # seconds, of the other leases
_FIRST_BACKOFF = 0.2  # seconds, doubled up to the longest
_LONGEST_BACKOFF = 5.0

log = structlog.get_logger(__name__)

Prepared = Callable[[], Awaitable[bool]]
"""Whether the store's schema is there; brings it up to date if it can."""

_Run = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a keeper works with."""

    backends: Backends
    catalog: Catalog
    settings: Settings
    clock: Clock
    prepared: Prepared

    @property
    def volatile(self) -> bool:
        """The queue dies with this process, which is then the only one of its store."""
        return self.settings.rabbitmq_url is None


class Keeper:
    """Runs some of `PARTS`. Any number of keepers may run: the store's leases choose who does what only one may do.

    Parts begin when the store's schema is there, and go on when a server was away.
    """

    def __init__(self, surroundings: Surroundings, parts: Collection[str] = PARTS) -> None:
        self._surroundings = surroundings
        self._parts = frozenset(parts)
        self._began = surroundings.clock.now()
        self._holder = "embedded" if surroundings.volatile else uuid7()
        self._charges = Charges(surroundings.backends.accounts)
        self._feeding: Rounds | None = None

    @cached_property
    def _gate(self) -> gate.Gate:
        around = self._surroundings
        return gate.make(around.backends, around.catalog, around.settings, around.clock)

    async def run(self) -> None:
        """Until cancelled; may be run once."""
        await self._prepare()
        if self._surroundings.volatile and "feeder" in self._parts:
            await self._put_back()
        async with asyncio.TaskGroup() as group:
            for name, run in self._runs().items():
                group.create_task(run(), name=name)

    async def _prepare(self) -> None:
        wait = _FIRST_BACKOFF
        while not await self._surroundings.prepared():
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_BACKOFF)

    async def _put_back(self) -> None:
        """What the last process had on its queue, or in its hands, waits again."""
        reaper = Reaper(self._surroundings.backends, self._surroundings.clock)
        await _going_on("put back", lambda: reaper.put_back(self._began), once=True)

    def _runs(self) -> dict[str, _Run]:
        makers: dict[str, Callable[[], dict[str, _Run]]] = {
            "recorder": self._recorder,
            "feeder": self._feeder,
            "batches": self._batches,
            "provider-batches": self._provider_batches,
            "reaper": self._reaper,
            "webhooks": self._webhooks,
            "alerts": self._alerts,
            "dead": self._dead_letters,
        }
        return {name: run for part in PARTS if part in self._parts for name, run in makers[part]().items()}

    def _recorder(self) -> dict[str, _Run]:
        backends = self._surroundings.backends

        async def run() -> None:
            await Recorder(
                backends.queue,
                backends.store,
                charges=self._charges,
                on_recorded=lambda new, _: metrics.RECORDED.inc(new),
            ).run()

        return {"recorder": lambda: _going_on("recorder", run), "charges": self._charges.run}

    def _feeder(self) -> dict[str, _Run]:
        around = self._surroundings
        lease = self._lease("feeder", _FEEDER_TTL)
        line_gate = LineGate(self._gate, around.backends.store.jobs, around.clock)
        self._feeding = Rounds("feeder", Feeder(around.backends, around.clock, lease, line_gate).round, lease)
        return {"feeder": self._feeding.run}

    def _batches(self) -> dict[str, _Run]:
        around = self._surroundings
        store, catalog, clock = around.backends.store, around.catalog, around.clock
        consigner = Consigner(store, catalog, clock)
        intake = BatchIntake(store, catalog, clock, self._wake_feeder, consigner, self._gate.policies)
        output = BatchOutput(around.backends, around.clock)
        return {
            "batch intake": Rounds("batch intake", intake.round, self._lease("intake", _TTL)).run,
            "batch output": Rounds("batch output", output.round, self._lease("output", _TTL)).run,
        }

    def _provider_batches(self) -> dict[str, _Run]:
        around = self._surroundings
        lease = self._lease("provider-batches", _TTL)
        results = Results(
            around.backends.store, around.catalog, around.clock,
            charges=self._charges, keep_ledger=not around.settings.disable_spend_logs,
            keep_prompts=around.settings.management.store_prompts_in_spend_logs,
        )  # fmt: skip

        async def run() -> None:
            async with Upstream() as upstream:
                driver = ProviderBatches(
                    around.backends.store, around.catalog, around.clock, upstream,
                    results=results, held=lambda: lease.held,
                )  # fmt: skip
                await Rounds("provider batches", driver.round, lease).run()

        return {"provider batches": run, "charges": self._charges.run}

    def _reaper(self) -> dict[str, _Run]:
        around = self._surroundings
        reaper = Reaper(around.backends, around.clock)
        period = around.settings.management.maximum_spend_logs_retention_period
        retention = Duration.parse(period).seconds if period else None
        purge = Purge(around.backends.store, around.clock, retention=retention)
        return {
            "reaper": Rounds("reaper", reaper.round, self._lease("janitor", _TTL)).run,
            "purge": Rounds("purge", purge.round, self._lease("purge", 3 * _TTL)).run,
        }

    def _webhooks(self) -> dict[str, _Run]:
        around = self._surroundings
        secret = around.settings.webhook_secret
        if secret is None:
            return {}

        async def run() -> None:
            await WebhookSender(
                around.backends.store,
                around.clock,
                secret=secret.get_secret_value(),
                allow_private=around.settings.webhook_allow_private,
            ).run()

        return {"webhooks": lambda: _going_on("webhooks", run)}

    def _alerts(self) -> dict[str, _Run]:
        around, settings = self._surroundings, self._surroundings.settings
        told = targets(
            settings.management.alerting,
            settings.management.alert_to_webhook_url,
            _plain(settings.slack_webhook_url),
            _plain(settings.alert_webhook_url),
        )
        if not told:
            return {}
        messenger = Messenger(told, secret=_plain(settings.webhook_secret))
        alerts = Alerts(around.backends.store, around.clock, settings.management.calendar, messenger)
        return {"alerts": Rounds("alerts", alerts.round, self._lease("alerts", _TTL)).run}

    def _dead_letters(self) -> dict[str, _Run]:
        around = self._surroundings
        checkout = Checkout(around.backends.accounts)
        undertaker = Undertaker(around.backends.queue, around.backends.store, around.clock, checkout=checkout)
        return {"dead letters": lambda: _going_on("dead letters", undertaker.run)}

    def _wake_feeder(self) -> None:
        if self._feeding is not None:
            self._feeding.wake()

    def _lease(self, name: str, ttl: float) -> Lease:
        return Lease(self._surroundings.backends.store, name, self._holder, self._surroundings.clock, ttl=ttl)


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


async def _going_on(name: str, run: _Run, *, once: bool = False) -> None:
    """Run it, and run it again when a server was away or it failed; with `once` until it returns."""
    backoff = _FIRST_BACKOFF
    while True:
        started = asyncio.get_running_loop().time()
        try:
            await run()
            if once:
                return
        except Unavailable as error:
            log.warning("part_waits_for_a_server", part=name, reason=error.message)
        except Exception:
            log.exception("part_failed", part=name)
        if asyncio.get_running_loop().time() - started > _LONGEST_BACKOFF:
            backoff = _FIRST_BACKOFF
        await asyncio.sleep(backoff)
        backoff = min(backoff * 2, _LONGEST_BACKOFF)
