"""JSON Schema -> Gemini's `Schema`, a subset of OpenAPI 3.0 (https://ai.google.dev/api/caching#Schema).

What Gemini has no word for is left out: a tool whose schema says less than it could still works, one with an unknown
key is refused. References are inlined; where one leads back into itself, the inner copy becomes an open object.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from shared.errors import InvalidRequest

_MAX_DEPTH = 64  # Gemini refuses far shallower schemas; the bound keeps hostile ones off Python's stack
_MAX_NODES = 20_000  # inlining doubles at every level of a malicious schema
_TYPES = {
    "string": "STRING",
    "number": "NUMBER",
    "integer": "INTEGER",
    "boolean": "BOOLEAN",
    "array": "ARRAY",
    "object": "OBJECT",
}
_FORMATS = ("date-time", "enum")  # any other format of a string is answered with 400
_NUMBERS = ("minimum", "maximum")
_SIZES = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_SHAPE = ("type", "properties", "items", "prefixItems", "enum", "const", "$ref", "anyOf", "oneOf", "allOf")

Schema = dict[str, Any]


def to_gemini(schema: Any) -> Schema:
    """The Gemini schema that says what `schema` says, as far as Gemini can.

    Raises `InvalidRequest` when `schema` nests deeper than 64 levels or has over 20,000 nodes once inlined.
    """
    return _Conversion(root=schema).convert(schema)


def function_parameters(schema: Any) -> Schema | None:
    """The `parameters` of a function declaration: always an object; None for a function without parameters."""
    converted = to_gemini(schema)
    if "anyOf" in converted:
        converted = _merged_objects(converted["anyOf"])
    if not converted.get("properties"):
        return None  # an object without properties is refused; a declaration without parameters is not
    converted["type"] = "OBJECT"
    converted.pop("nullable", None)
    return converted


def _merged_objects(branches: list[Schema]) -> Schema:
    """One object that accepts what any of `branches` accepts: parameters must not be a union."""
    objects = [each for each in branches if each.get("properties")]
    properties = {name: value for each in objects for name, value in each["properties"].items()}
    required = [name for name in properties if all(name in each.get("required", ()) for each in objects)]
    return _without_empty({"type": "OBJECT", "properties": properties, "required": required})


@dataclass(slots=True)
class _Conversion:
    root: Any
    """What `#` refers to."""
    nodes: int = 0

    def convert(self, schema: Any, depth: int = 0, path: tuple[str, ...] = ()) -> Schema:
        """`path` holds the references being inlined above this node."""
        self.nodes += 1
        if depth > _MAX_DEPTH or self.nodes > _MAX_NODES:
            raise InvalidRequest("the JSON schema is too large or nested too deeply once its $refs are inlined")
        if not isinstance(schema, Mapping):
            schema = {}  # `true`, `false` and nonsense: anything goes

        if isinstance(ref := schema.get("$ref"), str):
            if ref in path:
                return _described({"type": "OBJECT"}, schema)
            siblings = {key: value for key, value in schema.items() if key != "$ref"}
            return self.convert({**self._resolve(ref), **siblings}, depth + 1, (*path, ref))
        if isinstance(parts := schema.get("allOf"), list):
            return self._all_of(schema, parts, depth, path)
        if (branches := _branches(schema)) is not None:
            return self._union(schema, branches, depth, path)
        return self._plain(schema, depth, path)

    def _resolve(self, ref: str) -> Mapping[str, Any]:
        """The target of a JSON pointer within the document; an open schema when there is none."""
        node = self.root
        for token in ref.lstrip("#").strip("/").split("/") if ref.strip("#/") else ():
            key = unquote(token).replace("~1", "/").replace("~0", "~")
            if isinstance(node, list):
                node = {str(at): each for at, each in enumerate(node)}
            node = node.get(key) if isinstance(node, Mapping) else None
        return node if isinstance(node, Mapping) else {"type": "object"}

    def _all_of(self, schema: Mapping[str, Any], parts: list[Any], depth: int, path: tuple[str, ...]) -> Schema:
        """`allOf` as one schema: properties and requirements add up, the last word wins elsewhere."""
        own = {key: value for key, value in schema.items() if key != "allOf"}
        merged: Schema = {}
        required: list[Any] = []
        for part in (each for each in [*parts, own] if isinstance(each, Mapping)):
            converted = self.convert(part, depth + 1, path)
            if not any(key in part for key in _SHAPE):
                del converted["type"]  # a mere description or constraint says nothing of the type
            required += [*converted.get("required", ()), *_list(part.get("required"))]
            if converted.get("type", merged.get("type")) != merged.get("type"):
                merged = _described({}, merged)  # the type changes, and what belonged to the other one goes
            properties = {**merged.get("properties", {}), **converted.get("properties", {})}
            merged = _without_empty({**merged, **converted, "properties": properties})

        if "type" in merged:
            merged.pop("anyOf", None)  # Gemini cannot say both
        elif "anyOf" in merged:
            return {"anyOf": merged["anyOf"]}
        merged.setdefault("type", "STRING")
        known = merged.get("properties", {})
        return _without_empty({**merged, "required": list(dict.fromkeys(n for n in required if _known(n, known)))})

    def _union(self, schema: Mapping[str, Any], branches: list[Any], depth: int, path: tuple[str, ...]) -> Schema:
        """`anyOf`: Gemini allows no other key beside it, so description and null move into the branches."""
        own = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
        shaped = [each for each in branches if isinstance(each, Mapping) and any(key in each for key in _SHAPE)]
        if "properties" in own or not shaped:
            return self.convert(own, depth + 1, path)  # the branches only constrain it (`required` in turns)
        nullable = any(_is_null(each) for each in shaped) or schema.get("nullable") is True
        inherited = {key: own[key] for key in ("type", "items") if key in own}
        converted = [self.convert({**inherited, **each}, depth + 1, path) for each in shaped if not _is_null(each)] or [
            {"type": "STRING"}
        ]
        flat = [leaf for each in converted for leaf in each.get("anyOf", [each])]
        for each in flat:
            _described(each, own)
            if nullable:
                each["nullable"] = True
        distinct = [each for at, each in enumerate(flat) if each not in flat[:at]]
        return distinct[0] if len(distinct) == 1 else {"anyOf": distinct}

    def _plain(self, schema: Mapping[str, Any], depth: int, path: tuple[str, ...]) -> Schema:
        kinds = [kind for kind in _listed(schema.get("type")) if isinstance(kind, str)]
        nullable = "null" in kinds or schema.get("nullable") is True or None in _list(schema.get("enum"))
        kinds = [kind.lower() for kind in kinds if kind.lower() in _TYPES]
        if len(kinds) > 1:
            branches = [{**schema, "type": kind} for kind in kinds]
            return self._union({"nullable": nullable}, branches, depth, path)

        kind = kinds[0] if kinds else _inferred(schema)
        converted: Schema = _described({"type": _TYPES[kind]}, schema)
        if nullable:
            converted["nullable"] = True
        converted |= self._constraints(schema, kind)
        if kind == "object":
            converted |= self._object(schema, depth, path)
        elif kind == "array":
            converted["items"] = self._items(schema, depth, path)
        return converted

    def _constraints(self, schema: Mapping[str, Any], kind: str) -> Schema:
        kept: Schema = {key: schema[key] for key in _NUMBERS if _is_number(schema.get(key))}
        kept |= {key: int(schema[key]) for key in _SIZES if _is_number(schema.get(key)) and schema[key] >= 0}
        if kind != "string":
            return kept  # Gemini enumerates strings only
        if schema.get("format") in _FORMATS:
            kept["format"] = schema["format"]
        if isinstance(schema.get("pattern"), str):
            kept["pattern"] = schema["pattern"]
        values = _list(schema.get("enum")) or [schema.get("const")]
        if strings := list(dict.fromkeys(value for value in values if isinstance(value, str) and value)):
            kept["enum"] = strings
        return kept

    def _object(self, schema: Mapping[str, Any], depth: int, path: tuple[str, ...]) -> Schema:
        properties = {
            str(name): self.convert(value, depth + 1, path)
            for name, value in _mapping(schema.get("properties")).items()
        }
        # Naming a property that is not there is a 400.
        required = list(dict.fromkeys(name for name in _list(schema.get("required")) if _known(name, properties)))
        order = [name for name in _list(schema.get("propertyOrdering")) if _known(name, properties)]
        return _without_empty({"properties": properties, "required": required, "propertyOrdering": order})

    def _items(self, schema: Mapping[str, Any], depth: int, path: tuple[str, ...]) -> Schema:
        """`items` is required of an array; a tuple becomes a list of any of its members."""
        if members := _list(schema.get("prefixItems")) or _list(schema.get("items")):
            return self.convert({"anyOf": members}, depth + 1, path)
        return self.convert(schema.get("items"), depth + 1, path)


def _branches(schema: Mapping[str, Any]) -> list[Any] | None:
    """The alternatives of a union; Gemini does not tell `oneOf` from `anyOf`."""
    for key in ("anyOf", "oneOf"):
        if isinstance(branches := schema.get(key), list) and branches:
            return branches
    return None


def _inferred(schema: Mapping[str, Any]) -> str:
    """The type of a schema that names none. Gemini wants one everywhere, and a string can spell any value."""
    if "properties" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    values = [value for value in [*_list(schema.get("enum")), schema.get("const")] if value is not None]
    if values and all(isinstance(value, bool) for value in values):
        return "boolean"
    if values and all(_is_number(value) for value in values):
        return "integer" if all(isinstance(value, int) for value in values) else "number"
    return "string"


def _described(converted: Schema, schema: Mapping[str, Any]) -> Schema:
    if isinstance(text := schema.get("description"), str) and text:
        converted.setdefault("description", text)
    return converted


def _is_null(schema: Any) -> bool:
    return isinstance(schema, Mapping) and (schema.get("type") in ("null", ["null"]) or schema.get("enum") == [None])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _known(name: Any, properties: Mapping[str, Any]) -> bool:
    return isinstance(name, str) and name in properties


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _without_empty(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if value not in ([], {})}
