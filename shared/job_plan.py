"""From a validated request to the job that it becomes: the api plans requests with it, the batch intake lines."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from shared import token_estimates
from shared.catalog import Catalog
from shared.chat_request import Envelope
from shared.errors import InvalidRequest
from shared.ids import uuid7
from shared.jobs import FIRST, Job, Lane, Leg
from shared.model_access import EVERYTHING, Access
from shared.values import value

ENDPOINTS: Mapping[str, str] = {"/v1/chat/completions": Envelope.endpoint}
"""`Job.endpoint` by the path that batches know it by."""

BACKGROUND_TIMEOUT = 86_400.0  # seconds until the deadline of a job that nobody waits for, unless its request sets one
DEFAULT_RESULT_TTL = 86_400.0  # seconds
_MOST_TAGS = 50
_LONGEST_TAG = 200  # characters
_LONGEST_CUSTOMER = 256  # likewise


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose job it will be."""

    key: str = ""
    """SHA-256 of the API key, in hex; empty when the broker runs open."""
    team: str = ""
    user: str = ""
    max_queue_wait: float | None = None
    """Seconds that a request of this key may wait for a worker; None: no limit. Background jobs are exempt."""
    tags: tuple[str, ...] = field(default=(), compare=False)
    """Of all its jobs."""
    access: Access = field(default=EVERYTHING, compare=False, repr=False)
    """The models that it may call."""


@value(frozen=True, slots=True)
class Wishes:
    """What a request asks for beside its body, in headers. A wish wins over the body's field of the same meaning."""

    timeout: float | None = None
    """Seconds from acceptance to the deadline."""
    retries: int | None = None
    tags: tuple[str, ...] = ()
    vendor_headers: dict[str, str] | None = None
    traceparent: str = ""
    customer: str = ""
    """The end user."""
    max_queue_wait: float | None = None
    """Seconds."""
    priority: int = 0
    result_ttl: float = DEFAULT_RESULT_TTL
    """Seconds."""
    webhook: str = ""
    respond_async: bool = False
    wait: float | None = None
    """Seconds to wait for the answer before the job goes on in the background."""
    on_disconnect: str = ""
    """`cancel`, `continue`, or empty when the client did not say."""
    idempotency_key: str = ""
    dedupe: bool = False
    redact: bool = False
    """No prompt and no answer in the ledger."""

    @property
    def background(self) -> bool:
        """Whether the client gives the job more time than it is willing to wait."""
        return self.respond_async or self.wait is not None

    @property
    def durable(self) -> bool:
        return (
            self.background
            or self.dedupe
            or self.on_disconnect == "continue"
            or bool(self.idempotency_key)
            or bool(self.webhook)
        )

    @property
    def waits(self) -> bool:
        """Whether the client waits for the answer, at least for a while."""
        return not self.respond_async or self.wait is not None

    @property
    def lane(self) -> Lane:
        return Lane.INTERACTIVE if self.waits else Lane.BATCH


NO_WISHES = Wishes()


@dataclass(frozen=True, slots=True)
class JobPlanner:
    """Makes jobs for the models of one catalog. Nothing has happened yet when a job is made."""

    catalog: Catalog
    rng: random.Random
    reply_to: str
    """Where the jobs' events go; empty when nobody waits for them."""
    timeout: float
    """Seconds until the deadline of a job whose client waits, unless its request sets one."""

    def job(
        self,
        envelope: Envelope,
        body: bytes,
        caller: Caller,
        now: float,
        wishes: Wishes = NO_WISHES,
        precedence: int = FIRST - 1,
    ) -> Job:
        """The job for a request, `now` being seconds since the epoch. Raises `UnknownModel`, `ModelNotAllowed`, and
        `InvalidRequest` for fallbacks that name no model."""
        access, fallbacks = caller.access, _fallbacks(envelope)
        model = envelope.model
        barred: tuple[str, ...] = ()
        if access is not EVERYTHING:
            model = access.admit(model, self.catalog)
            fallbacks = None if fallbacks is None else access.admit_fallbacks(fallbacks, self.catalog)
        route = self.catalog.plan(model, fallbacks=fallbacks, rng=self.rng)
        if access is not EVERYTHING:
            route = access.route(route, self.catalog)
            barred = access.barred(route, self.catalog)
        plain = wishes is NO_WISHES
        default = self.timeout if plain or not wishes.background else BACKGROUND_TIMEOUT
        timeout = wishes.timeout or envelope.timeout or default
        most_wait = wishes.max_queue_wait
        if caller.max_queue_wait is not None and (plain or not wishes.background):
            most_wait = caller.max_queue_wait if most_wait is None else min(most_wait, caller.max_queue_wait)
        return Job(
            id=uuid7(),
            endpoint=envelope.endpoint,
            model=envelope.model,
            route=route,
            body=body,
            reply_to=self.reply_to,
            accepted_at=now,
            deadline=now + timeout,
            stream=bool(envelope.stream),
            lane=Lane.INTERACTIVE if plain else wishes.lane,
            max_retries=self._retries(envelope, wishes, route),
            published_at=now,
            key=caller.key,
            team=caller.team,
            user=caller.user,
            customer=_customer(envelope, wishes),
            barred=barred,
            tags=_tags(envelope, wishes, caller),
            traceparent=wishes.traceparent,
            headers_in=wishes.vendor_headers,
            durable=not plain and wishes.durable,
            start_by=0.0 if most_wait is None else now + most_wait,
            precedence=precedence,
            redact=wishes.redact,
        )

    def _retries(self, envelope: Envelope, wishes: Wishes, route: tuple[Leg, ...]) -> int:
        if wishes.retries is not None:
            return wishes.retries
        if envelope.num_retries is not None:
            return envelope.num_retries
        own = self.catalog.deployment(route[0].deployments[0]).num_retries
        return self.catalog.routing.num_retries if own is None else own


def weight(envelope: Envelope, body: bytes) -> int:
    """What a job costs its tenant in the fair order: an estimate of its tokens, at least 1."""
    return token_estimates.prompt_tokens(body) + most_output(envelope)


def most_output(envelope: Envelope) -> int:
    """The most tokens that the answer may have, all choices together."""
    return token_estimates.most_output(envelope.max_completion_tokens or envelope.max_tokens, envelope.n)


def _fallbacks(envelope: Envelope) -> list[str] | None:
    """The request's own fallback groups: LiteLLM takes names, or objects with a `model`."""
    if envelope.fallbacks is None:
        return None
    names = [each if isinstance(each, str) else each.get("model") for each in envelope.fallbacks]
    if not all(isinstance(name, str) for name in names):
        raise InvalidRequest("Invalid value for 'fallbacks': expected model names.", param="fallbacks")
    return [str(name) for name in names]


def _customer(envelope: Envelope, wishes: Wishes) -> str:
    name = wishes.customer or envelope.user
    return name.replace("\0", "")[:_LONGEST_CUSTOMER] if name else ""  # no database keeps a NUL


def _tags(envelope: Envelope, wishes: Wishes, caller: Caller) -> tuple[str, ...]:
    if not (envelope.tags or envelope.metadata or wishes.tags or caller.tags):
        return ()
    tags = [*caller.tags, *(envelope.tags or ())]  # no number of others pushes out the key's own
    if envelope.metadata and isinstance(envelope.metadata.get("tags"), list):
        tags += [str(tag) for tag in envelope.metadata["tags"]]
    tags += wishes.tags
    return tuple(dict.fromkeys(tag[:_LONGEST_TAG] for tag in tags))[:_MOST_TAGS]
