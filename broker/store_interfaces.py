"""The fourth seam: what survives everything. Promises as in `broker.interfaces`, checked by `tests/conformance/`.

Every write is idempotent: called again after a lost answer it changes nothing more. Reads return committed state.
`owner` filters where it is given: another owner's things are as good as not there; None sees everybody's.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from broker.directory_interfaces import Bill, Directory, Keys
from broker.records import (
    BatchQuery,
    BatchRecord,
    BatchStatus,
    DailySpend,
    DeadLetter,
    EndedLine,
    FileRecord,
    Flow,
    JobQuery,
    JobRecord,
    KeyedFile,
    Progress,
    ProviderBatch,
    SpendQuery,
    SpendSummary,
    WebhookDelivery,
)
from shared.jobs import Ending, JobState, Outcome


class Jobs(Protocol):
    """Durable jobs. A state changes from unfinished to unfinished or to its end, never from an end."""

    async def add(self, record: JobRecord) -> JobRecord | None:
        """Insert the job and return None; or, when its owner has an unexpired job under its idempotency key already,
        insert nothing and return that one (without bodies). A key that is older than 24 h, counted from its job's
        acceptance, is taken from the old job and given to this one."""
        ...

    async def release_key(self, job_id: str) -> None:
        """Take the idempotency key off a job, so that the next request under it is a new job."""
        ...

    async def get(self, job_id: str, owner: str | None = None, *, bodies: bool = False) -> JobRecord | None:
        """A job that has not expired; with the request's body and the answer only if `bodies`."""
        ...

    async def find(self, query: JobQuery) -> list[JobRecord]:
        """Without bodies."""
        ...

    async def move(
        self, job_ids: Sequence[str], state: JobState, now: float, *, expected: JobState | None = None
    ) -> list[str]:
        """Set the state (an unfinished one) of those jobs that are unfinished, and in the state `expected` if one is
        given; returns their ids. Moving to `DISPATCHING` adds one to `dispatches`."""
        ...

    async def end(self, endings: Sequence[Ending]) -> list[str]:
        """End jobs without an attempt (cancelled, expired); as `Store.record` does it. Returns those that were
        unfinished."""
        ...

    async def flows(self) -> list[Flow]:
        """Queued jobs by tenant and provider, at most 10,000 flows. Cheap: it is asked several times a second, so jobs
        of a flow are counted up to 100 and not beyond. Lines of a batch that is still validating are not among them,
        nor in `head`, and have no position."""
        ...

    async def head(self, tenant: str, provider: str, limit: int) -> list[JobRecord]:
        """The queued jobs of a flow that go first, with their bodies, in the order in which they go."""
        ...

    async def unfinished(self, state: JobState, moved_before: float, limit: int) -> list[JobRecord]:
        """Jobs that have been in this state since before that time, the longest first, with their bodies."""
        ...

    async def overdue(self, now: float, limit: int) -> list[JobRecord]:
        """Unfinished jobs whose deadline has passed, without bodies."""
        ...

    async def position(self, job_id: str) -> int | None:
        """How many queued jobs of its provider go before it within its tenant, 0 for the first; None when it is not
        queued."""
        ...

    async def consign(self, job_ids: Sequence[str], provider_batch: str, now: float) -> list[str]:
        """Queued jobs go with a provider's batch; returns those that were queued."""
        ...

    async def purge(self, now: float, limit: int) -> int:
        """Delete jobs whose result has expired; how many. Lines go with their batch instead."""
        ...


