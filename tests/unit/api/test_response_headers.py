"""What an answer says about its way, and what it must not say."""

from typing import Any

import pytest

from api import response_headers
from shared.catalog import Catalog, Deployment
from shared.jobs import Job, Leg

META: dict[str, Any] = {
    "deployment": "d",
    "group": "chat",
    "provider": "openai",
    "attempt": 3,
    "leg": 1,
    "queue_wait": 0.0123,
    "ttft": 0.5,
    "headers": {"x-request-id": "r-1", "x-ratelimit-remaining-tokens": "9", "content-encoding": "gzip"},
}


def headers(meta: dict[str, Any], base: str = "", provider: str = "openai") -> dict[str, str]:
    job = Job("7", "chat.completions", "chat", (Leg(provider, "chat", ("d",)),), b"", "", 100.0, 160.0)
    catalog = Catalog([Deployment("d", "chat", provider, "m", api_base=base, api_key="sk-secret")])
    return response_headers.of(job, meta, catalog, now=101.5)


def test_an_answer_without_an_attempt_names_the_job_only() -> None:
    assert headers({}) == {
        "x-headrace-job-id": "7",
        "x-litellm-call-id": "7",
        "x-litellm-version": response_headers.VERSION,
        "x-litellm-response-duration-ms": "1500.00",
        "x-litellm-timeout": "60.0",
        "x-litellm-max-retries": "2",
    }


def test_retries_and_fallbacks_are_told_apart() -> None:
    said = headers(META)

    assert (said["x-litellm-attempted-retries"], said["x-litellm-attempted-fallbacks"]) == ("1", "1")


def test_a_streams_head_knows_its_first_token_and_a_whole_answer_its_cost() -> None:
    stream = headers(META)
    whole = headers({**META, "outcome": {"duration": 1.2, "cost": 2_500}})

    assert (stream["x-headrace-upstream-ms"], whole["x-headrace-upstream-ms"]) == ("500.00", "1200.00")
    assert "x-litellm-response-cost" not in stream
    assert whole["x-litellm-response-cost"] == "2.5e-06"
    assert whole["x-litellm-overhead-duration-ms"] == "300.00"


def test_the_providers_headers_are_prefixed_and_its_limits_passed_on() -> None:
    said = headers(META)

    assert said["llm_provider-x-request-id"] == "r-1"
    assert said["x-ratelimit-remaining-tokens"] == "9"
    assert "llm_provider-content-encoding" not in said


@pytest.mark.parametrize(
    ("base", "shown"),
    [
        ("https://up.example/v1", "https://up.example/v1"),
        ("https://up.example/v1?api-key=secret#part", "https://up.example/v1"),
        ("https://user:secret@up.example:8443/v1", "https://up.example:8443/v1"),
    ],
)
def test_the_upstreams_address_is_shown_without_its_secrets(base: str, shown: str) -> None:
    assert headers(META, base)["x-litellm-model-api-base"] == shown


def test_a_deployment_of_another_config_has_no_address() -> None:
    assert "x-litellm-model-api-base" not in headers({**META, "deployment": "unknown"})


@pytest.mark.parametrize("name", ["模型", "a\r\nset-cookie: b", "\x00"])
def test_what_a_header_cannot_carry_is_escaped_or_left_out(name: str) -> None:
    said = headers(
        {**META, "deployment": name, "group": name, "headers": {"x-odd": name, "x-ratelimit-limit-tokens": name}}
    )

    assert all(value.isascii() and value.isprintable() for value in said.values())
    assert "llm_provider-x-odd" not in said
    assert "x-ratelimit-limit-tokens" not in said
