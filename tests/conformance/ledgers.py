"""Rows for the tests of the ledger."""

from dataclasses import replace

from shared.jobs import Outcome, Status

MIDNIGHT = 1_767_225_600.0  # 2026-01-01T00:00:00Z


def an_outcome(job_id: str = "job-1", attempt: int = 1, started_at: float = MIDNIGHT, **fields: object) -> Outcome:
    outcome = Outcome(
        job_id=job_id,
        attempt=attempt,
        started_at=started_at,
        endpoint="chat.completions",
        model="gpt-4o",
        group="gpt-4o",
        deployment="d1",
        provider="openai",
        upstream_model="gpt-4o-2024-08-06",
        status=Status.SUCCESS,
        cost=1_000,
        response_id=f"chatcmpl-{job_id}",
    )
    return replace(outcome, **fields)  # type: ignore[arg-type]
