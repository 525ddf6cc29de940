"""Names of everything that Headrace keeps on RabbitMQ, and the delay levels. Pure functions.

    headrace.jobs            direct exchange; routing key `<provider>.<lane>`
      headrace.jobs.<provider>.interactive, headrace.jobs.<provider>.batch
      headrace.jobs.<provider>.interactive.first: the interactive jobs of tenants that have little under way
    headrace.delay.<ms>      fanout exchange and queue, one pair a level; expired jobs go to `headrace.jobs` under the
                             routing key that they came with
    headrace.dead            direct exchange; routing key `<provider>`
      headrace.dead.<provider>
    headrace.outcomes        queue; those that no recorder could take end in `headrace.outcomes.dead`

The first word is the namespace, so that several installations (or parallel tests) share one server.
"""

from shared.jobs import Lane

NAMESPACE = "headrace"

MAX_DELAY = 3600.0
"""Seconds that a job may be delayed at most; what is longer is clamped."""

DELAY_LEVELS_MS = tuple(125 << power for power in range(16))
"""125 ms to 4,096 s. One queue a level: RabbitMQ expires messages at the head of a queue only, so all messages of a
queue must have the same time to live, or short waits would stand behind long ones."""


def jobs_exchange(namespace: str = NAMESPACE) -> str:
    return f"{namespace}.jobs"


def routing_key(provider: str, lane: Lane) -> str:
    return f"{provider}.{lane.value}"


def lane_queue(provider: str, lane: Lane, namespace: str = NAMESPACE) -> str:
    return f"{namespace}.jobs.{provider}.{lane.value}"


def first_key(provider: str) -> str:
    return f"{routing_key(provider, Lane.INTERACTIVE)}.first"


def first_queue(provider: str, namespace: str = NAMESPACE) -> str:
    """Where interactive jobs of the highest precedence wait. They need a queue, not only a priority: RabbitMQ sends a
    consumer what is there until its prefetch is used up, and whatever comes then, of any priority, has to wait until
    the consumer settles one."""
    return f"{namespace}.jobs.{first_key(provider)}"


def lane_queues(provider: str, lane: Lane, namespace: str = NAMESPACE) -> tuple[str, ...]:
    """All queues of the lane, the one that goes first at the head."""
    own = lane_queue(provider, lane, namespace)
    return (first_queue(provider, namespace), own) if lane is Lane.INTERACTIVE else (own,)


def dead_exchange(namespace: str = NAMESPACE) -> str:
    return f"{namespace}.dead"


def dead_queue(provider: str, namespace: str = NAMESPACE) -> str:
    return f"{namespace}.dead.{provider}"


def delay_name(level_ms: int, namespace: str = NAMESPACE) -> str:
    """The name of a level's exchange, and of its queue."""
    return f"{namespace}.delay.{level_ms}"


def outcomes_queue(namespace: str = NAMESPACE) -> str:
    return f"{namespace}.outcomes"


def dead_outcomes_queue(namespace: str = NAMESPACE) -> str:
    return f"{namespace}.outcomes.dead"


def delay_level_ms(delay: float) -> int:
    """The shortest level that is at least `delay` seconds: a job comes back late by less than its delay (or by less
    than 125 ms), never early. One hop; a chain of levels would be exact and cost a quorum write for each bit."""
    wanted_ms = min(delay, MAX_DELAY) * 1000
    return next(level for level in DELAY_LEVELS_MS if level >= wanted_ms)
