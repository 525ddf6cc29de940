"""The body of `POST /v1/batches` -> what it asks for. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from shared import batch_rules
from shared.errors import InvalidRequest, RequestTooLarge
from shared.job_plan import ENDPOINTS
from shared.settings import MEGABYTE


@dataclass(frozen=True, slots=True)
class BatchRequest:
    endpoint: str
    """The path that every line is for."""
    window: str
    metadata: Mapping[str, str]
    input_file_id: str = ""
    """Empty when the lines came inline."""
    requests: tuple[Mapping[str, Any], ...] = ()
    priority: int = 0
    output_expires_after: float | None = None
    """Seconds."""

    def expires_at(self, created_at: float) -> float:
        """The lines' deadline. Raises `InvalidRequest` for one that has passed."""
        return batch_rules.deadline(self.metadata, created_at, batch_rules.window(self.window))

    @property
    def webhook(self) -> str:
        """Who is told of the batch's end; not checked yet."""
        return self.metadata.get("webhook", "")

    def lines(self) -> Iterator[bytes]:
        """The inline requests as lines of a file. `method` and `url` go without saying, so they may be left out.

        Raises `RequestTooLarge` when they are more than a file may hold.
        """
        size = 0
        for request in self.requests:
            line = orjson.dumps({"method": "POST", "url": self.endpoint, **request}, option=orjson.OPT_APPEND_NEWLINE)
            size += len(line)
            if size > batch_rules.MOST_BYTES:
                limit = batch_rules.MOST_BYTES // MEGABYTE
                raise RequestTooLarge(f"The requests are too large: at most {limit} MB.", param="requests")
            yield line


def parse(body: bytes) -> BatchRequest:
    """Raises `InvalidRequest`, whose `param` names the field."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"Invalid JSON in the request body: {exc}", param="request_body") from exc
    if not isinstance(fields, dict):
        raise InvalidRequest("The request body must be a JSON object.", param="request_body")
    requests = _requests(fields)
    metadata = batch_rules.metadata(fields.get("metadata"))
    window = _required(fields, "completion_window")
    batch_rules.window(window)
    return BatchRequest(
        endpoint=_endpoint(fields),
        window=window,
        metadata=metadata,
        input_file_id="" if requests else _required(fields, "input_file_id"),
        requests=requests,
        priority=batch_rules.priority(metadata),
        output_expires_after=batch_rules.expiry(fields.get("output_expires_after"), "output_expires_after"),
    )


def _endpoint(fields: Mapping[str, Any]) -> str:
    endpoint = _required(fields, "endpoint")
    if endpoint not in ENDPOINTS:
        supported = ", ".join(repr(path) for path in ENDPOINTS)
        raise InvalidRequest(f"Invalid value: {endpoint[:100]!r}. Supported values are: {supported}.", param="endpoint")
    return endpoint


def _requests(fields: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    requests = fields.get("requests")
    if requests is None:
        return ()
    if fields.get("input_file_id") is not None:
        raise InvalidRequest("Give 'input_file_id' or 'requests', not both.", param="requests")
    if not isinstance(requests, list) or not all(isinstance(each, dict) for each in requests):
        raise InvalidRequest("Invalid type for 'requests': expected an array of objects.", param="requests")
    if not requests:
        raise InvalidRequest("Invalid 'requests': expected at least one request.", param="requests")
    if len(requests) > batch_rules.MOST_LINES:
        raise InvalidRequest(
            f"Invalid 'requests': expected at most {batch_rules.MOST_LINES} requests, got {len(requests)}.",
            param="requests",
        )
    return tuple(requests)


def _required(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        raise InvalidRequest(f"Missing required parameter: '{name}'.", param=name)
    if not isinstance(value, str):
        raise InvalidRequest(
            f"Invalid type for '{name}': expected a string, but got {type(value).__name__} instead.", param=name
        )
    return value
