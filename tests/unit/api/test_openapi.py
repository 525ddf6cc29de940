"""The OpenAPI document is one that tools can read and people want to."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis

from api.app import pages
from api.openapi import TAGS


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return pages().openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document, however deep."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from nodes(each)
    elif isinstance(value, list):
        for each in value:
            yield from nodes(each)


def there(document: dict[str, Any], reference: str) -> bool:
    place: Any = document
    for step in reference.removeprefix("#/").split("/"):
        if step not in place:
            return False
        place = place[step]
    return True


def test_it_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    schemathesis.openapi.from_dict(document).validate()

    assert document["openapi"].startswith("3.1.")


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = {node["$ref"] for node in nodes(document) if isinstance(node.get("$ref"), str)}

    assert references
    assert [each for each in references if not there(document, each)] == []


def test_every_operation_has_a_name_of_its_own(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]

    assert len(names) == len(set(names))


def test_every_operation_says_what_it_does(document: dict[str, Any]) -> None:
    silent = [label for label, operation in operations(document) if not operation.get("summary")]

    assert silent == []


def test_every_operation_is_under_one_tag_that_is_described(document: dict[str, Any]) -> None:
    found = {label: operation.get("tags", []) for label, operation in operations(document)}

    assert {label: tags for label, tags in found.items() if len(tags) != 1 or tags[0] not in TAGS} == {}
    assert {tag for tags in found.values() for tag in tags} == set(TAGS)


def test_every_change_says_what_it_is_sent(document: dict[str, Any]) -> None:
    by_path = {"/v1/queues/", "/cancel", "/retry", "/redeliver", "/key/health", "/global/spend/reset"}
    bare = {
        label
        for label, operation in operations(document)
        if label.startswith(("POST", "PUT", "PATCH")) and "requestBody" not in operation
    }

    assert [label for label in bare if not any(part in label for part in by_path)] == []


def test_only_the_probes_need_no_key(document: dict[str, Any]) -> None:
    free = {label for label, operation in operations(document) if operation.get("security") == []}

    assert free == {"GET /health/liveliness", "GET /health/liveness", "GET /health/readiness"}
    assert document["security"] == [{"key": []}]


def test_management_lists_what_does_not_fit_and_other_routes_name_the_parameter(document: dict[str, Any]) -> None:
    answers = {label: operation["responses"] for label, operation in operations(document)}

    assert "422" in answers["POST /key/generate"]
    assert "422" not in answers["GET /v1/jobs"]
    assert all("4XX" in each for each in answers.values())
