"""Publishing with pipelined confirms: written at once, answered later, thousands on their way."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import aiormq
from aiormq.channel import Returning

from broker.queues import rabbitmq_frames as frames
from broker.queues.rabbitmq_link import Link
from shared.errors import AppError, QueueFull, Unavailable

MAX_UNCONFIRMED = 10_000
"""Messages written or waiting for the connection; over it publishing fails with `QueueFull`."""

CONFIRM_TIMEOUT = 30.0
"""Seconds without an answer to the oldest message after which the connection is given up: the server is out of memory
or disk and has blocked its publishers, or it is gone and TCP has not noticed."""

RECONNECT_PATIENCE = 5.0
"""Seconds that a message waits for a lost connection to return."""


class Confirm(asyncio.Future[None]):
    """What `publish` returns and aiormq settles. It translates the library's verdicts, and does not complain when
    nobody looks at them."""

    def __init__(
        self, message: frames.Message, refused: Callable[[], AppError], accepted: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__()
        self.message = message
        self.otherwise: frames.Message | None = None
        """What to publish instead, should the server refuse the message."""
        self.publish_again: Callable[[Confirm], None] = _ignore
        self.written_at = 0.0
        self.on_settled: Callable[[str], object] = _ignore
        self._refused = refused
        self._accepted = accepted

    def set_result(self, result: Any) -> None:
        self.on_settled(self.message.message_id)
        super().set_result(None)
        self._accepted()

    def set_exception(self, exception: Any) -> None:
        self.on_settled(self.message.message_id)
        if self.otherwise is not None and isinstance(exception, aiormq.DeliveryError):
            self.message, self.otherwise = self.otherwise, None
            self.publish_again(self)
            return
        super().set_exception(self._translate(exception))
        self.exception()  # mark it as seen: awaiting the future is optional

    def _translate(self, exception: BaseException) -> BaseException:
        if isinstance(exception, aiormq.PublishError):
            error: AppError = Unavailable(f"RabbitMQ has no queue for {self.message.routing_key}")
        elif isinstance(exception, aiormq.DeliveryError):
            error = self._refused()
        else:
            return exception
        error.__cause__ = exception
        return error


class Publisher:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._unconfirmed: dict[int, Any] = {}
        self._waiting: deque[tuple[Confirm, asyncio.TimerHandle]] = deque()

    def publish(self, confirm: Confirm) -> None:
        channel = self._link.channel
        if len(self._unconfirmed) + len(self._waiting) >= MAX_UNCONFIRMED:
            confirm.set_exception(QueueFull(f"{MAX_UNCONFIRMED} messages are unconfirmed", retry_after=1.0))
        elif channel is None or channel.is_closed:
            loop = asyncio.get_running_loop()
            self._waiting.append((confirm, loop.call_later(RECONNECT_PATIENCE, self._give_up)))
        else:
            self._write(channel, confirm)

    def opened(self, channel: Any) -> None:
        """A new connection: write what has been waiting for it."""
        self._unconfirmed = channel.confirmations
        while self._waiting:
            confirm, timer = self._waiting.popleft()
            timer.cancel()
            if not confirm.done():
                self._write(channel, confirm)

    def lost(self) -> None:
        """Nobody knows what became of the unconfirmed: their callers decide."""
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for confirm in unconfirmed.values():
            if not confirm.done() and not isinstance(confirm, Returning):
                confirm.set_exception(self._link.unavailable())

    def close(self) -> None:
        self.lost()
        while self._waiting:
            self._give_up()

    def stuck(self) -> bool:
        oldest = next(iter(self._unconfirmed.values()), None)
        return isinstance(oldest, Confirm) and time.monotonic() - oldest.written_at > CONFIRM_TIMEOUT

    def _give_up(self) -> None:
        # Timers fire in the order in which the messages came: each takes the oldest.
        confirm, timer = self._waiting.popleft()
        timer.cancel()
        if not confirm.done():
            confirm.set_exception(self._link.unavailable())

    def _write(self, channel: Any, confirm: Confirm) -> None:
        # What aiormq's basic_publish does under its lock, without one: nothing here waits.
        message = confirm.message
        channel.delivery_tag += 1
        channel.confirmations[channel.delivery_tag] = confirm
        channel.message_id_delivery_tag[message.message_id] = channel.delivery_tag
        confirm.on_settled = _forgetting(channel.message_id_delivery_tag)
        confirm.publish_again = self.publish
        confirm.written_at = time.monotonic()
        frame_max = channel.connection.connection_tune.frame_max
        channel.connection.post(frames.publish(message, channel.number, frame_max))


def all_of(confirms: Sequence[Confirm]) -> "asyncio.Future[None]":
    """Done when all are: without an error, or with the first one's."""
    if len(confirms) == 1:
        return confirms[0]
    together: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    left = len(confirms)

    def settled(_: "asyncio.Future[None]") -> None:
        nonlocal left
        left -= 1
        if left or together.done():
            return
        errors = [error for confirm in confirms if (error := confirm.exception()) is not None]
        if errors:
            together.set_exception(errors[0])
            together.exception()  # mark it as seen
        else:
            together.set_result(None)

    for confirm in confirms:
        confirm.add_done_callback(settled)
    return together


def _forgetting(tags: dict[str, int]) -> Callable[[str], object]:
    return lambda message_id: tags.pop(message_id, None)


def _ignore(_: object) -> None:
    return
