"""When a deployment should rest: the rules of LiteLLM's cooldowns, per process, shared through the limiter."""

from shared import errors
from shared.catalog import Deployment, Routing
from shared.clock import Clock
from shared.errors import AppError

_MEMORY = 60.0  # seconds after which an old failure no longer counts
_MOST_DEPLOYMENTS = 10_000  # wildcards make deployments as clients name models


class Health:
    def __init__(self, clock: Clock, routing: Routing) -> None:
        self._routing = routing
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}

    def succeeded(self, deployment: Deployment) -> None:
        if self._failures:
            self._failures.pop(deployment.id, None)

    def failed(self, deployment: Deployment, error: AppError, *, lonely: bool) -> float:
        """Seconds that the deployment's bucket should cool down; 0 for not at all.

        A rate limit counts at once. Other failures of the provider count when several come in a row, and never for a
        deployment without an alternative (`lonely`): resting it would help nobody.
        """
        rest = deployment.cooldown_time or self._routing.cooldown_time
        if isinstance(error, errors.UpstreamRateLimited):
            if error.retry_after is not None:
                return error.retry_after
            return 0.0 if lonely or self._routing.disable_cooldowns else rest
        if (
            not isinstance(error, errors.UpstreamError)
            or not error.retryable
            or lonely
            or self._routing.disable_cooldowns
        ):
            return 0.0
        now = self._clock.monotonic()
        count, last = self._failures.get(deployment.id, (0, now))
        count = count + 1 if now - last < _MEMORY else 1
        if count >= self._routing.allowed_fails:
            self._failures.pop(deployment.id, None)
            return rest
        if len(self._failures) >= _MOST_DEPLOYMENTS:
            self._failures.clear()
        self._failures[deployment.id] = (count, now)
        return 0.0
