"""What the store keeps besides the ledger: durable jobs, files, batches, webhooks, dead letters and keys.

Times are seconds since the Unix epoch, money is nano-dollars. `owner` is the SHA-256 of the caller's API key in hex,
empty when the broker runs open.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from shared.jobs import Ending, Job, JobState, Status
from shared.values import value

# --- Spend ----------------------------------------------------------------------------------------------------------


class SpendOrder(StrEnum):
    """Equal rows are in the order of their job ids and attempts."""

    STARTED_AT = "started_at"
    COST = "cost"
    TOKENS = "tokens"
    """All of them: prompt and answer."""
    ENDED_AT = "ended_at"
    DURATION = "duration"
    TTFT = "ttft"
    """Rows without one are as if it were less than 0."""
    MODEL = "model"
    """The upstream's."""


@dataclass(frozen=True, slots=True)
class SpendQuery:
    """A page of the ledger, newest first unless it says otherwise."""

    start: datetime | None = None
    end: datetime | None = None
    """Not included."""
    key: str | None = None
    user: str | None = None
    """Whom the key belongs to."""
    team: str | None = None
    customer: str | None = None
    model: str | None = None
    """A model group, or an upstream's model."""
    statuses: tuple[Status, ...] = ()
    """Empty: any."""
    min_cost: int | None = None
    """Nano-dollars, as much or more ..."""
    max_cost: int | None = None
    """... and as much or less."""
    request_id: str | None = None
    """A job id or a response id."""
    order: SpendOrder = SpendOrder.STARTED_AT
    ascending: bool = False
    limit: int = 1000
    """1 to 10,000."""
    offset: int = 0
    payloads: bool = False
    """With `request` and `response` of those rows that have them."""


@dataclass(frozen=True, slots=True)
class SpendSummary:
    cost: int
    """Nano-dollars."""
    attempts: int
    by_model: dict[str, int] = field(default_factory=dict)
    """Nano-dollars by upstream model."""


@dataclass(frozen=True, slots=True)
class DailySpend:
    date: str
    """YYYY-MM-DD, UTC."""
    cost: int
    users: dict[str, int]
    models: dict[str, int]


# --- Jobs -----------------------------------------------------------------------------------------------------------


@value(frozen=True, slots=True)
class JobRecord:
    """A durable job: the request, where it stands, and its end."""

    job: Job
    """As it is published; `job.key` is its owner. Its body is empty where a method says so."""
    state: JobState
    weight: int = 1
    """Estimated tokens: what the job costs its tenant in the fair order; at least 1."""
    priority: int = 0
    """-100 to 100; within a tenant the higher goes first, then the earlier deadline, then the older job."""
    result_ttl: float = 86_400.0
    """Seconds that the result outlives the job's end; then the row is gone, body and all."""
    batch_id: str = ""
    line: int = 0
    """1-based number of the line in the batch's file."""
    custom_id: str = ""
    idempotency_key: str = ""
    """Unique for an owner while it is set; empty for none."""
    request_hash: str = ""
    """SHA-256 of endpoint and body in hex, set together with the idempotency key."""
    webhook: str = ""
    """URL to be told of the job's end; empty for none."""
    retry_of: str = ""
    """The job that this one runs again."""
    moved_at: float = 0.0
    """When its state changed last."""
    dispatches: int = 0
    """Times that it was put on its lane."""
    provider_batch: str = ""
    """The row of the provider's batch that a consigned job went with."""
    ending: Ending | None = None
    """None while it is unfinished. Its `answer` is empty where a method says so."""
    expires_at: float | None = None
    """When the row will be deleted; None while it is unfinished."""


@dataclass(frozen=True, slots=True)
class JobQuery:
    """A page of jobs, newest first; lines of batches are left out unless `batch_id` asks for them."""

    owner: str | None = None
    """None: everybody's."""
    states: tuple[JobState, ...] = ()
    """Empty: any."""
    model: str | None = None
    batch_id: str | None = None
    text: str | None = None
    """Part of the id, the custom id, the user or a tag."""
    after: str | None = None
    """The id of the last job on the page before."""
    limit: int = 20
    """1 to 100."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Queued jobs of one tenant for one provider: what the feeder is fair between."""

    tenant: str
    provider: str
    jobs: int


@value(frozen=True, slots=True)
class EndedLine:
    """A line of a batch as its output tells it."""

    custom_id: str
    line: int
    """Its number in the input file, from 1."""
    ending: Ending


# --- Files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FileRecord:
    id: str
    """`file-` and 32 hex digits."""
    owner: str
    filename: str
    purpose: str
    """OpenAI's: batch, batch_output, user_data, ..."""
    created_at: float
    bytes: int = 0
    expires_at: float | None = None
    """None: kept until deleted."""
    ready: bool = False
    """False while its content is being written; such files are visible to nobody."""


