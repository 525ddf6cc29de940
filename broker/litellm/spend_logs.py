"""Rows of `LiteLLM_SpendLogs` as rows of our ledger. Pure. What was asked and answered stays behind."""

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from broker.litellm.source import Row
from shared.jobs import Outcome, Status, Usage

KEYS = ("startTime", "request_id")
"""Their order; LiteLLM has an index of it."""

CONTENT = ("messages", "response", "proxy_server_request")
"""Columns that are not read."""

_NANO = 1_000_000_000
_MOST_TOKENS = 2**53
_LONGEST_ID = 200
_LONGEST_MESSAGE = 500

_ENDPOINTS = {
    "completion": "chat.completions",
    "acompletion": "chat.completions",
    "text_completion": "completions",
    "atext_completion": "completions",
    "embedding": "embeddings",
    "aembedding": "embeddings",
    "anthropic_messages": "messages",
    "responses": "responses",
    "aresponses": "responses",
}


def outcome(row: Row) -> Outcome:
    """The same row makes the same outcome, so that the ledger takes it once."""
    started, ended = _seconds(row["startTime"]), _seconds(row.get("endTime"))
    first = _seconds(row.get("completionStartTime"))
    metadata = _mapping(row.get("metadata"))
    model, group = _text(row.get("model")), _text(row.get("model_group"))
    error = _mapping(metadata.get("error_information"))
    failed = row.get("status") == "failure" or (row.get("status") is None and metadata.get("status") == "failure")
    return Outcome(
        job_id=_job_id(str(row["request_id"])),
        attempt=1,
        started_at=started,
        endpoint=_ENDPOINTS.get(_text(row.get("call_type")), _text(row.get("call_type")) or "chat.completions"),
        model=group or model,
        group=group or model,
        deployment=_text(row.get("model_id")),
        provider=_text(row.get("custom_llm_provider")),
        upstream_model=model,
        status=Status.FAILURE if failed else Status.SUCCESS,
        usage=_usage(row, metadata),
        cost=max(round(float(row.get("spend") or 0.0) * _NANO), 0),
        ttft=first - started if started < first < ended else None,
        duration=max(ended - started, 0.0),
        error_code="upstream_error" if failed else "",
        error_message=_text(error.get("error_message"))[:_LONGEST_MESSAGE],
        key=_hash(_text(row.get("api_key"))),
        team=_text(row.get("team_id")),
        user=_text(row.get("user")),
        customer=_text(row.get("end_user")),
        tags=tuple(each for each in row.get("request_tags") or () if isinstance(each, str)),
        response_id=str(row["request_id"]),
    )


def _job_id(request_id: str) -> str:
    """Never one of our own."""
    if len(request_id) > _LONGEST_ID:
        request_id = sha256(request_id.encode()).hexdigest()
    return f"litellm-{request_id}"


def _usage(row: Row, metadata: Mapping[str, Any]) -> Usage:
    """`prompt_tokens` has the cached ones in it; where they are told apart depends on provider and version."""
    said = _mapping(metadata.get("usage_object"))
    more = _mapping(metadata.get("additional_usage_values"))
    prompt, output = _tokens(row.get("prompt_tokens")), _tokens(row.get("completion_tokens"))
    cached = _mapping(said.get("prompt_tokens_details") or more.get("prompt_tokens_details")).get("cached_tokens")
    read = _tokens(said.get("cache_read_input_tokens") or more.get("cache_read_input_tokens") or cached)
    written = _tokens(said.get("cache_creation_input_tokens") or more.get("cache_creation_input_tokens"))
    details = _mapping(said.get("completion_tokens_details") or more.get("completion_tokens_details"))
    read = min(read, prompt)
    written = min(written, prompt - read)
    return Usage(
        input=prompt - read - written,
        cache_read=read,
        cache_write=written,
        output=output,
        reasoning=min(_tokens(details.get("reasoning_tokens")), output),
    )


def _tokens(value: Any) -> int:
    return min(max(int(value), 0), _MOST_TOKENS) if isinstance(value, int | float) else 0


def _hash(key: str) -> str:
    return sha256(key.encode()).hexdigest() if key.startswith("sk-") else key


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _seconds(moment: datetime | None) -> float:
    return 0.0 if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
