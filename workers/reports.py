"""What an attempt leaves behind: its row in the ledger, and the last event that its client gets."""

from broker.interfaces import EventLog
from shared.clock import Clock
from shared.errors import AppError
from shared.events import Event, Kind
from shared.jobs import Job, Outcome, Status, Usage
from shared.pricing import PriceBook
from workers.attempt import Attempt

_LONGEST_MESSAGE = 500  # characters of an error message that the ledger keeps


class Reports:
    def __init__(self, log: EventLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._prices = PriceBook()

    def outcome(self, attempt: Attempt, status: Status, error: AppError | None = None) -> Outcome:
        """The ledger's row. A failure that brought no answer is booked without tokens: providers do not bill it."""
        unanswered = status is Status.FAILURE and attempt.usage is None and not attempt.characters
        usage = Usage() if unanswered else attempt.best_usage()
        job = attempt.job
        return Outcome(
            job_id=job.id,
            attempt=job.attempt,
            started_at=attempt.started_at,
            endpoint=job.endpoint,
            model=job.model,
            group=attempt.deployment.group,
            deployment=attempt.deployment.id,
            provider=attempt.deployment.provider,
            upstream_model=attempt.deployment.model,
            status=status,
            usage=usage,
            cost=self._prices.cost(attempt.deployment, usage),
            queue_wait=attempt.queue_wait,
            ttft=attempt.ttft,
            duration=max(self._clock.now() - attempt.started_at, 0.0),
            error_code=error.code if error else "",
            error_message=error.message[:_LONGEST_MESSAGE] if error else "",
            stream=job.stream,
            key=job.key,
            team=job.team,
            user=job.user,
            tags=job.tags,
            response_id=attempt.response_id or f"chatcmpl-{job.id}",
        )

    async def completed(self, attempt: Attempt, outcome: Outcome, body: bytes) -> None:
        meta = attempt.served()
        meta["outcome"] = outcome
        await self._emit(attempt.job, Event(attempt.job.id, attempt.seq + 1, Kind.COMPLETED, body, meta))

    async def failed(self, job: Job, error: AppError, attempt: Attempt | None = None) -> None:
        """Tell the client. The event carries the outcome, so that a redelivery can book it without running again."""
        meta: dict[str, object] = {}
        seq = 1
        if attempt is not None:
            meta = attempt.served()
            seq = attempt.seq + 1
            if attempt.dispatched:
                meta["outcome"] = self.outcome(attempt, Status.FAILURE, error)
        meta["error"] = error.to_wire()
        await self._emit(job, Event(job.id, seq, Kind.FAILED, b"", meta))

    async def failed_after(self, job: Job, error: AppError, seq: int) -> None:
        """Tell the client of a job whose worker died after event number `seq`."""
        await self._emit(job, Event(job.id, seq + 1, Kind.FAILED, b"", {"error": error.to_wire()}))

    async def _emit(self, job: Job, event: Event) -> None:
        await self._log.emit(job.reply_to, [event])