class Files(Protocol):
    async def create(self, record: FileRecord) -> None: ...

    async def write(self, file_id: str, number: int, data: bytes) -> None:
        """Chunk `number` (from 0) of the content; written again it is replaced. At most 1 MiB."""
        ...

    async def seal(
        self, file_id: str, size: int, *, purpose: str | None = None, expires_at: float | None = None
    ) -> None:
        """The content is whole: `size` bytes. From now on the file exists for others. A purpose and an expiry replace
        those given to `create`: an upload's form may name them after the content."""
        ...

    async def seal_once(self, record: FileRecord, idempotency_key: str, request_hash: str) -> KeyedFile | None:
        """As `seal`, with the size, purpose and expiry of `record`, under a key of its owner; of several at once one is
        sealed. None when it is this one; else the file that has the key already, and this one stays unsealed. A key
        that is older than 24 h, counted from its file's creation, or whose file is deleted or expired, is given to this
        one."""
        ...

    async def abandon(self, file_id: str) -> None:
        """Remove a file that was never sealed, content and all; a sealed one stays."""
        ...

    async def get(self, file_id: str, owner: str | None = None) -> FileRecord | None:
        """A sealed, unexpired file."""
        ...

    async def find(
        self, owner: str | None, *, purpose: str | None = None, after: str | None = None, limit: int = 100,
        newest_first: bool = True,
    ) -> list[FileRecord]:  # fmt: skip
        """A page of sealed, unexpired files; `limit` is 1 to 10,000."""
        ...

    def read(self, file_id: str, offset: int = 0) -> AsyncIterator[bytes]:
        """The content from byte `offset` on, in pieces of at most 1 MiB; constant memory."""
        ...

    async def delete(self, file_id: str, owner: str | None = None) -> bool:
        """Whether there was one to delete."""
        ...

    async def purge(self, now: float, abandoned_before: float, limit: int) -> int:
        """Delete expired files, and those that were created before `abandoned_before` and never sealed."""
        ...


class Batches(Protocol):
    async def add(self, record: BatchRecord) -> BatchRecord | None:
        """None when the batch was added, else the one that its owner made under the same idempotency key within the
        last 24 hours; nothing is added then. Adding the same batch again does nothing."""
        ...

    async def keyed(self, owner: str, idempotency_key: str) -> BatchRecord | None:
        """The owner's batch that has the key, and was made within the last 24 hours."""
        ...

    async def get(self, batch_id: str, owner: str | None = None) -> BatchRecord | None: ...

    async def find(self, query: BatchQuery) -> list[BatchRecord]: ...

    async def take_in(
        self, batch_id: str, records: Sequence[JobRecord], progress: Progress, *, held: bool = True
    ) -> bool:
        """In one transaction: add these lines, count them, and note how far the file has been read. Lines that are
        `held` may not run before the batch is in progress. Bad lines come as failed jobs with an ending. False, having
        written nothing, when the batch is no longer validating or its progress is already at or past this."""
        ...

    async def known_custom_ids(self, batch_id: str, custom_ids: Sequence[str]) -> set[str]:
        """Those that lines of the batch have already."""
        ...

    async def move(  # noqa: PLR0913 - what changes with a status, in one statement
        self, batch_id: str, status: BatchStatus, now: float, *, expected: Sequence[BatchStatus],
        output_file_id: str = "", error_file_id: str = "", errors: Sequence[dict[str, object]] = (),
    ) -> BatchRecord | None:  # fmt: skip
        """Change the status if it is one of `expected`, and stamp it; the batch as it is then, or None."""
        ...

    async def unfinished_lines(self, batch_id: str) -> dict[JobState, int]:
        """Counts of its unfinished lines by state."""
        ...

    async def cancel_lines(self, batch_id: str, state: JobState, now: float) -> int:
        """End all its queued lines at once, as CANCELLED or EXPIRED, and count them; how many."""
        ...

    async def dispatched_lines(self, batch_id: str, after_line: int = 0, limit: int = 1000) -> list[str]:
        """Ids of lines that are dispatching or dispatched, in line order."""
        ...

    def endings(self, batch_id: str, *, completed: bool) -> AsyncIterator[list[EndedLine]]:
        """Pages of its finished lines in line order: the completed ones, or all others. Constant memory."""
        ...

    async def purge(self, now: float, older_than: float, limit: int) -> int:
        """Delete lines of batches that ended before `older_than`, and then the batches; how many rows."""
        ...

    async def add_provider_batch(self, record: ProviderBatch) -> None: ...

    async def save_provider_batch(self, record: ProviderBatch) -> None:
        """Replace what is known of it."""
        ...

    async def provider_batches(self, batch_id: str | None = None) -> list[ProviderBatch]:
        """Those not done and not pulled back, the least recently checked first; at most 1,000."""
        ...

    async def consigned(self, provider_batch: str, after_line: int = 0, limit: int = 500) -> list[JobRecord]:
        """Consigned lines of a provider's batch, with bodies, in line order: at most `limit`, and so few that their
        bodies have about 4 MiB (but one). None when there are no more."""
        ...

    async def queued_lines(
        self, batch_id: str, provider: str, after_line: int = 0, limit: int = 500
    ) -> list[JobRecord]:
        """Queued lines whose first leg is this provider's, whether their batch is still validating or not; otherwise as
        `consigned`."""
        ...

    async def lines(self, batch_id: str, job_ids: Sequence[str]) -> list[JobRecord]:
        """Those of the jobs that are lines of the batch, in any state, with bodies, without answers, in no order."""
        ...


