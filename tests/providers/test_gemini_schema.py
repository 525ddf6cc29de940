"""JSON Schema in Gemini's words."""

from typing import Any

import orjson
import pytest
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import InvalidRequest
from workers.providers.gemini.schema import function_parameters, to_gemini

NODE = {
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}], "description": "the rest"},
                "children": {"type": "array", "items": {"allOf": [{"$ref": "#/$defs/Node"}]}},
            },
            "required": ["value", "next"],
        }
    },
    "$ref": "#/$defs/Node",
}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string", "description": "a"}, {"type": "STRING", "description": "a"}),
        ({"type": ["string", "null"]}, {"type": "STRING", "nullable": True}),
        ({"type": ["null"]}, {"type": "STRING", "nullable": True}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"type": "INTEGER", "nullable": True}),
        ({"type": ["string", "integer"]}, {"anyOf": [{"type": "STRING"}, {"type": "INTEGER"}]}),
        (
            {"oneOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}], "description": "d", "title": "T"},
            {
                "anyOf": [
                    {"type": "STRING", "description": "d", "nullable": True},
                    {"type": "NUMBER", "description": "d", "nullable": True},
                ]
            },
        ),
        ({"enum": ["a", "", "a", "b"]}, {"type": "STRING", "enum": ["a", "b"]}),
        ({"enum": ["a", None]}, {"type": "STRING", "enum": ["a"], "nullable": True}),
        ({"enum": [1, 2]}, {"type": "INTEGER"}),
        ({"type": "integer", "enum": [1, 2]}, {"type": "INTEGER"}),
        ({"const": "a"}, {"type": "STRING", "enum": ["a"]}),
        ({"const": True}, {"type": "BOOLEAN"}),
        ({"type": "string", "format": "date-time"}, {"type": "STRING", "format": "date-time"}),
        ({"type": "string", "format": "uri", "examples": ["x"], "default": "y"}, {"type": "STRING"}),
        (
            {"type": "number", "minimum": 0, "exclusiveMaximum": 1, "multipleOf": 2},
            {"type": "NUMBER", "minimum": 0},
        ),
        ({"type": "array"}, {"type": "ARRAY", "items": {"type": "STRING"}}),
        (
            {"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}], "minItems": 2.0},
            {"type": "ARRAY", "items": {"anyOf": [{"type": "NUMBER"}, {"type": "STRING"}]}, "minItems": 2},
        ),
        (True, {"type": "STRING"}),
        (
            {"allOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {}}, "required": ["a", "c"]}]},
            {"type": "OBJECT", "properties": {"a": {"type": "STRING"}, "b": {"type": "STRING"}}, "required": ["a"]},
        ),
        ({"$ref": "#/nowhere"}, {"type": "OBJECT"}),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "boolean"}}}, {"type": "BOOLEAN"}),
    ],
)
def test_schema_says_the_same_in_geminis_words(schema: Any, expected: dict[str, Any]) -> None:
    assert to_gemini(schema) == expected


def test_properties_may_bear_the_names_of_keywords() -> None:
    names = ("title", "default", "$schema", "enum", "anyOf", "type", "properties", "additionalProperties")
    schema = {"type": "object", "properties": {name: {"type": "string", "title": "x"} for name in names}}

    assert to_gemini(schema)["properties"] == {name: {"type": "STRING"} for name in names}


def test_object_whose_union_only_demands_properties_stays_an_object() -> None:
    schema = {
        "type": "object",
        "properties": {"id": {"type": "string"}, "name": {"type": "string"}},
        "anyOf": [{"required": ["id"]}, {"required": ["name"]}],
    }

    assert to_gemini(schema) == {
        "type": "OBJECT",
        "properties": {"id": {"type": "STRING"}, "name": {"type": "STRING"}},
    }


def test_reference_into_itself_ends_as_an_open_object() -> None:
    assert to_gemini(NODE) == {
        "type": "OBJECT",
        "properties": {
            "value": {"type": "INTEGER"},
            "next": {"type": "OBJECT", "description": "the rest", "nullable": True},
            "children": {"type": "ARRAY", "items": {"type": "OBJECT"}},
        },
        "required": ["value", "next"],
    }


def test_definition_used_twice_is_inlined_twice() -> None:
    schema = {
        "$defs": {"Point": {"type": "object", "properties": {"x": {"type": "number"}}}},
        "type": "object",
        "properties": {"from": {"$ref": "#/$defs/Point"}, "to": {"$ref": "#/$defs/Point", "description": "end"}},
    }

    properties = to_gemini(schema)["properties"]

    assert properties["from"] == {"type": "OBJECT", "properties": {"x": {"type": "NUMBER"}}}
    assert properties["to"] == {**properties["from"], "description": "end"}


def test_schema_that_doubles_at_every_level_is_refused() -> None:
    levels = {
        f"L{at}": {"properties": {side: {"$ref": f"#/$defs/L{at + 1}"} for side in ("left", "right")}}
        for at in range(30)
    }

    with pytest.raises(InvalidRequest, match="too large"):
        to_gemini({"$defs": levels, "$ref": "#/$defs/L0"})


