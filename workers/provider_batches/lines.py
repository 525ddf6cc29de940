"""A line as a live call would be made of it, by the same adapters: what is sent to a batch API is in no way special."""

from dataclasses import dataclass

from shared.catalog import Deployment
from shared.errors import InvalidRequest
from shared.jobs import Job
from workers import preparation
from workers.providers import registry
from workers.providers.base import Call, UpstreamRequest

_PLAIN_TIERS = (None, "auto", "default")


@dataclass(frozen=True, slots=True)
class Line:
    call: Call
    request: UpstreamRequest


def call(job: Job, deployment: Deployment, now: float) -> Call:
    return preparation.call(job, preparation.parse(job.body), deployment, now)


def line(job: Job, deployment: Deployment, now: float) -> Line:
    """Raises `InvalidRequest` for what must run live: requests that the provider has no counterpart for, which get
    their error there, mocked ones, and those that ask for a tier of service that batches do not have."""
    made = call(job, deployment, now)
    if made.deployment.provider != deployment.provider:
        raise InvalidRequest("A mocked request calls no provider.")
    if made.body.get("service_tier") not in _PLAIN_TIERS or made.body.get("speed") == "fast":
        raise InvalidRequest("Batches have no tiers of service.")
    return Line(made, registry.adapter(deployment.provider).request(made))
