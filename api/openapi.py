"""The OpenAPI document: what FastAPI finds in the routes, and what it cannot know: keys, and the shapes of errors."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from api.management.bodies import ManagementRoute

TAGS = {
    "chat": "OpenAI's chat completions, at any provider",
    "jobs": "Requests that nobody waits for: what became of them, and their streams",
    "files": "OpenAI's files, which batches read and write",
    "batches": "OpenAI's batches, at any provider",
    "keys": "Virtual keys: what they may call, spend and how fast",
    "users": "People, with keys of their own",
    "teams": "Teams, their members, and what they share",
    "budgets": "Budgets that keys, users, members and customers have in common",
    "customers": "Whoever a request names as its `user`",
    "models": "What can be called, and the deployments behind it",
    "spend": "The bill: attempts one by one, and sums of them",
    "activity": "Spend, tokens and requests by day, in pages",
    "audit": "Who changed what, when and from where",
    "queues": "The lanes that jobs wait in",
    "dead letters": "Jobs that were set aside",
    "webhooks": "What was sent to those who asked to be told",
    "health": "Whether it is alive and ready, and whether the deployments answer",
    "metrics": "Prometheus' page",
}
"""Every tag, in the order of the page."""

_KEY = "key"
_OPEN = ("/health/liveliness", "/health/liveness", "/health/readiness")
"""Paths that need no key."""

_ERROR = {
    "title": "Error",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What happened, to what, and what to do"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field or parameter that is to blame"},
                "code": {"type": "string", "description": "The status, or budget_exceeded and the like"},
            },
        }
    },
}


class Documented(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The same every time; FastAPI serves it as it is."""
        if self.openapi_schema is None:
            _complete(super().openapi(), self.routes)
        assert self.openapi_schema is not None
        return self.openapi_schema


def _complete(document: dict[str, Any], routes: Any) -> None:
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
    document["security"] = [{_KEY: []}]
    components = document["components"]
    components["securitySchemes"] = {
        _KEY: {"type": "http", "scheme": "bearer", "description": "The master key or a virtual key: `sk-...`"}
    }
    components["schemas"]["Error"] = _ERROR
    for path, operation, route in _operations(document, routes):
        if path in _OPEN:
            operation["security"] = []
        responses = operation["responses"]
        responses["4XX"] = _refused("Refused", "Error")
        responses.pop("422", None)
        if isinstance(route, ManagementRoute):
            responses["422"] = _refused("What was sent does not fit", "HTTPValidationError")


def _operations(document: dict[str, Any], routes: Any) -> Iterator[tuple[str, dict[str, Any], APIRoute]]:
    for route in routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                yield route.path_format, document["paths"][route.path_format][method.lower()], route


def _refused(why: str, shape: str) -> dict[str, Any]:
    return {
        "description": why,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{shape}"}}},
    }
