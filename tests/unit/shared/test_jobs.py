"""A job is the same after its way through a queue."""

from dataclasses import fields, replace
from typing import Any

import orjson
import pytest

from shared.jobs import Job, Lane, Leg

PLAIN = Job(
    id="0192f0c1-2d3e-7abc-8def-000000000001",
    endpoint="chat.completions",
    model="gpt",
    route=(Leg("openai", "gpt", ("d1", "d2")), Leg("gemini", "pro", ("d3",), fallback=True)),
    body=b'{"model": "gpt"}',
    reply_to="api-1",
    accepted_at=1000.25,
    deadline=1600.5,
)
OTHERWISE: dict[str, Any] = {
    "stream": True, "lane": Lane.BATCH, "attempt": 3, "leg": 1, "retries": 1, "max_retries": 0, "published_at": 1000.5,
    "key": "k" * 64, "team": "t", "user": "u", "customer": "c", "accounts": ("key:k", "team:t"), "barred": ("other",),
    "tags": ("a", "b"), "traceparent": "00-1-2-01", "claim": True, "headers_in": {"anthropic-beta": "x"}, "avoid": "d1",
    "suspect": True, "cause": {"code": "upstream_error"}, "durable": True, "start_by": 1200.0, "precedence": 0,
    "redact": True,
}  # fmt: skip
"""Every field that has a default, with another value."""


def test_no_field_is_forgotten_here() -> None:
    required = {"id", "endpoint", "model", "route", "body", "reply_to", "accepted_at", "deadline"}

    assert {each.name for each in fields(Job)} == required | OTHERWISE.keys()


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_field_arrives_as_it_was(name: str) -> None:
    job = replace(PLAIN, **{name: OTHERWISE[name]})

    assert Job.from_wire(job.headers(), job.body) == job


def test_what_is_as_usual_does_not_travel_and_arrives_all_the_same() -> None:
    headers = orjson.loads(PLAIN.headers())

    assert OTHERWISE.keys() & headers.keys() == {"lane", "tags"}
    assert Job.from_wire(PLAIN.headers(), PLAIN.body) == PLAIN


def test_fields_of_a_newer_version_are_ignored() -> None:
    newer = orjson.loads(PLAIN.headers()) | {"v": 99, "unheard_of": 1}

    assert Job.from_wire(orjson.dumps(newer), PLAIN.body) == PLAIN
