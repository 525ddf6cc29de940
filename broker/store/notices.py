"""What webhooks say of jobs and batches that ended, in the form of the Standard Webhooks specification.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#payload-structure
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from broker.records import BatchRecord, WebhookDelivery
from broker.store.bulk import json_bytes
from shared.jobs import Ending


def job_payload(ending: Ending, model: str, custom_id: str) -> bytes:
    data = {"id": ending.job_id, "object": "job", "status": ending.state.value, "model": model}
    if custom_id:
        data["custom_id"] = custom_id
    return _payload(f"job.{ending.state.value}", ending.finished_at, data)


def batch_payload(batch: BatchRecord) -> bytes:
    counts = {"total": batch.total, "completed": batch.completed, "failed": batch.failed}
    data = {"id": batch.id, "object": "batch", "status": batch.status.value, "request_counts": counts}
    return _payload(f"batch.{batch.status.value}", batch.stamps[batch.status.value], data)


def _payload(kind: str, time: float, data: dict[str, Any]) -> bytes:
    timestamp = datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json_bytes({"type": kind, "timestamp": timestamp, "data": data})


@dataclass(frozen=True, slots=True)
class Addressee:
    url: str
    owner: str


def of_job(to: Addressee, ending: Ending, payload: bytes, now: float) -> WebhookDelivery:
    return _delivery(to, f"job.{ending.state.value}", ending.job_id, payload, now)


def of_batch(batch: BatchRecord, now: float) -> WebhookDelivery:
    to = Addressee(batch.webhook, batch.owner)
    return _delivery(to, f"batch.{batch.status.value}", batch.id, batch_payload(batch), now)


def _delivery(to: Addressee, kind: str, subject: str, payload: bytes, now: float) -> WebhookDelivery:
    """A message that is due at once."""
    return WebhookDelivery(
        id=f"msg_{uuid4().hex}",
        owner=to.owner,
        url=to.url,
        type=kind,
        subject=subject,
        payload=payload,
        created_at=now,
        next_at=now,
    )