def test_schema_that_nests_too_deep_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(200):
        schema = {"type": "array", "items": schema}

    with pytest.raises(InvalidRequest, match="too large"):
        to_gemini(schema)


@pytest.mark.parametrize(
    "schema", [None, {}, {"type": "object"}, {"type": "object", "properties": {}}, {"type": "string"}]
)
def test_function_without_parameters_declares_none(schema: Any) -> None:
    assert function_parameters(schema) is None


def test_parameters_that_are_a_union_become_one_object() -> None:
    schema = {
        "oneOf": [
            {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "required": ["a", "b"],
            },
            {"type": "object", "properties": {"a": {"type": "string"}, "c": {"type": "number"}}, "required": ["a"]},
        ]
    }

    parameters = function_parameters(schema)

    assert parameters == {
        "type": "OBJECT",
        "properties": {"a": {"type": "STRING"}, "b": {"type": "STRING"}, "c": {"type": "NUMBER"}},
        "required": ["a"],
    }


_NAMES = st.sampled_from(["a", "title", "default", "$ref", "type", "Node"])
_LEAVES = st.one_of(
    st.just({}),
    st.booleans(),
    st.none(),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "number", "integer", "boolean", "null", "array", "object", "file", 7])},
        optional={
            "description": st.text(max_size=5),
            "format": st.sampled_from(["date-time", "uri", "int32"]),
            "enum": st.lists(st.one_of(st.none(), st.text(max_size=2), st.integers(-9, 9), st.booleans()), max_size=3),
            "default": st.integers(-9, 9),
            "minimum": st.one_of(st.integers(-5, 5), st.floats(allow_nan=False), st.just("low")),
            "minLength": st.one_of(st.integers(-1, 5), st.floats(0, 9), st.none()),
            "pattern": st.just("^a"),
            "nullable": st.booleans(),
            "additionalProperties": st.booleans(),
            "$schema": st.just("https://json-schema.org/draft/2020-12/schema"),
        },
    ),
    st.fixed_dictionaries(
        {"$ref": st.sampled_from(["#", "#/$defs/Node", "#/$defs/Other", "#/$defs/none", "https://elsewhere.test/s"])},
        optional={"description": st.just("d")},
    ),
    st.fixed_dictionaries({"const": st.one_of(st.text(max_size=3), st.integers(-9, 9), st.none())}),
    st.fixed_dictionaries({"type": st.lists(st.sampled_from(["string", "null", "integer", "object"]), max_size=3)}),
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    members = st.lists(inner, max_size=3)
    fields = {
        "properties": st.dictionaries(_NAMES, inner, max_size=3),
        "required": st.lists(st.one_of(_NAMES, st.integers(0, 9)), max_size=3),
        "propertyOrdering": st.lists(_NAMES, max_size=2),
        "items": st.one_of(inner, members),
        "prefixItems": members,
        "anyOf": members,
        "oneOf": members,
        "allOf": members,
        "description": st.just("d"),
        "type": st.sampled_from(["object", "array", ["array", "null"], "string"]),
    }
    return st.fixed_dictionaries({}, optional=fields)


SCHEMAS = st.recursive(_LEAVES, _nested, max_leaves=12)
DOCUMENTS = st.builds(
    lambda root, node, other: {**(root if isinstance(root, dict) else {}), "$defs": {"Node": node, "Other": other}},
    SCHEMAS,
    SCHEMAS,
    SCHEMAS,
)


@settings(max_examples=100, deadline=None)
@given(DOCUMENTS)
def test_any_schema_becomes_one_that_google_accepts(document: dict[str, Any]) -> None:
    before = orjson.dumps(document)

    try:
        converted = to_gemini(document)
        parameters = function_parameters(document)
    except InvalidRequest:
        return  # too large once inlined

    check_schema(converted)
    if parameters is not None:
        check_schema(parameters)
        assert parameters["type"] == "OBJECT"
        assert parameters["properties"]
    assert orjson.dumps(document) == before


def check_schema(schema: dict[str, Any]) -> None:
    """Google's type, and the rules that its type does not hold."""
    types.Schema.model_validate_json(orjson.dumps(schema))
    check_node(schema)


def check_node(schema: dict[str, Any]) -> None:
    if "anyOf" in schema:
        assert schema.keys() == {"anyOf"}, "any_of must be the only field set"
        assert len(schema["anyOf"]) > 1
        for each in schema["anyOf"]:
            check_node(each)
        return
    assert schema["type"] in {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT"}
    assert ("items" in schema) == (schema["type"] == "ARRAY")
    assert "enum" not in schema or (schema["type"] == "STRING" and all(schema["enum"]))
    assert set(schema.get("required", ())) <= schema.get("properties", {}).keys()
    for each in [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]:
        check_node(each)
