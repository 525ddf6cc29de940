"""When lines go to a provider's batch API, and when they come back. Decisions only."""

from dataclasses import dataclass

from shared.catalog import Catalog
from shared.errors import (
    UpstreamContentPolicy,
    UpstreamContextWindowExceeded,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
)
from shared.jobs import Job
from workers.provider_batches.http import Unsent


@dataclass(frozen=True, slots=True)
class Policy:
    """Times in seconds."""

    min_slack: float = 7_200.0
    """With less time until the deadline lines run live from the start."""
    min_lines: int = 10
    """Fewer for one deployment are not worth the wait."""
    margin_share: float = 0.25
    """Of the time there is, kept for running live what the provider does not finish ..."""
    min_margin: float = 600.0
    """... but at least so much."""
    stop_patience: float = 600.0
    """What a provider gets to stop a batch; OpenAI names 10 minutes."""
    lost_patience: float = 300.0
    """How long a batch whose creation was not answered is looked for."""
    poll: float = 60.0
    """Between two looks at a batch, give or take `jitter`."""
    jitter: float = 0.15
    longest_backoff: float = 900.0

    def has_slack(self, now: float, deadline: float) -> bool:
        return deadline - now >= self.min_slack

    def pull_back_at(self, now: float, deadline: float) -> float:
        return deadline - max(self.min_margin, (deadline - now) * self.margin_share)

    def pause(self, failures: int, chance: float, retry_after: float | None) -> float:
        """Until the next look, after so many failures in a row; `chance` is 0 to 1."""
        spread = 1 + self.jitter * (2 * chance - 1)
        backoff: float = min(self.poll * 2.0 ** min(failures, 10), self.longest_backoff)
        return max(backoff * spread, min(retry_after or 0.0, self.longest_backoff))


POLICY = Policy()


def perhaps_created(error: UpstreamError) -> bool:
    """Whether a creation that failed like this may have left a batch behind, which would run and be billed.

    A refusal by status left none. Silence, a cut connection, an answer that makes no sense and a gateway's 500, 502 or
    504 tell nothing.
    """
    if isinstance(error, Unsent | UpstreamRateLimited | UpstreamOverloaded):
        return False
    return error.status is None or error.status < 400 or error.status >= 500


def ends_here(error: UpstreamError, job: Job, catalog: Catalog) -> bool:
    """Whether a live call would end the job with the same error, so that there is no point in making one."""
    if error.retryable or job.leg + 1 < len(job.route):
        return False
    group = job.current.group
    match error:
        case UpstreamContextWindowExceeded():
            return not catalog.context_window_fallbacks(group)
        case UpstreamContentPolicy():
            return not catalog.content_policy_fallbacks(group)
        case _:
            return True
