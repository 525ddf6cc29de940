"""The store's side of the embedded queue: outcomes and dead letters, each kept until it is acked."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from broker.queues.outcome_wire import decode
from broker.records import DeadLetter

Message = TypeVar("Message")


class Mailbox(Generic[Message]):
    """Messages that wait for their reader, oldest first."""

    def __init__(self) -> None:
        self.waiting: deque[Message] = deque()
        self.unacked = 0
        """Messages in a reader's hands."""
        self.arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self.waiting) + self.unacked

    def put(self, message: Message) -> None:
        self.waiting.append(message)
        self.arrived.set()


class Letter(Generic[Message]):
    """A message in its reader's hands."""

    def __init__(self, message: Message, settle: "Callable[[Letter[Message]], None]") -> None:
        self.message = message
        self._settle = settle

    async def ack(self) -> None:
        self._settle(self)


class MemoryOutcomes(Letter[bytes]):
    def __init__(self, message: bytes, settle: Callable[[Letter[bytes]], None]) -> None:
        super().__init__(message, settle)
        recorded = decode(message)
        self.outcomes = recorded.outcomes
        self.endings = recorded.endings


class MemoryDeadLetter(Letter[DeadLetter]):
    abandoned = False  # this queue gives nothing up by itself: its jobs die with the process, and restart with it

    @property
    def letter(self) -> DeadLetter:
        return self.message


Held = TypeVar("Held", bound=Letter[Any])


class Reader(Generic[Message, Held]):
    """Iterates over a mailbox, holding at most `prefetch` messages unacked."""

    def __init__(
        self,
        mailbox: Mailbox[Message],
        prefetch: int,
        letter: Callable[[Message, Callable[[Letter[Message]], None]], Held],
    ) -> None:
        self._mailbox = mailbox
        self._letter = letter
        self._free = asyncio.Semaphore(prefetch)
        self._unacked: dict[int, Held] = {}

    def __aiter__(self) -> "Reader[Message, Held]":
        return self

    async def __anext__(self) -> Held:
        await self._free.acquire()
        try:
            while not self._mailbox.waiting:
                self._mailbox.arrived.clear()
                await self._mailbox.arrived.wait()
        except asyncio.CancelledError:
            self._free.release()
            raise
        letter = self._letter(self._mailbox.waiting.popleft(), self._settle)
        self._unacked[id(letter)] = letter
        self._mailbox.unacked += 1
        return letter

    def leave(self) -> None:
        """What is unacked goes back, in the order in which it was."""
        self._mailbox.waiting.extendleft(letter.message for letter in reversed(self._unacked.values()))
        self._mailbox.unacked -= len(self._unacked)
        self._unacked.clear()
        self._mailbox.arrived.set()

    def _settle(self, letter: Letter[Message]) -> None:
        if self._unacked.pop(id(letter), None) is not None:
            self._mailbox.unacked -= 1
            self._free.release()
