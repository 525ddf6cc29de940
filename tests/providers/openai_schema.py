"""Whether bytes are what OpenAI's own API document says a chat answer is, or a file, or a batch.

The schemas are those of the document "OpenAI API" 2.3.0 (OpenAPI 3.1, MIT licence), cut down to what is checked and
what that refers to, in `tests/fixtures/specs/openai-*.json`. To renew them from a newer document:

    python tests/providers/openai_schema.py openai-openapi.json

Three things are adapted while reading: `nullable`, which 3.1 no longer knows and the document still uses, becomes a
type union; `oneOf` becomes `anyOf`, as the document discriminates by `type` and not by exclusion; and `service_tier`
is any string, because vendors name their own tiers (Groq: `on_demand`) and no client library refuses them. Of files
and batches, what is null is left out: the document's own example of a batch has nulls where its schema has none.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from jsonschema import Draft202012Validator

_SPECS = Path(__file__).parents[1] / "fixtures" / "specs"
_COMPLETION = "CreateChatCompletionResponse"
_CHUNK = "CreateChatCompletionStreamResponse"
_FIXTURES = {
    "openai-chat.json": (_COMPLETION, _CHUNK),
    "openai-batches.json": ("OpenAIFile", "ListFilesResponse", "DeleteFileResponse", "Batch", "ListBatchesResponse"),
}


def check_completion(body: bytes) -> None:
    """Raises `AssertionError` that lists every deviation of `body` from `chat.completion`."""
    _check(_COMPLETION, body)


def check_chunk(data: bytes) -> None:
    """Raises `AssertionError` that lists every deviation of `data` from `chat.completion.chunk`."""
    _check(_CHUNK, data)


def check_object(name: str, data: bytes) -> None:
    """Raises `AssertionError` that lists every deviation of `data` from the schema `name` of files and batches."""
    _check(name, orjson.dumps(_without_nulls(orjson.loads(data))))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return value


def _check(name: str, data: bytes) -> None:
    errors = [f"{error.json_path}: {error.message}" for error in _validator(name).iter_errors(orjson.loads(data))]
    assert not errors, f"not a {name}:\n  " + "\n  ".join(errors) + f"\n{data[:2000].decode()}"


@cache
def _validator(name: str) -> Draft202012Validator:
    fixture = next(file for file, names in _FIXTURES.items() if name in names)
    schemas = _adapted(orjson.loads((_SPECS / fixture).read_bytes())["components"]["schemas"])
    schemas["ServiceTier"] = {"type": ["string", "null"]}
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}})


def _adapted(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_adapted(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    adapted = {("anyOf" if key == "oneOf" else key): _adapted(value) for key, value in schema.items()}
    if adapted.pop("nullable", False):
        return {"anyOf": [adapted, {"type": "null"}]}
    return adapted


def _extract(document: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """These schemas with everything they refer to, and without prose."""
    schemas = document["components"]["schemas"]
    found: dict[str, Any] = {}
    missing = list(names)
    while missing:
        name = missing.pop()
        if name not in found:
            found[name] = _without_prose(schemas[name])
            missing += _references(found[name])
    info = {key: document["info"][key] for key in ("title", "version", "license")}
    return {"openapi": document["openapi"], "info": info, "components": {"schemas": dict(sorted(found.items()))}}


def _references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [schema["$ref"].rsplit("/", 1)[1]] if isinstance(schema.get("$ref"), str) else []
        return own + [name for value in schema.values() for name in _references(value)]
    return [name for each in schema for name in _references(each)] if isinstance(schema, list) else []


def _without_prose(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_prose(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_prose(value)
        for key, value in schema.items()
        # A property may itself be called `title`: prose is a string, a schema is not.
        if not key.startswith("x-") and not (key in ("description", "title", "example") and isinstance(value, str))
    }


if __name__ == "__main__":
    document = orjson.loads(Path(sys.argv[1]).read_bytes())
    for file, names in _FIXTURES.items():
        extract = _extract(document, names)
        (_SPECS / file).write_bytes(orjson.dumps(extract, option=orjson.OPT_INDENT_2) + b"\n")
