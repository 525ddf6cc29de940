"""A job: one request on its way from the api to a worker, and the outcome of each attempt at it."""

from collections.abc import Mapping
from dataclasses import MISSING, field, fields, replace
from enum import StrEnum
from typing import Any, Self

import orjson

from shared.values import value

SCHEMA_VERSION = 2


class Lane(StrEnum):
    INTERACTIVE = "interactive"  # a client is waiting
    BATCH = "batch"  # nobody is


FIRST = 3
"""The highest precedence, of tenants that have little under way."""


@value(frozen=True, slots=True)
class Leg:
    """One stop on a job's route: deployments of one provider that may serve it, best `order` first."""

    provider: str
    group: str
    """The model group (`model_name`) that the deployments belong to."""
    deployments: tuple[str, ...]
    """Deployment ids. No secret travels: workers hold the keys."""
    fallback: bool = False
    """True when this leg belongs to a fallback group, not to the one that the client named."""


@value(frozen=True, slots=True)
class Job:
    id: str
    endpoint: str
    """OpenTelemetry's operation in OpenAI's words: `chat.completions`."""
    model: str
    """The model's name as the client sent it."""
    route: tuple[Leg, ...]
    body: bytes
    """The request's JSON, as it came."""
    reply_to: str
    """The api process's reply channel."""
    accepted_at: float
    """Seconds since the epoch."""
    deadline: float
    """Seconds since the epoch; after it nobody is waiting."""
    stream: bool = False
    lane: Lane = Lane.INTERACTIVE
    attempt: int = 1
    """Counts upstream attempts over all legs; with the id, the ledger's primary key."""
    leg: int = 0
    retries: int = 0
    """Retries spent on the current leg."""
    max_retries: int = 2
    published_at: float = 0.0
    """When the job was last put on a queue; with it the worker measures the queue wait."""
    key: str = ""
    """SHA-256 of the caller's API key, in hex; empty when the broker runs open."""
    team: str = ""
    user: str = ""
    """Whom the key belongs to."""
    customer: str = ""
    """The end user that the request names: OpenAI's `user`."""
    accounts: tuple[str, ...] = ()
    """Ids of the accounts (`shared.accounts`) that were asked when it was admitted; its end frees what it has there."""
    barred: tuple[str, ...] = ()
    """Model groups that its key may not call: no worker may add them to the route."""
    tags: tuple[str, ...] = ()
    traceparent: str = ""
    claim: bool = False
    """The body stayed behind (`EventLog.get_body`) because it is over `CLAIM_CHECK_BYTES`."""
    headers_in: dict[str, str] | None = None
    """Headers of the client that concern vendors (`anthropic-beta`), lower-case."""
    avoid: str = ""
    """The deployment that failed last; it is tried after all others."""
    suspect: bool = False
    """Published again because the first confirm was lost: another copy may be on its way, so look at the log first."""
    cause: dict[str, Any] | None = None
    """The first group's error (`AppError.to_wire`), which the client gets if everything else fails too."""
    durable: bool = False
    """The store has a row for it: its messages are persistent, and its end is recorded together with its answer."""
    start_by: float = 0.0
    """Seconds since the epoch; a job that no attempt has begun by then fails (`max_queue_wait`). 0: no such limit."""
    precedence: int = FIRST - 1
    """0 to `FIRST`: of the interactive jobs that wait, those with the highest go first. The more a tenant has under
    way, the lower its next ones. Batch jobs are in a fair order before they are published, and have no use for it."""
    redact: bool = False
    """Its prompt and answer stay out of the ledger, even where the operator keeps them."""

    @property
    def tenant(self) -> str:
        """Whose turn it is when tenants share a lane: fairness is between these."""
        return self.team or self.key

    @property
    def current(self) -> Leg:
        return self.route[self.leg]

    @property
    def provider(self) -> str:
        return self.route[self.leg].provider

    def headers(self) -> bytes:
        """Everything but the body, as the value of one AMQP header; fields that have their defaults are left out."""
        meta: dict[str, Any] = {"v": SCHEMA_VERSION}
        for name, default in _META.items():
            field_ = getattr(self, name)
            if field_ != default:
                meta[name] = field_
        return orjson.dumps(meta)

    @classmethod
    def from_wire(cls, headers: bytes, body: bytes) -> Self:
        """The job that `headers` and `body` describe. Fields of a newer version are ignored."""
        meta = orjson.loads(headers)
        if meta.pop("v") != SCHEMA_VERSION:
            meta = {name: meta[name] for name in _META if name in meta}
        meta["route"] = tuple(
            [Leg(leg["provider"], leg["group"], tuple(leg["deployments"]), leg["fallback"]) for leg in meta["route"]]
        )
        if "lane" in meta:
            meta["lane"] = Lane(meta["lane"])
        for name in _LISTS.intersection(meta):
            meta[name] = tuple(meta[name])
        return cls(body=body, **meta)

    def without_large_body(self) -> "Job":
        """As the job travels: a body over `CLAIM_CHECK_BYTES` stays behind."""
        return replace(self, body=b"", claim=True) if len(self.body) > CLAIM_CHECK_BYTES else self

    def next_retry(self, avoid: str = "") -> "Job":
        return replace(self, attempt=self.attempt + 1, retries=self.retries + 1, avoid=avoid)

    def next_leg(self) -> "Job":
        return replace(self, attempt=self.attempt + 1, leg=self.leg + 1, retries=0, avoid="")


