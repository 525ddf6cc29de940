"""What the OpenAPI document says of bodies that routes read by themselves, and FastAPI knows nothing about."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel


def request_body(kind: type[BaseModel], *, required: bool = True, needs: Sequence[str] = ()) -> dict[str, Any]:
    """`openapi_extra` of a route that is sent this body; `required` unless an empty one does as well. It `needs` these
    fields, which other routes with the same body do not."""
    schema = kind.model_json_schema()
    if needs:
        schema["required"] = [*schema.get("required", ()), *needs]
    named = schema.pop("$defs", {})
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": _inlined(schema, named)}}}}


def _inlined(schema: Any, named: dict[str, Any]) -> Any:
    """With the definitions that it refers to in the places where it does: the route's document has no others."""
    if isinstance(schema, list):
        return [_inlined(each, named) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(named[schema["$ref"].rpartition("/")[2]], named)
    return {name: _inlined(each, named) for name, each in schema.items()}
