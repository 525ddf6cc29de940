"""The ledger, in the columns that LiteLLM's users script against."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request

from api.auth import Principal
from api.context import authenticated, context_of
from api.response_headers import NANO
from broker.records import DailySpend, SpendQuery
from shared.errors import InvalidRequest
from shared.jobs import Outcome

router = APIRouter(tags=["spend"])

_Text = Annotated[str | None, Field(max_length=512)]


class Filters(BaseModel):
    api_key: _Text = None
    """SHA-256 of the key, in hex."""
    user_id: _Text = None
    request_id: _Text = None
    start_date: _Text = None
    """YYYY-MM-DD, UTC."""
    end_date: _Text = None
    """YYYY-MM-DD, UTC; the day is included."""
    summarize: bool = True
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1000
    offset: Annotated[int, Field(ge=0)] = 0

    def query(self) -> SpendQuery:
        end = _date("end_date", self.end_date)
        return SpendQuery(
            start=_date("start_date", self.start_date),
            end=end + timedelta(days=1) if end else None,
            key=self.api_key,
            user=self.user_id,
            request_id=self.request_id,
            limit=self.limit,
            offset=self.offset,
        )


@router.get("/spend/logs", summary="Attempts, newest first; or spend by day, between two dates")
async def spend_logs(
    request: Request, caller: Annotated[Principal, Depends(authenticated)], filters: Annotated[Filters, Query()]
) -> list[dict[str, Any]]:
    store = context_of(request).backends.store
    query = filters.query()
    if filters.start_date and filters.end_date and filters.summarize:
        return [_day(each) for each in await store.daily(query)]
    return [_row(each) for each in await store.spend(query)]


@router.get("/global/spend", summary="What everything has cost, in dollars")
async def global_spend(request: Request, caller: Annotated[Principal, Depends(authenticated)]) -> dict[str, Any]:
    summary = await context_of(request).backends.store.summary()
    return {
        "spend": summary.cost / NANO,
        "max_budget": 0.0,
        "attempts": summary.attempts,
        "models": {name: cost / NANO for name, cost in summary.by_model.items()},
    }


def _day(day: DailySpend) -> dict[str, Any]:
    return {
        "startTime": day.date,
        "spend": day.cost / NANO,
        "users": {name: cost / NANO for name, cost in day.users.items()},
        "models": {name: cost / NANO for name, cost in day.models.items()},
    }


def _date(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as exc:
        raise InvalidRequest(
            f"Invalid value for '{name}': expected YYYY-MM-DD, got {text[:50]!r}.", param=name
        ) from exc


def _row(outcome: Outcome) -> dict[str, Any]:
    """One attempt; `request_id` is unique to it, retries of a request share `litellm_call_id`."""
    usage = outcome.usage
    first = outcome.attempt == 1
    return {
        "request_id": outcome.response_id if first else f"{outcome.response_id}-{outcome.attempt}",
        "litellm_call_id": outcome.job_id,
        "attempt": outcome.attempt,
        "call_type": "acompletion",
        "api_key": outcome.key,
        "spend": outcome.cost / NANO,
        "total_tokens": usage.total,
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "startTime": _time(outcome.started_at),
        "endTime": _time(outcome.started_at + outcome.duration),
        "completionStartTime": None if outcome.ttft is None else _time(outcome.started_at + outcome.ttft),
        "request_duration_ms": round(outcome.duration * 1000),
        "queue_wait_ms": round(outcome.queue_wait * 1000, 3),
        "model": outcome.upstream_model,
        "model_id": outcome.deployment,
        "model_group": outcome.group,
        "custom_llm_provider": outcome.provider,
        "user": outcome.user,
        "end_user": outcome.user,
        "team_id": outcome.team or None,
        "request_tags": list(outcome.tags),
        "status": "success" if outcome.status == "success" else "failure",
        "metadata": _metadata(outcome),
    }


def _metadata(outcome: Outcome) -> dict[str, Any]:
    usage = outcome.usage
    metadata: dict[str, Any] = {
        "user_api_key": outcome.key,
        "status": outcome.status,
        "stream": outcome.stream,
        "usage_estimated": usage.estimated,
        "usage_object": {
            "input_tokens": usage.input,
            "cache_read_input_tokens": usage.cache_read,
            "cache_creation_input_tokens": usage.cache_write + usage.cache_write_1h,
            "output_tokens": usage.output,
            "reasoning_tokens": usage.reasoning,
        },
        "attempted_retries": outcome.attempt - 1,
    }
    if outcome.error_code:
        metadata["error_information"] = {
            "error_class": outcome.error_code,
            "error_message": outcome.error_message,
            "llm_provider": outcome.provider,
        }
    return metadata


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
