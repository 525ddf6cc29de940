"""What an attempt leaves behind: its row in the ledger, the last event that its client gets, and of a durable job the
ending that the store keeps. Values only: `workers.ends` sends them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from shared import errors
from shared.clock import Clock
from shared.errors import AppError
from shared.events import Event, Kind
from shared.jobs import Ending, Job, JobState, Outcome, Status, Usage
from shared.pricing import PriceBook
from workers.attempt import Attempt
from workers.transcript import MAX_ANSWER_BYTES, Transcript

MAX_PROMPT_BYTES = 64 * 1024
"""Of a request, and of an answer, that the ledger keeps."""

_LONGEST_MESSAGE = 500  # characters of an error message that the ledger keeps
_STATES = {
    errors.Cancelled.code: JobState.CANCELLED,
    errors.DeadlineExceeded.code: JobState.EXPIRED,
}
"""By error code; every other error means FAILED."""
_CLOCK_SLACK = 0.05  # seconds; time limits are kept by another clock than deadlines
_NOT_SERVED = ("outcome", "error", "end")  # of a last event's meta; the rest is `Attempt.served`


class Reports:
    def __init__(self, clock: Clock, *, prompts: bool = False) -> None:
        """`prompts`: rows hold what was asked and answered (`store_prompts_in_spend_logs`), but for those of
        requests that ask to be redacted."""
        self._clock = clock
        self._prompts = prompts
        self._prices = PriceBook()

    def outcome(
        self, attempt: Attempt, status: Status, error: AppError | None = None, *, last: bool = True, answer: bytes = b""
    ) -> Outcome:
        """The ledger's row; `last` unless another attempt follows. A failure that brought no answer is booked without
        tokens: providers do not bill it."""
        unanswered = status is Status.FAILURE and attempt.usage is None and not attempt.characters
        usage = Usage() if unanswered else attempt.best_usage()
        job = attempt.job
        prompts = self._prompts and not job.redact
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
            cost=self._prices.cost(attempt.deployment, usage, service_tier=usage.tier),
            queue_wait=attempt.queue_wait,
            ttft=attempt.ttft,
            duration=max(self._clock.now() - attempt.started_at, 0.0),
            error_code=error.code if error else "",
            error_message=error.message[:_LONGEST_MESSAGE] if error else "",
            stream=job.stream,
            key=job.key,
            team=job.team,
            user=job.user,
            customer=job.customer,
            tags=job.tags,
            response_id=attempt.response_id or f"chatcmpl-{job.id}",
            last=last,
            request=kept_text(job.body) if prompts else "",
            response=kept_text(answer or _streamed(attempt)) if prompts else "",
        )

    def completed(self, attempt: Attempt, outcome: Outcome, body: bytes) -> Event:
        """The event carries the outcome, so that a redelivery can book it without running again."""
        job = attempt.job
        meta = attempt.served()
        meta["outcome"] = _without_prompts(outcome)
        if job.durable:
            meta["end"] = self._end(job, JobState.COMPLETED, outcome)
        return Event(job.id, attempt.seq + 1, Kind.COMPLETED, body, meta)

    def failed(self, job: Job, error: AppError, attempt: Attempt | None, outcome: Outcome | None, seq: int) -> Event:
        """As event number `seq`. It carries the attempt's outcome, if the attempt went upstream."""
        meta = attempt.served() if attempt is not None else {}
        if outcome is not None:
            meta["outcome"] = _without_prompts(outcome)
        meta["error"] = error.to_wire()
        if job.durable:
            meta["end"] = self._end(job, self._state(job, error), outcome)
        return Event(job.id, seq, Kind.FAILED, b"", meta)

    def ending(self, job: Job, last: Event, transcript: Transcript | None) -> Ending:
        """What the store keeps of a durable job whose last event is, or was, this one: the same whoever asks."""
        meta: Mapping[str, Any] = last.meta
        error = meta.get("error")
        end = meta.get("end") or self._guessed_end(job, last)
        state = JobState(end["state"])
        answer = last.data if transcript is None else transcript.text(complete=last.kind is Kind.COMPLETED)
        if transcript is None and len(answer) > MAX_ANSWER_BYTES:
            state, error, answer = JobState.FAILED, _too_large(len(answer)).to_wire(), b""
        return Ending(
            job_id=job.id,
            state=state,
            finished_at=end["at"],
            attempts=end["attempts"],
            answer=answer,
            error=error,
            served={name: value for name, value in meta.items() if name not in _NOT_SERVED} or None,
            cost=end["cost"],
        )

    def _end(self, job: Job, state: JobState, outcome: Outcome | None) -> dict[str, Any]:
        """What only an ending knows, as a durable job's last event carries it."""
        return {
            "state": state.value,
            "at": self._clock.now(),
            "attempts": job.attempt if outcome is not None else job.attempt - 1,
            "cost": outcome.cost if outcome is not None else 0,
        }

    def _guessed_end(self, job: Job, last: Event) -> dict[str, Any]:
        """For a last event that no worker wrote."""
        completed = last.kind is Kind.COMPLETED
        state = JobState.COMPLETED if completed else _STATES.get(last.meta["error"].get("code"), JobState.FAILED)
        return self._end(job, state, None)

    def _state(self, job: Job, error: AppError) -> JobState:
        if error.retryable and self._clock.now() >= job.deadline - _CLOCK_SLACK:
            return JobState.EXPIRED  # with more time it would have gone on
        return _STATES.get(error.code, JobState.FAILED)


def kept_text(payload: bytes) -> str:
    """As much of a request or an answer as the ledger keeps, and a mark where it was cut."""
    if len(payload) <= MAX_PROMPT_BYTES:
        return payload.decode(errors="replace")
    cut = payload[:MAX_PROMPT_BYTES].decode(errors="ignore")
    return f"{cut}... [cut: {len(payload)} bytes, of which {MAX_PROMPT_BYTES} are kept]"


def _streamed(attempt: Attempt) -> bytes:
    return attempt.transcript.text(complete=False) if attempt.transcript is not None else b""


def _without_prompts(outcome: Outcome) -> Outcome:
    """As it travels to the client's api process, which has no use for them."""
    return replace(outcome, request="", response="") if outcome.request or outcome.response else outcome


def _too_large(size: int) -> AppError:
    return errors.UpstreamError(
        f"The answer has {size} bytes, and the store keeps at most {MAX_ANSWER_BYTES}: ask for less, or without a job."
    )
