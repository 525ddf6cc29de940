"""What the tests of requests to Anthropic share: tools, a schema, a model of each generation, a checked request."""

from typing import Any

from tests.providers.anthropic_calls import sent
from tests.providers.anthropic_types import check_request
from workers.providers.base import Call

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Now", "parameters": PARAMETERS}}
TIME = {"type": "function", "function": {"name": "time"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": PARAMETERS}}
OLD = "claude-3-5-haiku-20241022"
BUDGET = "claude-sonnet-4-5"
ADAPTIVE = "claude-opus-4-6"
NEW = "claude-opus-4-8"


def valid(body: dict[str, Any] | None = None, *, betas: bool = False, **deployment: Any) -> dict[str, Any]:
    wire = sent(body, **deployment)
    check_request(wire, betas=betas)
    return wire


def with_client_headers(made: Call, headers: dict[str, str]) -> Call:
    return Call(made.body, made.deployment, made.id, made.created, headers)
