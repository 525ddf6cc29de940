"""The webhook sender: posts what the store owes, signed, again and again for a day."""

import asyncio
import random
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

import aiohttp
import structlog

from broker.records import WebhookDelivery
from broker.store_interfaces import Store
from shared.clock import Clock
from shared.errors import Unavailable
from shared.webhooks import signed_headers
from workers.webhook_address import AddressRefused, Lookup, connector

log = structlog.get_logger(__name__)

CONCURRENCY = 20  # posts at a time
TIMEOUT = 15.0  # seconds for name, connection and answer together
HOLD = 60.0  # seconds after which a delivery whose sender died is sent by another
MAX_ANSWER_BYTES = 64 * 1024

DELAYS = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 21_600.0)
"""Seconds between two attempts: those that Standard Webhooks recommends, until a day is over."""

_JITTER = 0.1  # part of a delay by which it is longer or shorter, so that a receiver's return is no stampede
_GONE = 410  # the receiver wants no more of it


def retry_delay(status: int | None, attempts: int) -> float | None:
    """Seconds until the next attempt, after `attempts` that failed, the last one with `status`; None to give up."""
    if status == _GONE or attempts > len(DELAYS):
        return None
    return DELAYS[attempts - 1] * random.uniform(1 - _JITTER, 1 + _JITTER)


class Poster:
    """Posts JSON to addresses that others chose, while inside.

    Proxies of the environment are not used: they would resolve names by themselves. Redirects are not followed.
    """

    def __init__(self, limit: int, *, allow_private: bool, lookup: Lookup = socket.getaddrinfo) -> None:
        """`limit`: posts at a time."""
        self._limit = limit
        self._allow_private = allow_private
        self._lookup = lookup
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=connector(self._limit, self._allow_private, self._lookup),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding",),
            headers={"User-Agent": "headrace", "Content-Type": "application/json"},
            auto_decompress=False,  # nobody looks at the answer
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, url: str, payload: bytes, headers: Mapping[str, str]) -> tuple[int | None, str]:
        """The answer's status, if any, and why the message was not delivered; empty when it was."""
        assert self._session is not None, "used outside of `async with`"
        try:
            async with self._session.post(url, data=payload, headers=headers, allow_redirects=False) as answer:
                # The status has said it all; the rest is taken so that the receiver is not cut off while it writes.
                with suppress(aiohttp.ClientError, TimeoutError):
                    await _drain(answer.content)
                status = answer.status
        except TimeoutError:
            return None, f"no answer within {TIMEOUT:g} s"
        except aiohttp.ClientError as exc:
            return None, _reason(exc)
        if 200 <= status < 300:
            return status, ""
        if 300 <= status < 400:
            return status, f"HTTP {status}: redirects are not followed"
        return status, f"HTTP {status}"


class WebhookSender:
    """Delivers at least once: a message whose receipt could not be noted is sent again under the same id.

    Any number of senders may run.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        secret: str,
        allow_private: bool,
        poll: float = 1.0,
        lookup: Lookup = socket.getaddrinfo,
    ) -> None:
        """`poll`: seconds between two looks into the store while there is little to do."""
        self._webhooks = store.webhooks
        self._clock = clock
        self._secret = secret
        self._allow_private = allow_private
        self._poll = poll
        self._lookup = lookup
        self._away = False

    async def run(self) -> None:
        """Send until cancelled. Posts that are under way are then dropped, and made again after their hold."""
        sending: set[asyncio.Task[None]] = set()
        posts = Poster(CONCURRENCY, allow_private=self._allow_private, lookup=self._lookup)
        async with posts, asyncio.TaskGroup() as tasks:
            while True:
                for delivery in await self._take(CONCURRENCY - len(sending)):
                    task = tasks.create_task(self._deliver(posts, delivery))
                    sending.add(task)
                    task.add_done_callback(sending.discard)
                if len(sending) == CONCURRENCY:
                    await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(self._poll)

    async def _take(self, limit: int) -> list[WebhookDelivery]:
        try:
            taken = await self._webhooks.due(self._clock.now(), HOLD, limit)
        except Unavailable as error:
            if not self._away:
                log.warning("webhooks_unavailable", error=error.message)
            self._away = True
            return []
        self._away = False
        return taken

    async def _deliver(self, posts: Poster, delivery: WebhookDelivery) -> None:
        status, error = await self._attempt(posts, delivery)
        now = self._clock.now()
        delay = retry_delay(status, delivery.attempts + 1) if error else None
        log.info("webhook_attempted", id=delivery.id, subject=delivery.subject, attempt=delivery.attempts + 1,
                 status=status, error=error, retry_in=delay and round(delay, 1))  # fmt: skip
        try:
            await self._webhooks.attempted(
                delivery.id, now, status=status, error=error, next_at=None if delay is None else now + delay
            )
        except Unavailable as exc:  # it is due again after its hold
            log.warning("webhook_attempt_not_noted", id=delivery.id, error=exc.message)

    async def _attempt(self, posts: Poster, delivery: WebhookDelivery) -> tuple[int | None, str]:
        """As `Poster.post`."""
        try:
            headers = signed_headers(self._secret, delivery.id, self._clock.now(), delivery.payload)
            return await posts.post(delivery.url, delivery.payload, headers)
        except Exception as exc:  # one message that cannot be sent must not end the sending of others
            log.exception("webhook_failed", id=delivery.id)
            return None, f"it cannot be sent ({type(exc).__name__})"


async def _drain(content: aiohttp.StreamReader) -> None:
    size = 0
    while size < MAX_ANSWER_BYTES and (part := await content.read(MAX_ANSWER_BYTES - size)):
        size += len(part)


def _reason(exc: aiohttp.ClientError) -> str:
    """For the delivery log, which tenants read: without addresses."""
    match exc:
        case aiohttp.ClientConnectorError(os_error=AddressRefused() as refused):
            return str(refused)
        case aiohttp.ClientConnectorDNSError():
            return "the host's name does not resolve"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return f"TLS failed ({type(exc).__name__})"
        case aiohttp.InvalidURL():
            return "the URL cannot be used"
        case _:
            return f"the connection failed ({type(exc).__name__})"
