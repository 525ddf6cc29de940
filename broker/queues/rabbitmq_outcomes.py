"""The recorder's side of the outcomes queue on RabbitMQ."""

import structlog

from broker.queues.outcome_wire import Recorded, decode
from broker.queues.rabbitmq_deliveries import Delivered
from broker.queues.rabbitmq_reader import Reading

log = structlog.get_logger(__name__)


class RabbitOutcomes(Reading):
    def __init__(self, message: Delivered, recorded: Recorded) -> None:
        super().__init__(message)
        self.outcomes = recorded.outcomes
        self.endings = recorded.endings


def read_outcomes(message: Delivered) -> RabbitOutcomes | None:
    try:
        return RabbitOutcomes(message, decode(message.body))
    except (ValueError, KeyError, TypeError) as exc:
        # Money may be in it: leave it unacked. It goes to the dead outcomes after its delivery limit. The library's
        # text may quote an answer, so only its kind is logged.
        log.error("outcomes_unreadable", error=type(exc).__name__, bytes=len(message.body))
        return None
