"""Records of the store as OpenAI's objects. Pure.

https://platform.openai.com/docs/api-reference/files/object and .../batch/object
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from broker.records import BatchRecord, BatchStatus, FileRecord

T = TypeVar("T")

_STAMPED = (
    BatchStatus.IN_PROGRESS,
    BatchStatus.FINALIZING,
    BatchStatus.COMPLETED,
    BatchStatus.FAILED,
    BatchStatus.EXPIRED,
    BatchStatus.CANCELLING,
    BatchStatus.CANCELLED,
)


def file(record: FileRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": int(record.created_at),
        "expires_at": _whole(record.expires_at),
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
        "status_details": None,
    }


def batch(record: BatchRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "batch",
        "endpoint": record.endpoint,
        "errors": {"object": "list", "data": list(record.errors)} if record.errors else None,
        "input_file_id": record.input_file_id,
        "completion_window": record.completion_window,
        "status": record.status.value,
        "output_file_id": record.output_file_id or None,
        "error_file_id": record.error_file_id or None,
        "created_at": int(record.created_at),
        "expires_at": int(record.expires_at),
        **{f"{status}_at": _whole(record.stamps.get(status)) for status in _STAMPED},
        "request_counts": {"total": record.total, "completed": record.completed, "failed": record.failed},
        "metadata": dict(record.metadata) or None,
    }


def page(records: Sequence[T], form: Callable[[T], Mapping[str, Any]], *, more: bool) -> dict[str, Any]:
    """A list of one page; `more` when another follows it."""
    data = [form(record) for record in records]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
