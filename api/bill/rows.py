"""A row of `LiteLLM_SpendLogs`: its columns, and the keys of its `metadata` that people use."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from api.bill.names import Names, names_of
from api.management.entries import Desk
from api.management.shapes import dollars
from shared.error_bodies import STATUS
from shared.jobs import Outcome, Status, Usage

_CALL_TYPES = {
    "chat.completions": "acompletion",
    "completions": "atext_completion",
    "embeddings": "aembedding",
    "messages": "anthropic_messages",
    "responses": "aresponses",
}


async def names_in(desk: Desk, outcomes: Sequence[Outcome]) -> Names:
    """What the rows' keys, teams and users are called."""
    return await names_of(
        desk,
        keys={each.key for each in outcomes},
        teams={each.team for each in outcomes},
        users={each.user for each in outcomes},
    )


def row(outcome: Outcome, names: Names) -> dict[str, Any]:
    """One attempt. A success has the id of the answer that its client got; attempts that failed have their number
    behind it, so that ids are unique. All attempts at a request share `litellm_call_id`.

    Columns for what Headrace does not have (caches, organizations, agents, MCP) or does not keep (addresses) are
    empty."""
    usage = outcome.usage
    end = _time(outcome.started_at + outcome.duration)
    succeeded = outcome.status is Status.SUCCESS
    return {
        "request_id": outcome.response_id if succeeded else f"{outcome.response_id}-{outcome.attempt}",
        "litellm_call_id": outcome.job_id,
        "session_id": outcome.job_id,
        "attempt": outcome.attempt,
        "call_type": _CALL_TYPES.get(outcome.endpoint, "acompletion"),
        "api_key": outcome.key,
        "spend": dollars(outcome.cost),
        "total_tokens": usage.total,
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "startTime": _time(outcome.started_at),
        "endTime": end,
        "completionStartTime": None if outcome.ttft is None else _time(outcome.started_at + outcome.ttft),
        "request_duration_ms": round(outcome.duration * 1000),
        "queue_wait_ms": round(outcome.queue_wait * 1000, 3),
        "model": outcome.upstream_model,
        "model_id": outcome.deployment,
        "model_group": outcome.group,
        "custom_llm_provider": outcome.provider,
        "api_base": "",
        "user": outcome.user,
        "end_user": outcome.customer,
        "team_id": outcome.team or None,
        "organization_id": None,
        "requester_ip_address": None,
        "request_tags": list(outcome.tags),
        "status": "success" if succeeded else "failure",
        "cache_hit": "False",
        "cache_key": "",
        "mcp_namespaced_tool_name": None,
        "agent_id": None,
        **_payload(outcome),
        "metadata": _metadata(outcome, names),
        "created_at": end,
        "updated_at": end,
    }


def _metadata(outcome: Outcome, names: Names) -> dict[str, Any]:
    return {
        "user_api_key": outcome.key,
        "user_api_key_alias": names.key_alias(outcome.key),
        "user_api_key_team_id": outcome.team or None,
        "user_api_key_team_alias": names.team_alias(outcome.team),
        "user_api_key_org_id": None,
        "user_api_key_user_id": outcome.user or None,
        "user_api_key_user_email": names.user_email(outcome.user),
        "user_api_key_end_user_id": outcome.customer or None,
        "spend_logs_metadata": None,
        "requester_ip_address": None,
        "litellm_call_id": outcome.job_id,
        "status": outcome.status,
        "stream": outcome.stream,
        "usage_estimated": outcome.usage.estimated,
        "usage_object": _usage(outcome.usage),
        "additional_usage_values": {},
        "attempted_retries": outcome.attempt - 1,
        "original_model_group": outcome.model,
        "cost_breakdown": {"total_cost": dollars(outcome.cost)},
        **dict(_error(outcome)),
    }


def _usage(usage: Usage) -> dict[str, Any]:
    """OpenAI's, and beside it the classes that are billed."""
    written = usage.cache_write + usage.cache_write_1h
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_creation_tokens": written,
            "cache_creation_token_details": {
                "ephemeral_5m_input_tokens": usage.cache_write,
                "ephemeral_1h_input_tokens": usage.cache_write_1h,
            },
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation_input_tokens": written,
    }


def _error(outcome: Outcome) -> Iterator[tuple[str, Any]]:
    if not outcome.error_code:
        return
    form = STATUS.get(outcome.error_code)  # None for one of a newer worker, or imported
    yield (
        "error_information",
        {
            "error_code": str(form.status) if form else "",
            "error_class": (form.exception if form else "") or outcome.error_code,
            "error_message": outcome.error_message,
            "llm_provider": outcome.provider,
            "traceback": "",
            "headrace_code": outcome.error_code,
        },
    )


def _payload(outcome: Outcome) -> dict[str, Any]:
    """Prompts and answers, where an installation keeps them; cut ones are text."""
    request, response = _json(outcome.request), _json(outcome.response)
    messages = request.get("messages", {}) if isinstance(request, dict) else request
    return {"messages": messages, "response": response, "proxy_server_request": request}


def _json(text: str) -> Any:
    if not text:
        return {}
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
