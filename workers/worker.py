"""A pool: takes jobs from the lanes, runs each in a task, and drains when told to stop."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import structlog

from broker.interfaces import Consumer, Delivery
from shared import metrics
from shared.errors import AppError, Unavailable
from shared.ids import uuid7
from shared.jobs import Job
from shared.turns import Company
from workers.attempt import Caller
from workers.census import Census
from workers.outcomes import OutcomeWriter
from workers.pipeline import Pipeline, Seams
from workers.upstream import Upstream

_BEAT = 1.0  # seconds between announcements
_LOOK = 1.0  # seconds between looks for providers that came with a new model
_STARTS = 4  # jobs that begin in one turn of the event loop; a millisecond
_BEAT_TTL = 4.0  # seconds without one after which other workers take this one for dead

log = structlog.get_logger()


class Worker:
    """Runs up to `concurrency` jobs of `providers` at a time; None: of all that the catalog has, now and later."""

    def __init__(
        self,
        seams: Seams,
        providers: Sequence[str] | None = None,
        *,
        concurrency: int,
        grace: float,
        keep_ledger: bool = True,
        keep_prompts: bool = False,
    ) -> None:
        self._seams = seams
        self._all = providers is None
        self._providers = list(seams.catalog.providers() if providers is None else providers)
        self._concurrency = concurrency
        self._grace = grace
        self._keep_ledger = keep_ledger
        self._keep_prompts = keep_prompts
        self._running: set[asyncio.Task[None]] = set()
        self._census = Census(seams.clock)
        self.id = uuid7()

    @property
    def in_flight(self) -> int:
        return len(self._running)

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set, then finish what is running within the grace period and hand back the rest."""
        seams = self._seams
        metrics.JOBS_RUNNING.set_function(lambda: len(self._running))
        outcomes = OutcomeWriter(seams.queue, keep=self._keep_ledger)
        async with Upstream(limit=self._concurrency) as upstream:
            caller = Caller(upstream, seams.log, seams.clock, self.id)
            pipeline = Pipeline(seams, caller, outcomes, prompts=self._keep_prompts)
            async with (
                seams.queue.consume(self._providers, self._concurrency) as consumer,
                asyncio.TaskGroup() as group,
            ):
                await self._announce()
                await self._mind_paused_lanes(consumer)
                beating = group.create_task(self._beat(consumer))
                taking = group.create_task(self._take(consumer, pipeline))
                following = group.create_task(self._follow_catalog(consumer))
                await stopping.wait()
                taking.cancel()
                following.cancel()
                await consumer.stop()
                await self._drain()
                beating.cancel()
            await pipeline.close()
            await seams.log.announce(self.id, 0)

    async def _take(self, consumer: Consumer, pipeline: Pipeline) -> None:
        company = Company()
        begun = 0
        while True:
            delivery = await consumer.get()
            self._start(delivery, consumer, pipeline)
            begun += 1
            # Few at a time: jobs that are taken in one turn of the loop take every step of theirs in one, and whoever
            # comes meanwhile waits for all of them. More than one, because what they ask Redis is then one write.
            if company.beside(delivery.job.tenant) and begun >= _STARTS:
                begun = 0
                await asyncio.sleep(0)

    def _start(self, delivery: Delivery, consumer: Consumer, pipeline: Pipeline) -> None:
        # The set owns the task until it ends; `_drain` awaits what is left.
        task = asyncio.create_task(self._run(delivery, consumer, pipeline))
        self._running.add(task)
        self._census.taken(delivery.job)
        task.add_done_callback(partial(self._ended, delivery.job))

    def _ended(self, job: Job, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._census.ended(job)

    async def _run(self, delivery: Delivery, consumer: Consumer, pipeline: Pipeline) -> None:
        try:
            await pipeline.run(delivery, consumer)
        except AppError as error:
            # The queue is away. Unsettled, the job comes again when the connection does.
            log.warning("job left unsettled", job=delivery.job.id, code=error.code, reason=error.message)
        except Exception as exc:
            log.exception("the worker failed at a job", job=delivery.job.id)
            await self._apologise(delivery, consumer, pipeline, type(exc).__name__)

    async def _apologise(self, delivery: Delivery, consumer: Consumer, pipeline: Pipeline, reason: str) -> None:
        try:
            await pipeline.apologise(delivery, consumer, reason)
        except AppError as error:
            log.warning("job left unsettled", job=delivery.job.id, code=error.code, reason=error.message)

    async def _drain(self) -> None:
        if self._running:
            log.info("draining", jobs=len(self._running), grace=self._grace)
            await asyncio.wait(self._running, timeout=self._grace)
        rest = list(self._running)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _beat(self, consumer: Consumer) -> None:
        while True:
            await asyncio.sleep(_BEAT)
            try:
                await self._announce()
            except AppError as error:
                log.warning("heartbeat missed", reason=error.message)
            await self._mind_paused_lanes(consumer)

    async def _follow_catalog(self, consumer: Consumer) -> None:
        """Take jobs of providers that come with a new model. One that no model is left of is served on: its lane may
        have jobs. Apart from the heartbeat, which must not wait for the queue."""
        while self._all:
            await asyncio.sleep(_LOOK)
            new = [each for each in self._seams.catalog.providers() if each not in self._providers]
            if not new:
                continue
            try:
                await consumer.add(new)
            except Unavailable as error:
                log.warning("jobs of new providers are not taken yet", providers=new, reason=error.message)
            else:
                self._providers += new
                log.info("jobs of new providers are taken", providers=new)

    async def _mind_paused_lanes(self, consumer: Consumer) -> None:
        """What operators stopped stays stopped while nobody can be asked."""
        with suppress(Unavailable):
            await consumer.pause_lanes(await self._seams.log.paused_lanes())

    async def _announce(self) -> None:
        await self._seams.log.announce(self.id, _BEAT_TTL, self._census.report())