_ALWAYS = frozenset({"lane", "tags"})
"""Workers of the version before this one want them, during an upgrade."""
_META: Mapping[str, Any] = {
    each.name: MISSING if each.name in _ALWAYS else each.default for each in fields(Job) if each.name != "body"
}
"""Fields that travel in the header, and the values that need not: `MISSING` is no field's."""
_LISTS = frozenset({"accounts", "barred", "tags"})

CLAIM_CHECK_BYTES = 1024 * 1024
"""A body over 1 MiB does not travel through the queue."""


@value(frozen=True, slots=True)
class Usage:
    """Tokens by class. The classes are disjoint, so no token is priced twice; `reasoning` is a part of `output`."""

    input: int = 0
    """Uncached input tokens."""
    cache_read: int = 0
    cache_write: int = 0
    """Written to a cache that lives for 5 minutes (the default)."""
    cache_write_1h: int = 0
    output: int = 0
    """All output tokens, reasoning included."""
    reasoning: int = 0
    estimated: bool = False
    """The provider did not say; this is our estimate."""
    tier: str = ""
    """The service tier that the provider says it served the request at (`flex`, `priority`, `batch`); it has prices of
    its own. Empty for the standard one."""

    @property
    def prompt(self) -> int:
        return self.input + self.cache_read + self.cache_write + self.cache_write_1h

    @property
    def total(self) -> int:
        return self.prompt + self.output


class Status(StrEnum):
    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"  # the worker died during the attempt; the provider may have billed it


class JobState(StrEnum):
    """Of a durable job. The first five are unfinished."""

    QUEUED = "queued"  # in the store only; the feeder releases it
    DISPATCHING = "dispatching"  # being published: whoever finds it so for long publishes it again
    DISPATCHED = "dispatched"  # on its lane, in a worker's hands, or waiting on a delay level
    CONSIGNED = "consigned"  # sent to a provider's own batch API
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # its deadline passed before it could finish

    @property
    def final(self) -> bool:
        return self in FINAL_STATES


FINAL_STATES = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})


@value(frozen=True, slots=True)
class Ending:
    """How a durable job ended, as the store keeps it until its result expires. Only a job's first ending counts."""

    job_id: str
    state: JobState
    finished_at: float
    """Seconds since the epoch."""
    attempts: int
    """Attempts that went upstream."""
    answer: bytes = b""
    """The answer's JSON; of a stream its server-sent events, as the worker made them: who replays them counts anew."""
    error: dict[str, Any] | None = None
    """`AppError.to_wire()`; None when completed."""
    served: dict[str, Any] | None = None
    """`Attempt.served()` of the last attempt: what becomes of it are response headers."""
    cost: int = 0
    """Nano-dollars, of the last attempt."""


@value(frozen=True, slots=True)
class Outcome:
    """One attempt, as the ledger keeps it. (job_id, attempt) is unique."""

    job_id: str
    attempt: int
    started_at: float
    """Seconds since the epoch."""
    endpoint: str
    model: str
    """What the client asked for."""
    group: str
    deployment: str
    provider: str
    upstream_model: str
    status: Status
    usage: Usage = field(default_factory=Usage)
    cost: int = 0
    """Nano-dollars."""
    queue_wait: float = 0.0
    """Seconds from acceptance (or the last republish) to the start of the attempt."""
    ttft: float | None = None
    """Seconds from the start of the attempt to the first token."""
    duration: float = 0.0
    """Seconds."""
    error_code: str = ""
    error_message: str = ""
    """At most 500 characters, without secrets."""
    stream: bool = False
    key: str = ""
    team: str = ""
    user: str = ""
    customer: str = ""
    tags: tuple[str, ...] = ()
    response_id: str = ""
    """The `id` that the client saw."""
    last: bool = True
    """As far as is known, no further attempt of the job follows."""
    request: str = ""
    """What was asked and, below, answered, for installations that keep prompts; else empty, and not on the wire."""
    response: str = ""

    def to_wire(self) -> bytes:
        wire = orjson.dumps(self)
        return wire if self.request or self.response else wire.removesuffix(_NO_PAYLOAD) + b"}"

    @classmethod
    def from_wire(cls, wire: bytes | dict[str, Any]) -> Self:
        fields = orjson.loads(wire) if isinstance(wire, bytes) else dict(wire)
        fields["usage"] = Usage(**fields["usage"])
        fields["status"] = Status(fields["status"])
        fields["tags"] = tuple(fields["tags"])
        try:
            return cls(**fields)
        except TypeError:  # a newer version's message: what this one does not know is left out
            return cls(**{name: value for name, value in fields.items() if name in cls.__slots__})


_NO_PAYLOAD = b',"request":"","response":""}'
