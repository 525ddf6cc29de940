"""What a provider's batch API is to us: lines go in, a while later results come out in any order."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from workers.provider_batches.spool import Frame, Spool
from workers.providers.base import UpstreamRequest

NOT_RUN = 0
"""Stands for the status of a line that the provider never ran."""


class State(StrEnum):
    """Of a `ProviderBatch`. What happens next:"""

    CREATING = "creating"  # its lines are consigned; nothing that costs money has been sent
    SUBMITTING = "submitting"  # the creation was sent: whether the provider has the batch must be found out
    RUNNING = "running"  # polled
    CANCELLING = "cancelling"  # cancelled at the provider, which may still finish some lines; polled
    ENDED = "ended"  # results are taken in
    DONE = "done"
    PULLED_BACK = "pulled_back"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the provider accepts in one batch."""

    lines: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Remote:
    """A batch as the provider tells of it."""

    finished: bool
    """Nothing more will come, however it ended; there may be results."""
    word: str
    """The provider's own for its state."""
    reason: str = ""
    """Why it failed as a whole, if it did."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Where its results are, by role."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a line."""

    custom_id: str
    status: int
    """What a live call would have been answered with; `NOT_RUN` for none."""
    body: bytes = b""
    """Likewise: the vendor's own JSON, an answer or an error."""


class BatchApi(Protocol):
    """The batch API behind one deployment, for one batch. All calls raise `UpstreamError`, with the status if the
    provider gave one, and `Unsent` when the provider was not reached at all."""

    limits: Limits
    frame: Frame
    """How lines are written one after the other."""
    findable: bool
    """Whether `find` can tell."""

    def line(self, custom_id: str, request: UpstreamRequest) -> bytes:
        """A line that asks for what a live `request` asks for."""
        ...

    async def upload(self, name: str, content: Spool) -> Mapping[str, str]:
        """Send the lines, where they go ahead of the batch. The provider's files by role."""
        ...

    async def create(self, name: str, files: Mapping[str, str], content: Spool) -> str:
        """Start the batch, once. The provider's id of it."""
        ...

    async def find(self, name: str) -> str | None:
        """The id of a batch that was created under this name."""
        ...

    async def poll(self, remote_id: str) -> Remote: ...

    def results(self, remote_id: str, files: Mapping[str, str]) -> AsyncGenerator[Result, None]:
        """Those there are, in any order, streamed."""
        ...

    async def cancel(self, remote_id: str) -> None:
        """Ask it to stop; `poll` tells when it has. Refused when it is over already."""
        ...

    async def clean_up(self, remote_id: str, files: Mapping[str, str]) -> None:
        """Delete what the provider keeps of a finished batch, or of one that was never created."""
        ...
