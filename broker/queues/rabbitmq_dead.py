"""The store's side of the dead-letter queues on RabbitMQ: letters that workers buried, and those that the server gave
up itself (RabbitMQ, "Dead Letter Exchanges": the `x-death` header; "Quorum Queues": the delivery limit)."""

import hashlib
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from broker.queues import rabbitmq_frames as frames
from broker.queues.rabbitmq_deliveries import Delivered
from broker.queues.rabbitmq_reader import Reading
from broker.queues.rabbitmq_topology import DELIVERY_LIMIT
from broker.records import DeadLetter
from shared.jobs import Job

REASON = "x-headrace-reason"
"""The header with which a worker says why."""

_LONGEST_ID = 100  # characters; ours have 36
_LONGEST_REASON = 500


class RabbitDeadLetter(Reading):
    def __init__(self, message: Delivered, letter: DeadLetter, abandoned: bool) -> None:
        super().__init__(message)
        self.letter = letter
        self.abandoned = abandoned


def read_dead_letter(message: Delivered) -> RabbitDeadLetter:
    """Whatever lies in a dead-letter queue is a letter."""
    properties = message.properties
    headers: Mapping[str, Any] = properties.headers or {}
    meta = job_headers(message)
    reason = headers.get(REASON)
    letter = DeadLetter(
        job_id=_job_id(meta, message.body),
        provider=(message.consumer_tag or "").rpartition(".dead.")[2],  # the consumer is named for its queue
        reason=_printable(str(reason) if reason is not None else _why(headers)),
        headers=meta,
        body=message.body,
        died_at=_seconds(properties.timestamp if reason is not None else _death(headers).get("time")),
    )
    return RabbitDeadLetter(message, letter, abandoned=reason is None or not _readable(meta, message.body))


def job_headers(message: Delivered) -> bytes:
    """`Job.headers()` as a message carries them; empty when it has none."""
    found = frames.text_header(message.header, b"headrace")
    if found is not None:
        return found
    value: Any = (message.properties.headers or {}).get("headrace", b"")
    return value.encode() if isinstance(value, str) else bytes(value)


def _job_id(meta: bytes, body: bytes) -> str:
    try:
        job_id = orjson.loads(meta)["id"]
    except (ValueError, LookupError, TypeError):
        job_id = None
    if isinstance(job_id, str) and 0 < len(job_id) <= _LONGEST_ID and job_id.isprintable():
        return job_id
    return f"unreadable-{hashlib.sha256(meta + body).hexdigest()[:32]}"


def _printable(text: str) -> str:
    """Anybody can put a message into a queue: what no database or terminal takes is replaced."""
    return "".join(each if each.isprintable() else "?" for each in text[:_LONGEST_REASON])


def _readable(meta: bytes, body: bytes) -> bool:
    try:
        Job.from_wire(meta, body)
    except (ValueError, KeyError, TypeError):
        return False
    return True


def _why(headers: Mapping[str, Any]) -> str:
    match str(_death(headers).get("reason", "")):
        case "delivery_limit":
            return f"delivered over {DELIVERY_LIMIT} times, and no worker settled it"
        case "":
            return "put here by hand"
        case other:
            return f"given up by RabbitMQ: {other}"


def _death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The latest death; the ones before are delays that ended."""
    deaths = headers.get("x-death") or [{}]
    return deaths[0] if isinstance(deaths[0], dict) else {}


def _seconds(at: object) -> float:
    return at.timestamp() if isinstance(at, datetime) else time.time()
