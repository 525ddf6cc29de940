"""Parts of the store on a database of their own, with the test's clock; and what they keep."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from broker.records import DeadLetter, FileRecord, KeyRecord, WebhookDelivery
from broker.store.database import connect
from broker.store.transactions import Transactions
from tests.fakes.schema import make_schema

NOON = 1_767_268_800.0  # 2026-01-01T12:00:00Z, where FakeClock starts

HOSTILE = (
    "'; DROP TABLE keys; --",
    '" OR 1=1 --',
    "%' UNION SELECT * FROM audit --",
    "$.a\"]'",
    ":hash ? $1 %s {0}",
    "a\x00b",
    "c\ud800d",
    "line\r\nSet-Cookie: a=b",
    "/_%\\",
    "\u202e\U0001f511",
)
"""Texts that mean something to a database, to a client or to nobody."""


@asynccontextmanager
async def transactions(url: str) -> AsyncIterator[Transactions]:
    """Those of a migrated database."""
    async with connect(url) as store:
        await make_schema(store)
        yield store._transactions


def a_file(file_id: str = "file-1", **fields: object) -> FileRecord:
    record = FileRecord(id=file_id, owner="alice", filename="prompts.jsonl", purpose="batch", created_at=NOON)
    return replace(record, **fields)  # type: ignore[arg-type]


def a_delivery(delivery_id: str = "msg_1", **fields: object) -> WebhookDelivery:
    delivery = WebhookDelivery(
        id=delivery_id,
        owner="alice",
        url="https://example.com/hook",
        type="job.completed",
        subject="job-1",
        payload=b'{"type": "job.completed"}',
        created_at=NOON,
        next_at=NOON,
    )
    return replace(delivery, **fields)  # type: ignore[arg-type]


def a_letter(job_id: str = "job-1", **fields: object) -> DeadLetter:
    letter = DeadLetter(job_id, "openai", "crashed its workers", b'{"v": 1}', b'{"model": "m"}', NOON)
    return replace(letter, **fields)  # type: ignore[arg-type]


def a_key(key_hash: str = "aa", **fields: object) -> KeyRecord:
    return replace(KeyRecord(hash=key_hash, name="sk-...abcd", created_at=NOON), **fields)  # type: ignore[arg-type]
