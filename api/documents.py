"""What the OpenAPI document says of bodies that routes read by themselves, and FastAPI knows nothing about."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import BaseModel


def request_body(kind: type[BaseModel], *, required: bool = True, needs: Sequence[str] = ()) -> dict[str, Any]:
    """`openapi_extra` of a route that is sent this body; `required` unless an empty one does as well. It `needs` these
    fields, which other routes with the same body do not."""
    return _RequestBody(kind, required, needs)  # type: ignore[return-value]  # FastAPI only ever reads it


class _RequestBody(Mapping[str, Any]):
    """Made when somebody reads it: those of all routes take a tenth of a process's start, and few ask for them."""

    def __init__(self, kind: type[BaseModel], required: bool, needs: Sequence[str]) -> None:
        self._kind = kind
        self._required = required
        self._needs = needs

    def __getitem__(self, name: str) -> Any:
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return 1

    @cached_property
    def _made(self) -> dict[str, Any]:
        schema = self._kind.model_json_schema()
        if self._needs:
            schema["required"] = [*schema.get("required", ()), *self._needs]
        named = schema.pop("$defs", {})
        content = {"application/json": {"schema": _inlined(schema, named)}}
        return {"requestBody": {"required": self._required, "content": content}}


def _inlined(schema: Any, named: dict[str, Any]) -> Any:
    """With the definitions that it refers to in the places where it does: the route's document has no others."""
    if isinstance(schema, list):
        return [_inlined(each, named) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(named[schema["$ref"].rpartition("/")[2]], named)
    return {name: _inlined(each, named) for name, each in schema.items()}