class Webhooks(Protocol):
    """Deliveries of jobs that end with a webhook are added by `Store.record` and `Jobs.end` themselves, those of
    batches by `Batches.move`, in the same transaction: at least once begins there."""

    async def due(self, now: float, hold: float, limit: int) -> list[WebhookDelivery]:
        """Take deliveries that are due; nobody else gets them for `hold` seconds."""
        ...

    async def attempted(
        self, delivery_id: str, now: float, *, status: int | None, error: str, next_at: float | None
    ) -> None:
        """Note an attempt; `next_at` None means that it was delivered (no error) or given up."""
        ...

    async def find(
        self, owner: str | None, *, subject: str | None = None, after: str | None = None, limit: int = 20
    ) -> list[WebhookDelivery]:
        """The log, newest first."""
        ...

    async def redeliver(self, delivery_id: str, owner: str | None, now: float) -> WebhookDelivery | None:
        """Make it due now, whatever became of it."""
        ...

    async def purge(self, older_than: float, limit: int) -> int: ...


class DeadLetters(Protocol):
    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """One row a job; a later death replaces the earlier one."""
        ...

    async def find(self, *, provider: str | None = None, after: str | None = None, limit: int = 20) -> list[DeadLetter]:
        """Newest first, without bodies."""
        ...

    async def get(self, job_id: str) -> DeadLetter | None: ...

    async def remove(self, job_ids: Sequence[str]) -> int: ...

    async def purge(self, *, provider: str | None = None, older_than: float | None = None) -> int:
        """Delete all, or those of a provider, or those that died before a time."""
        ...


class Store(Protocol):
    @property
    def jobs(self) -> Jobs: ...
    @property
    def files(self) -> Files: ...
    @property
    def batches(self) -> Batches: ...
    @property
    def webhooks(self) -> Webhooks: ...
    @property
    def dead_letters(self) -> DeadLetters: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def directory(self) -> Directory: ...
    @property
    def bill(self) -> Bill: ...

    async def migrate(self) -> None:
        """Bring the schema up to date; safe while several processes do it at once."""
        ...

    async def current(self) -> bool:
        """Whether the schema is up to date."""
        ...

    async def record(self, outcomes: Sequence[Outcome], endings: Sequence[Ending] = ()) -> int:
        """Add rows to the ledger, end durable jobs, count them in their batches and owe their webhooks, in one
        transaction. Rows whose (job_id, attempt) exist already, and jobs that ended already or are gone, are left as
        they are. Returns how many rows were new. When it returns they are committed. Raises `InvalidRequest`, having
        written nothing, when the database refuses a row: trying again does not help."""
        ...

    async def lease(self, name: str, holder: str, ttl: float, now: float) -> bool:
        """Whether `holder` has the lease `name` (feeder, janitor, ...) until `now + ttl`: it had it, or nobody has.
        A `ttl` of 0 gives it up."""
        ...

    async def last_attempts(self, job_ids: Sequence[str]) -> dict[str, int]:
        """The highest attempt that the ledger has of each of these jobs; those without a row are left out."""
        ...

    async def spend(self, query: SpendQuery) -> list[Outcome]: ...

    async def daily(self, query: SpendQuery) -> list[DailySpend]:
        """Spend by day, in date order, for the query's filters (its limit and offset do not apply)."""
        ...

    async def summary(self) -> SpendSummary: ...

    async def ping(self) -> None: ...
