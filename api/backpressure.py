"""Saying no in time, and how long to wait: from what is known anyway, so that no request waits for it."""

from math import ceil

from api.lane_board import LaneBoard, Outlook
from api.rate_limits import RateBoard
from shared.errors import DeadlineUnreachable, QueueFull, QueueWaitExceeded
from shared.jobs import FIRST, Job, Lane

_LEAST, _MOST = 1.0, 3600.0  # seconds of a Retry-After


class Backpressure:
    def __init__(self, board: LaneBoard, rates: RateBoard) -> None:
        self._board = board
        self._rates = rates

    def admit(self, job: Job, tenants: int) -> Outlook:
        """How the job's lane stands as the job joins it, while so many `tenants` have interactive jobs under way.

        Raises `DeadlineUnreachable` and `QueueWaitExceeded` for a job whose turn would come too late. A guess refuses
        nobody: the pace must have been measured, and the job's place be known. The workers mind both limits anyway.
        """
        self._rates.headers(job.route[0].group)  # they are known by the time of the answer then
        outlook = self._board.outlook(job)
        if outlook.certain_wait > 0 and (tenants <= 1 or _place_is_known(job)):
            _refuse_late(job, outlook)
        return outlook

    def tell(self, headers: dict[str, str], job: Job, outlook: Outlook | None) -> None:
        """Add what an agent paces itself by. `outlook` is what `admit` returned; None for a job that does not join a
        lane, as it did so before."""
        if not job.route:  # known from the event log only
            return
        if outlook is not None:
            # Known since a moment later, if the job was the first after a while.
            known = outlook if outlook.lane is not None else self._board.outlook(job)
            headers.update(known.headers)
        headers.update(self._rates.headers(job.route[0].group))

    def corrected(self, error: QueueFull, job: Job) -> QueueFull:
        """With the time that all workers need to empty the lane. The queue guesses it from what this process saw."""
        outlook = self._board.outlook(job)
        if outlook.lane is None or outlook.pace.rate <= 0:
            return error
        seconds = min(max(outlook.lane.bound / outlook.pace.rate, _LEAST), _MOST)
        if not outlook.pace.measured and error.retry_after is not None:
            seconds = min(seconds, error.retry_after)  # both guesses are rather too long
        return QueueFull(error.message, provider=error.provider, retry_after=seconds)


def _place_is_known(job: Job) -> bool:
    """Between the highest precedence and the lowest, nobody knows which of the others go before it."""
    return job.lane is Lane.BATCH or job.precedence in (0, FIRST)


def _refuse_late(job: Job, outlook: Outlook) -> None:
    wait = outlook.certain_wait
    until = min(job.start_by or job.deadline, job.deadline)
    time = until - job.accepted_at
    if wait < time:
        return
    too_long = max(wait - time, _LEAST)
    prospect = f"about {wait:.1f} s behind {outlook.position} jobs for {job.provider}"
    if until < job.deadline:
        raise QueueWaitExceeded(
            f"The request would wait {prospect}, and its max_queue_wait is {time:g} s: send it again in "
            f"{ceil(too_long)} s, or allow a longer wait.",
            retry_after=too_long,
        )
    raise DeadlineUnreachable(
        f"The request cannot be done in time: it would wait {prospect}, and its deadline is in {time:g} s. Send it "
        f"again in {ceil(too_long)} s, or with a longer timeout.",
        retry_after=too_long,
    )