@dataclass(frozen=True, slots=True)
class KeyedFile:
    """A file that has an idempotency key."""

    file: FileRecord
    request_hash: str
    """Of the upload that made it."""


# --- Batches --------------------------------------------------------------------------------------------------------


class BatchStatus(StrEnum):
    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED)


@dataclass(frozen=True, slots=True)
class BatchRecord:
    id: str
    """`batch_` and 32 hex digits."""
    owner: str
    tenant: str
    endpoint: str
    """The path that every line's `url` must be, as `/v1/chat/completions`."""
    input_file_id: str
    completion_window: str
    """`24h`, or another whole number of hours (`h`), minutes (`m`) or days (`d`)."""
    created_at: float
    expires_at: float
    """The deadline of every line: the end of the window, or the earlier `deadline` of the metadata."""
    status: BatchStatus = BatchStatus.VALIDATING
    metadata: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    output_expires_after: float | None = None
    """Seconds from their creation (OpenAI's anchor) that its output files live; None: 30 days, OpenAI's default."""
    webhook: str = ""
    user: str = ""
    stamps: Mapping[str, float] = field(default_factory=dict)
    """When it entered each status that it had, by status: OpenAI's `in_progress_at` and its like."""
    errors: tuple[Mapping[str, Any], ...] = ()
    """Why it failed as a whole: OpenAI's `{code, message, param, line}`."""
    total: int = 0
    """Lines, bad ones included."""
    completed: int = 0
    failed: int = 0
    """Lines that ended in an error, bad ones, expired and cancelled ones included."""
    cost: int = 0
    lines_read: int = 0
    """How far the intake has come in the file: lines, empty ones included ..."""
    bytes_read: int = 0
    """... and bytes."""
    output_file_id: str = ""
    error_file_id: str = ""
    idempotency_key: str = ""
    """Unique for an owner while it is set; empty for none."""
    request_hash: str = ""
    """SHA-256 of the request's body in hex, set together with the idempotency key."""


@dataclass(frozen=True, slots=True)
class BatchQuery:
    """A page of batches, newest first."""

    owner: str | None = None
    statuses: tuple[BatchStatus, ...] = ()
    after: str | None = None
    limit: int = 20


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch's intake has come."""

    lines_read: int
    bytes_read: int


@dataclass(frozen=True, slots=True)
class ProviderBatch:
    """Lines of a batch that run at a provider's own batch API."""

    id: str
    batch_id: str
    deployment: str
    provider: str
    created_at: float
    pull_back_at: float
    """When its lines return to the live API, if the provider has not finished."""
    remote_id: str = ""
    """The provider's id; empty until its creation was answered."""
    remote_files: Mapping[str, str] = field(default_factory=dict)
    """The provider's ids of files to read or remove, by role: `input`, `output`, `error`."""
    state: str = "creating"
    """creating, submitting (whether the provider made it is not known), running, cancelling, ended (results are being
    taken in), done, pulled_back."""
    lines: int = 0
    checked_at: float = 0.0


# --- Webhooks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """One message to one address, and what became of it."""

    id: str
    """`msg_` and 32 hex digits: `webhook-id`, the same at every attempt."""
    owner: str
    url: str
    type: str
    """job.completed, job.failed, job.cancelled, job.expired, batch.completed, batch.failed, ..."""
    subject: str
    """The job's or batch's id."""
    payload: bytes
    created_at: float
    next_at: float | None
    """When it is due (again); None once it is delivered or given up."""
    attempts: int = 0
    delivered_at: float | None = None
    status: int | None = None
    """The last answer's HTTP status; None when there was none."""
    error: str = ""
    """Why the last attempt failed, at most 500 characters."""


# --- Dead letters ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that was set aside: it crashed its workers, could not be read, or was delivered too often."""

    job_id: str
    """`unreadable-` and a hash, when the message names no job."""
    provider: str
    reason: str
    headers: bytes
    """`Job.headers()`, or whatever came in its place."""
    body: bytes
    died_at: float


# --- Keys -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A virtual key; its plain text is nowhere."""

    hash: str
    """SHA-256 in hex."""
    name: str
    """Masked, for people: `sk-...abcd`."""
    alias: str = ""
    user: str = ""
    team: str = ""
    created_at: float = 0.0
    expires_at: float | None = None
    blocked: bool = False
    max_queue_wait: float | None = None
    """Seconds that its requests may wait for a worker; None: no limit of its own."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Everything else of `/key/generate`, under LiteLLM's names: `models`, `max_budget`, `tpm_limit`, `aliases`,
    `allowed_routes`, `on_limit` ...; those alone that were set."""
    created_by: str = ""
    updated_at: float = 0.0
    updated_by: str = ""
