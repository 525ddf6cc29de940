"""What an answer says about its way: `x-headrace-*` and LiteLLM's essential `x-litellm-*` set. Nones are left out."""

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import quote, urlsplit

from shared.catalog import Catalog
from shared.jobs import Job
from shared.providers import default_base

_RATE_LIMITS = tuple(
    f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")
)
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "trailer"}
)
NANO = 1_000_000_000


def _version() -> str:
    try:
        return version("headrace")
    except PackageNotFoundError:
        return "0"


VERSION = _version()


def of(job: Job, meta: Mapping[str, Any], catalog: Catalog, now: float) -> dict[str, str]:
    """Headers for an answer, or an error, whose event carried `meta`. `now` is seconds since the epoch."""
    headers = {
        "x-headrace-job-id": job.id,
        "x-litellm-call-id": job.id,
        "x-litellm-version": VERSION,
        "x-litellm-response-duration-ms": f"{(now - job.accepted_at) * 1000:.2f}",
        "x-litellm-timeout": f"{job.deadline - job.accepted_at:.1f}",
        "x-litellm-max-retries": str(job.max_retries),
    }
    if "deployment" not in meta:
        return headers
    headers["x-litellm-model-id"] = _printable(meta["deployment"])
    headers["x-litellm-model-group"] = _printable(meta["group"])
    headers["x-litellm-attempted-retries"] = str(meta["attempt"] - 1 - meta["leg"])
    headers["x-litellm-attempted-fallbacks"] = str(meta["leg"])
    headers["x-headrace-queue-wait-ms"] = f"{meta['queue_wait'] * 1000:.2f}"
    _add_base(headers, catalog, meta["deployment"])
    _add_outcome(headers, meta, job, now)
    _add_provider_headers(headers, meta["headers"])
    return headers


def _add_base(headers: dict[str, str], catalog: Catalog, deployment_id: str) -> None:
    try:
        deployment = catalog.deployment(deployment_id)
    except KeyError:
        return  # the worker runs another config
    base = deployment.api_base or default_base(deployment.provider)
    if base:
        headers["x-litellm-model-api-base"] = _public(base)


@lru_cache(maxsize=1024)
def _public(base: str) -> str:
    """The address without what in it may be a secret."""
    url = urlsplit(base)
    host = url.netloc.rpartition("@")[2]  # what comes before it may be a password
    return url._replace(netloc=host, query="", fragment="").geturl()


def _add_outcome(headers: dict[str, str], meta: Mapping[str, Any], job: Job, now: float) -> None:
    outcome = meta.get("outcome")
    if outcome is None:
        if meta.get("ttft") is not None:
            headers["x-headrace-upstream-ms"] = f"{meta['ttft'] * 1000:.2f}"
        return
    headers["x-headrace-upstream-ms"] = f"{outcome['duration'] * 1000:.2f}"
    overhead = max(now - job.accepted_at - outcome["duration"], 0.0)
    headers["x-litellm-overhead-duration-ms"] = f"{overhead * 1000:.2f}"
    if outcome["cost"]:
        headers["x-litellm-response-cost"] = repr(outcome["cost"] / NANO)


def _add_provider_headers(headers: dict[str, str], provider: Mapping[str, str]) -> None:
    for name, value in provider.items():
        if name not in _HOP_BY_HOP and value.isascii() and value.isprintable():
            headers[_of_provider(name)] = value
    for name in _RATE_LIMITS:
        if name in provider and _of_provider(name) in headers:
            headers[name] = provider[name]


def raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """As ASGI wants them. The names, which must be in lower case, are the same for most answers, and remembered."""
    return [(_encoded(name), value.encode("latin-1")) for name, value in headers.items()]


@lru_cache(maxsize=1024)
def _of_provider(name: str) -> str:
    return f"llm_provider-{name}"


@lru_cache(maxsize=1024)
def _encoded(name: str) -> bytes:
    return name.encode("latin-1")


def _printable(text: str) -> str:
    """`text`, or what of it a header can carry: with wildcards, clients name deployments and groups as they like."""
    return text if text.isascii() and text.isprintable() else quote(text, safe="/:* ")
