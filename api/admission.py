"""May this job enter? From a validated request to a job on its lane, and somebody following it."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from api.auth import Principal
from api.chat_request import Envelope
from broker.backends import Backends
from broker.interfaces import Follower
from shared.catalog import Catalog
from shared.clock import Clock
from shared.errors import AppError, InvalidRequest, RequestTooLarge, Unavailable
from shared.ids import uuid7
from shared.jobs import CLAIM_CHECK_BYTES, Job, Leg

_PUBLISH_PAUSE = 0.5  # seconds until a job whose confirm was lost is sent again; the queue's reconnection comes on top
_VENDOR_HEADERS = ("anthropic-beta",)
_MOST_TAGS = 50
_BODY_GRACE = 60.0  # seconds that a claimed body outlives its deadline


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Followed:
    """An accepted job and its events."""

    job: Job
    follower: Follower


class Admission:
    def __init__(self, backends: Backends, catalog: Catalog, clock: Clock, request_timeout: float) -> None:
        self._queue = backends.queue
        self._log = backends.log
        self._catalog = catalog
        self._clock = clock
        self._request_timeout = request_timeout
        self._rng = random.Random()
        # Those that the queue has confirmed and somebody still follows: the conversation with the client keeps them.
        self._followed: WeakValueDictionary[str, Followed] = WeakValueDictionary()
        self._queue.on_loss(self._publish_again)

    def job(self, envelope: Envelope, body: bytes, principal: Principal, headers: Mapping[str, str]) -> Job:
        """The job for a chat request. Raises `UnknownModel`; nothing has happened yet."""
        route = self._catalog.plan(envelope.model, fallbacks=_fallbacks(envelope), rng=self._rng)
        now = self._clock.now()
        timeout = _seconds(headers, "x-litellm-timeout") or envelope.timeout or self._request_timeout
        return Job(
            id=uuid7(),
            endpoint="chat.completions",
            model=envelope.model,
            route=route,
            body=body,
            reply_to=self._log.reply_channel,
            accepted_at=now,
            deadline=now + timeout,
            stream=bool(envelope.stream),
            max_retries=self._retries(envelope, headers, route),
            published_at=now,
            key=principal.key,
            user=envelope.user or "",
            tags=_tags(envelope, headers),
            traceparent=headers.get("traceparent", ""),
            headers_in={name: headers[name] for name in _VENDOR_HEADERS if name in headers} or None,
        )

    async def enter(self, job: Job) -> Followed:
        """Publish the job, followed from before its first event. A full lane or a lost queue fails the follower."""
        if len(job.body) > CLAIM_CHECK_BYTES:
            await self._log.put_body(job.id, job.body, job.deadline - job.accepted_at + _BODY_GRACE)
            job = replace(job, body=b"", claim=True)
        followed = Followed(job, self._log.follow(job.id))
        self._publish(job, followed)
        return followed

    def _publish_again(self) -> None:
        """The queue may have lost any of the jobs. Most are in a worker's hands, who will see that it has them already;
        what becomes of these copies is no news to the client."""
        for followed in list(self._followed.values()):
            if self._clock.now() < followed.job.deadline:
                self._queue.publish(replace(followed.job, suspect=True))

    def _publish(self, job: Job, followed: Followed) -> None:
        """The confirm is pipelined: whichever comes first, an event or a nack, decides."""
        confirm = self._queue.publish(job)
        if confirm.done() and not confirm.cancelled() and confirm.exception() is None:
            return
        confirm.add_done_callback(lambda confirm: self._confirmed(confirm.exception(), followed))

    def _confirmed(self, error: BaseException | None, followed: Followed) -> None:
        job = followed.job
        if error is None:
            self._followed[job.id] = followed
        elif isinstance(error, Unavailable) and self._clock.now() + _PUBLISH_PAUSE < job.deadline:
            # Perhaps it arrived, perhaps not: send it again, marked so that it is not run twice.
            again = replace(job, suspect=True)
            asyncio.get_running_loop().call_later(_PUBLISH_PAUSE, self._publish, again, followed)
        else:
            unconfirmed = Unavailable("The queue did not confirm the job.")
            followed.follower.fail(error if isinstance(error, AppError) else unconfirmed)

    def _retries(self, envelope: Envelope, headers: Mapping[str, str], route: tuple[Leg, ...]) -> int:
        wished = _seconds(headers, "x-litellm-num-retries")
        if wished is not None:
            return int(wished)
        if envelope.num_retries is not None:
            return envelope.num_retries
        own = self._catalog.deployment(route[0].deployments[0]).num_retries
        return self._catalog.routing.num_retries if own is None else own


def refuse_large_body(size: int, limit: int) -> None:
    if size > limit:
        raise RequestTooLarge(
            f"Request too large: {size} bytes, the limit is {limit}. "
            "Send less, or raise general_settings.max_request_size_mb.",
            param="request_body",
        )


def _fallbacks(envelope: Envelope) -> list[str] | None:
    """The request's own fallback groups: LiteLLM takes names, or objects with a `model`."""
    if envelope.fallbacks is None:
        return None
    names = [each if isinstance(each, str) else each.get("model") for each in envelope.fallbacks]
    if not all(isinstance(name, str) for name in names):
        raise InvalidRequest("Invalid value for 'fallbacks': expected model names.", param="fallbacks")
    return [str(name) for name in names]


def _tags(envelope: Envelope, headers: Mapping[str, str]) -> tuple[str, ...]:
    tags = list(envelope.tags or ())
    if envelope.metadata and isinstance(envelope.metadata.get("tags"), list):
        tags += [str(tag) for tag in envelope.metadata["tags"]]
    listed = headers.get("x-litellm-tags")
    if listed:
        tags += [tag.strip() for tag in listed.split(",") if tag.strip()]
    return tuple(dict.fromkeys(tag[:200] for tag in tags))[:_MOST_TAGS]


def _seconds(headers: Mapping[str, str], name: str) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 86_400:
        raise InvalidRequest(f"Invalid header {name}: {text[:50]!r} is not a number between 0 and 86400.", param=name)
    return number
