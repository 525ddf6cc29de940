"""Prometheus metrics of both sides. Labels are bounded: no key, no user, no job, and models only by their group.

Names a LiteLLM user's dashboards know are kept (`litellm_*`); what only a queue can say is `headrace_*`.
"""

from collections.abc import Iterable
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from shared.jobs import Outcome, Status

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_MOST_GROUPS = 200  # wildcards let clients name models; beyond so many groups the label says "other"

REGISTRY = CollectorRegistry()

REQUESTS = Counter(
    "litellm_proxy_total_requests_metric", "Requests answered by the api", ["status_code", "route"], registry=REGISTRY
)
REQUEST_SECONDS = Histogram(
    "litellm_request_total_latency_metric", "Seconds from request to answer", registry=REGISTRY, buckets=_SECONDS
)
IN_FLIGHT = Gauge("litellm_in_flight_requests", "Requests that the api is answering", registry=REGISTRY)

_LABELS = ["model_group", "api_provider"]
ATTEMPTS = Counter("headrace_attempts", "Attempts by outcome", [*_LABELS, "status"], registry=REGISTRY)
SPEND = Counter("litellm_spend_metric", "Dollars", _LABELS, registry=REGISTRY)
INPUT_TOKENS = Counter("litellm_input_tokens_metric", "Input tokens, cached ones included", _LABELS, registry=REGISTRY)
OUTPUT_TOKENS = Counter("litellm_output_tokens_metric", "Output tokens", _LABELS, registry=REGISTRY)
QUEUE_SECONDS = Histogram(
    "litellm_request_queue_time_seconds", "Seconds on the queue", ["api_provider"], registry=REGISTRY, buckets=_SECONDS
)
UPSTREAM_SECONDS = Histogram(
    "litellm_llm_api_latency_metric", "Seconds at the provider", _LABELS, registry=REGISTRY, buckets=_SECONDS
)
FIRST_TOKEN_SECONDS = Histogram(
    "litellm_llm_api_time_to_first_token_metric",
    "Seconds to the first token",
    _LABELS,
    registry=REGISTRY,
    buckets=_SECONDS,
)
JOBS_RUNNING = Gauge("headrace_worker_jobs_running", "Jobs in this worker's hands", registry=REGISTRY)
RECORDED = Counter("headrace_ledger_rows", "Rows added to the ledger", registry=REGISTRY)
LANE_DEPTH = Gauge("headrace_queue_depth", "Jobs waiting in a lane", ["provider", "lane"], registry=REGISTRY)
LANE_IN_FLIGHT = Gauge(
    "headrace_queue_in_flight", "Jobs of a lane in workers' hands", ["provider", "lane"], registry=REGISTRY
)
LANE_DRAIN = Gauge("headrace_queue_drain_rate", "Jobs settled a second", ["provider", "lane"], registry=REGISTRY)
LINES_RELEASED = Counter(
    "headrace_lines_released", "Queued jobs that the feeder put on their lanes", ["provider"], registry=REGISTRY
)
BATCHES = Gauge("headrace_batches", "Unfinished batches, as the keeper saw them last", ["status"], registry=REGISTRY)
BATCHES_ENDED = Counter("headrace_batches_ended", "Batches by how they ended", ["status"], registry=REGISTRY)
JOBS_REAPED = Counter(
    "headrace_jobs_reaped", "Durable jobs published again, put back, or ended past their deadline", ["why"],
    registry=REGISTRY,
)  # fmt: skip
PROVIDER_BATCH_LINES = Counter(
    "headrace_provider_batch_lines", "Lines that came back from providers' batch APIs, by what became of them",
    ["provider", "result"], registry=REGISTRY,
)  # fmt: skip
ROWS_PURGED = Counter("headrace_rows_purged", "Rows deleted after their time", ["kind"], registry=REGISTRY)
for _metric, _values in (  # there from the start, at 0: a rate needs a first value
    (BATCHES, ("validating", "in_progress", "finalizing", "cancelling")),
    (BATCHES_ENDED, ("completed", "failed", "expired", "cancelled")),
    (JOBS_REAPED, ("published_again", "put_back", "expired")),
    (ROWS_PURGED, ("jobs", "files", "batches", "webhooks", "dead_letters")),
):
    for _value in _values:
        _metric.labels(_value)

_groups: set[str] = set()


def note_request(status: int, route: str, seconds: float) -> None:
    """Count an answered request."""
    _requests(status, route).inc()
    REQUEST_SECONDS.observe(seconds)


def note_attempt(outcome: Outcome) -> None:
    """Count a finished attempt."""
    series = _series(_bounded(outcome.group), outcome.provider)
    series.by_status[outcome.status].inc()
    series.queue_seconds.observe(outcome.queue_wait)
    if outcome.status is not Status.SUCCESS:
        return
    series.upstream_seconds.observe(outcome.duration)
    series.note_usage(outcome)
    if outcome.ttft is not None and outcome.stream:
        series.first_token_seconds.observe(outcome.ttft)


def note_provider_batch(provider: str, outcomes: Iterable[Outcome], *, answered: int, failed: int, live: int) -> None:
    """Count the attempts at a provider's batch, and what becomes of the lines. How long they were there is no latency
    of the provider's."""
    for outcome in outcomes:
        series = _series(_bounded(outcome.group), outcome.provider)
        series.by_status[outcome.status].inc()
        series.note_usage(outcome)
    for result, count in (("answered", answered), ("failed", failed), ("live", live)):
        PROVIDER_BATCH_LINES.labels(provider, result).inc(count)


def note_lanes(lanes: Iterable[tuple[str, str, int, int, float]]) -> None:
    """(provider, lane, depth, in flight, drain rate) of each lane, as of now."""
    for provider, lane, depth, in_flight, drain_rate in lanes:
        LANE_DEPTH.labels(provider, lane).set(depth)
        LANE_IN_FLIGHT.labels(provider, lane).set(in_flight)
        LANE_DRAIN.labels(provider, lane).set(drain_rate)


def exposition() -> bytes:
    return generate_latest(REGISTRY)


class _Series:
    """The children of one (group, provider): looking them up costs more than counting."""

    def __init__(self, group: str, provider: str) -> None:
        self.by_status = {status: ATTEMPTS.labels(group, provider, status.value) for status in Status}
        self.queue_seconds = QUEUE_SECONDS.labels(provider)
        self.upstream_seconds = UPSTREAM_SECONDS.labels(group, provider)
        self.first_token_seconds = FIRST_TOKEN_SECONDS.labels(group, provider)
        self.input_tokens = INPUT_TOKENS.labels(group, provider)
        self.output_tokens = OUTPUT_TOKENS.labels(group, provider)
        self.spend = SPEND.labels(group, provider)

    def note_usage(self, outcome: Outcome) -> None:
        self.input_tokens.inc(outcome.usage.prompt)
        self.output_tokens.inc(outcome.usage.output)
        if outcome.cost:
            self.spend.inc(outcome.cost / 1_000_000_000)


@lru_cache(maxsize=4096)
def _series(group: str, provider: str) -> _Series:
    return _Series(group, provider)


@lru_cache(maxsize=4096)
def _requests(status: int, route: str) -> Counter:
    return REQUESTS.labels(status, route)


def _bounded(group: str) -> str:
    if group in _groups:
        return group
    if len(_groups) >= _MOST_GROUPS:
        return "other"
    _groups.add(group)
    return group
