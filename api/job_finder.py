"""Jobs that somebody asks about: from the store, else from the event log, and only to those who may see them."""

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from api import job_objects
from api.job_objects import Place, Traces
from api.lane_board import LaneBoard
from broker.backends import Backends
from broker.records import JobQuery, JobRecord, SpendQuery
from shared.clock import Clock
from shared.errors import NotFound, Unavailable
from shared.events import Event
from shared.jobs import JobState

_LONGEST_ID = 100  # characters; ours have 36
_ONLY_NOTES = 2**31  # no event has such a number
_LARGEST_PAGE = 100
_MOST_PAGES = 10  # read for one answer, when most of what is on them has another status


@dataclass(frozen=True, slots=True)
class JobFinder:
    backends: Backends
    board: LaneBoard
    clock: Clock

    async def find(self, job_id: str, owner: str | None) -> tuple[JobRecord, Traces]:
        """The job as it is now, with its answer. Raises `NotFound` when there is none, or none of this owner's."""
        record = await self._stored(job_id, owner)
        if record is not None and record.state.final:
            return record, Traces()
        events = await self._logged(job_id)
        if record is None:
            record = job_objects.from_log(job_id, events)
            if record is None or owner not in (None, record.job.key):
                raise missing(job_id)
        seen = job_objects.traces(record.job, events)
        return job_objects.current(record, seen), seen

    async def whole(self, record: JobRecord, seen: Traces) -> dict[str, Any]:
        """The job as `GET /v1/jobs/{id}` shows it."""
        job_id = record.job.id
        rows = await self.backends.store.spend(SpendQuery(request_id=job_id))
        outcomes = [row for row in rows if row.job_id == job_id]
        queued = job_objects.status(record, bool(seen.notes)) == "queued"
        return job_objects.whole(record, seen, outcomes, await self.place(record) if queued else None)

    async def place(self, record: JobRecord, waited: float | None = None) -> Place | None:
        """Where a queued job stands that has `waited` on its lane for so many seconds; None when nobody can say."""
        job, now = record.job, self.clock.now()
        lane = await self.board.lane(job.provider, job.lane) if job.route else None
        if lane is None:
            return None
        if record.state is JobState.QUEUED:
            return job_objects.place_on(lane, 0.0, now, await self.backends.store.jobs.position(job.id) or 0)
        return job_objects.place_on(lane, now - record.moved_at if waited is None else waited, now)

    async def page(self, query: JobQuery, statuses: frozenset[str]) -> tuple[list[dict[str, Any]], bool]:
        """Jobs of these statuses (empty: any), and whether there are more behind them."""
        found: list[dict[str, Any]] = []
        page = replace(query, limit=min(query.limit + 1, _LARGEST_PAGE))
        for _ in range(_MOST_PAGES):
            records = await self.backends.store.jobs.find(page)
            for each in await asyncio.gather(*map(self._summary, records)):
                if statuses and each["status"] not in statuses:
                    continue
                if len(found) == query.limit:
                    return found, True
                found.append(each)
            if len(records) < page.limit:
                return found, False
            page = replace(page, after=records[-1].job.id)
        return found, True

    async def _stored(self, job_id: str, owner: str | None) -> JobRecord | None:
        jobs = self.backends.store.jobs
        if len(job_id) > _LONGEST_ID:
            return None
        record = await jobs.get(job_id, owner)
        if record is None or not record.state.final:
            return record
        return await jobs.get(job_id, owner, bodies=True)

    async def _logged(self, job_id: str, after: int = 0) -> list[Event]:
        try:
            return await self.backends.log.replay(job_id[:_LONGEST_ID], after)
        except Unavailable:
            return []  # what the store says is worth having

    async def _summary(self, record: JobRecord) -> dict[str, Any]:
        """Only a job on its lane needs the log: it may have begun."""
        dispatched = record.state in (JobState.DISPATCHING, JobState.DISPATCHED)
        events = await self._logged(record.job.id, after=_ONLY_NOTES) if dispatched else []
        return job_objects.summary(record, begun=bool(job_objects.traces(record.job, events).notes))


def missing(job_id: str) -> NotFound:
    return NotFound(f"No such Job object: {job_id[:_LONGEST_ID]}", param="id")
