"""JSON Schema as Anthropic takes it: for tools loosely, for structured outputs in a strict subset.

https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations
"""

from collections.abc import Mapping
from typing import Any

_TOOL_KEYS = ("properties", "required", "additionalProperties", "$defs", "definitions", "description", "title")
"""Top-level keys of a tool's schema. The vendor rejects `oneOf`, `anyOf` and `allOf` there, and needs no others."""

_KEPT = ("type", "enum", "const", "title", "required")
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
_DROPPED = ("$schema", "$id", "$comment", "additionalProperties", "strict")
"""Keys that say nothing a model could follow, or that the subset decides by itself."""


def tool_schema(parameters: object) -> dict[str, Any]:
    """A function's `parameters` as `input_schema`: always an object with properties."""
    schema = _root(parameters) if isinstance(parameters, Mapping) else {}
    kept = {key: schema[key] for key in _TOOL_KEYS if schema.get(key) is not None}
    properties = kept.pop("properties", None)
    return {"type": "object", "properties": properties if isinstance(properties, Mapping) else {}, **kept}


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` in the subset of structured outputs: objects are closed, `oneOf` becomes `anyOf`, and constraints that
    the vendor cannot enforce move into the description, where the model may still follow them.

    `$defs` stay: the vendor resolves references by itself, and inlining would not end for a recursive schema.
    """
    rest = {key: value for key, value in schema.items() if key not in _DROPPED}
    strict: dict[str, Any] = {}

    definitions = {**(rest.pop("definitions", None) or {}), **(rest.pop("$defs", None) or {})}
    if definitions:
        strict["$defs"] = {name: _strict(each) for name, each in definitions.items()}
    if (reference := rest.get("$ref")) is not None:
        strict["$ref"] = str(reference).replace("#/definitions/", "#/$defs/")
        return strict  # nothing may stand beside a reference

    if variants := rest.pop("anyOf", None) or rest.pop("oneOf", None):
        strict["anyOf"] = [_strict(each) for each in variants]
    if parts := rest.pop("allOf", None):
        strict["allOf"] = [_strict(each) for each in parts]
    strict.update({key: rest.pop(key) for key in _KEPT if key in rest})
    _close_objects(strict, rest)
    _keep_enforceable(strict, rest)

    description = rest.pop("description", None)
    wishes = ", ".join(f"{key}: {value}" for key, value in rest.items())
    if description or wishes:
        strict["description"] = "\n\n".join(filter(None, (description, wishes and f"{{{wishes}}}")))
    return strict


def _strict(schema: object) -> Any:
    return strict_schema(schema) if isinstance(schema, Mapping) else schema


def _close_objects(strict: dict[str, Any], rest: dict[str, Any]) -> None:
    properties = rest.pop("properties", None)
    if "object" in _types(strict) or properties is not None:
        strict.setdefault("type", "object")
        strict["properties"] = {name: _strict(each) for name, each in (properties or {}).items()}
        strict["additionalProperties"] = False


def _keep_enforceable(strict: dict[str, Any], rest: dict[str, Any]) -> None:
    if "items" in rest:
        strict["items"] = _strict(rest.pop("items"))
    if rest.get("minItems") in (0, 1):
        strict["minItems"] = rest.pop("minItems")
    if rest.get("format") in _FORMATS:
        strict["format"] = rest.pop("format")


def _types(schema: Mapping[str, Any]) -> tuple[str, ...]:
    kind = schema.get("type")
    return tuple(kind) if isinstance(kind, list) else (kind,) if isinstance(kind, str) else ()


def _root(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a top-level `$ref` names, with its definitions: a tool's root must be an object itself."""
    reference = schema.get("$ref")
    for home in ("$defs", "definitions"):
        prefix = f"#/{home}/"
        if isinstance(reference, str) and reference.startswith(prefix):
            target = (schema.get(home) or {}).get(reference.removeprefix(prefix))
            if isinstance(target, Mapping):
                return {**target, home: schema[home]}
    return schema
