"""What cannot be a key, or a change of one: LiteLLM's status and body, and nothing half-written."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api.management.key_bodies import KeyFields
from tests.fakes.asgi import Exchange
from tests.fakes.management import Managed, managed

_MEGABYTE = 1024 * 1024

_INJECTIONS = [
    "'; DROP TABLE keys; --",
    'x" OR "1"="1',
    "x\r\nset-cookie: a=b",
    "x\nERROR forged line of a log",
    "x\x00y",
    "\x1b[31m",
    "x\u2028y",
]
_CONTROLLED = [text for text in _INJECTIONS if not text.isprintable()]

_STRINGS = ("key_alias", "user_id", "organization_id", "project_id", "agent_id", "end_user_budget_id")


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Managed]:
    async with managed(tmp_path) as running:
        yield running


async def refused(it: Managed, exchange: Exchange, status: int, param: str | None = None) -> Exchange:
    """It was, and nobody wrote anything."""
    assert exchange.status == status, exchange.body
    if param is not None:
        assert exchange.error["param"] == param
        assert set(exchange.error) == {"message", "type", "param", "code"}
    assert await it.audited() == []
    return exchange


@pytest.mark.parametrize("value", ["-1", "-0.01", "NaN", "Infinity", "-Infinity", "1e400"])
async def test_money_is_finite_and_not_negative(it: Managed, value: str) -> None:
    key = await it.key()

    for name in ("max_budget", "soft_budget", "spend"):
        made = await it.send("/key/generate", f'{{"{name}": {value}}}'.encode())
        changed = await it.send("/key/update", f'{{"key": "{key}", "{name}": {value}}}'.encode())

        for exchange in (made, changed):
            await refused(it, exchange, 400, name)
            assert exchange.error["message"].startswith(f"{name} must be a non-negative finite number. Received: ")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"budget_limits": [{"budget_duration": "1d", "max_budget": -1}]}, "budget_limits"),
        ({"budget_limits": [{"budget_duration": "soon", "max_budget": 1}]}, "budget_limits"),
        ({"model_max_budget": {"m": {"budget_limit": -1, "time_period": "1d"}}}, "model_max_budget"),
        ({"model_max_budget": {"m": {"budget_limit": 1, "time_period": "d1"}}}, "model_max_budget"),
        ({"model_rpm_limit": {"m": -1}}, "model_rpm_limit"),
        ({"metadata": {"model_tpm_limit": {"m": -1}}}, "model_tpm_limit"),
        ({"tpm_limit": -1}, "tpm_limit"),
        ({"rpm_limit": 2**53}, "rpm_limit"),
        ({"max_parallel_requests": -5}, "max_parallel_requests"),
        ({"max_queue_wait": 0}, "max_queue_wait"),
        ({"max_queue_wait": 86_401}, "max_queue_wait"),
        ({"team_id": "no/slash"}, "team_id"),
        ({"team_id": "unknown"}, "team_id"),
        ({"budget_id": "unknown"}, "budget_id"),
        ({"user_id": "x" * 257}, "user_id"),
        ({"models": ["x" * 257]}, "models"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(it: Managed, fields: dict[str, Any], param: str) -> None:
    key = await it.key()

    await refused(it, await it.post("/key/generate", **fields), 400, param)
    await refused(it, await it.post("/key/update", key=key, **fields), 400, param)


@pytest.mark.parametrize("name", ["duration", "budget_duration", "rotation_interval"])
async def test_durations_must_parse(it: Managed, name: str) -> None:
    for value in ("soon", "0d", "-1d", "1.5h", "d", "30", "1y", "٣d", "101000000mo", "1d; DROP TABLE keys"):
        await refused(it, await it.post("/key/generate", **{name: value}), 400, name)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("no-sk-prefix-here", "Invalid key format. LiteLLM Virtual Key must start with 'sk-'. Received: no-s****here"),
        ("nothing", "Invalid key format. LiteLLM Virtual Key must start with 'sk-'. Received: ****"),
        ("sk-short", "Invalid key format. LiteLLM Virtual Key must be at least 16 characters long, and at most 256."),
        (
            "sk-" + "x" * 254,
            "Invalid key format. LiteLLM Virtual Key must be at least 16 characters long, and at most 256.",
        ),
        ("sk-with a space in it", "Invalid key format. A key has printable ASCII characters only, and no spaces."),
        ("sk-line\nbreak-in-it", "Invalid key format. A key has printable ASCII characters only, and no spaces."),
    ],
)
async def test_a_key_of_ones_own_choice_has_a_form(it: Managed, key: str, message: str) -> None:
    there = await it.key()

    made = await refused(it, await it.post("/key/generate", key=key), 400, "key")
    renewed = await refused(it, await it.post("/key/regenerate", key=there, new_key=key), 400, "new_key")

    assert made.error["message"] == renewed.error["message"] == message


async def test_a_key_of_ones_own_choice_is_taken_once_and_never_repeated(it: Managed) -> None:
    first = await it.post("/key/generate", key="sk-chosen-by-hand")
    second = await it.post("/key/generate", key="sk-chosen-by-hand")

    assert (first.status, second.status, second.error["param"]) == (200, 400, "key")
    assert b"chosen" not in second.body


async def test_aliases_are_unique(it: Managed) -> None:
    await it.key(alias="mine")
    other = await it.key(alias="other")

    exchanges = [
        await it.post("/key/generate", key_alias="mine"),
        await it.post("/key/update", key=other, key_alias="mine", tpm_limit=1),
        await it.post("/key/regenerate", key=other, key_alias="mine"),
    ]

    for exchange in exchanges:
        await refused(it, exchange, 400)
        assert exchange.error == {
            "message": "Key with alias 'mine' already exists. Unique key aliases across all keys are required.",
            "type": "bad_request_error", "param": "key_alias", "code": "400",
        }  # fmt: skip
    assert (await it.record(other)).fields == {}


@pytest.mark.parametrize("name", _STRINGS)
async def test_control_characters_get_into_no_name(it: Managed, name: str) -> None:
    for text in _CONTROLLED:
        await refused(it, await it.post("/key/generate", **{name: text}), 400, name)


@pytest.mark.parametrize("text", _INJECTIONS)
async def test_whatever_is_in_a_text_is_kept_as_it_is_or_refused(it: Managed, text: str) -> None:
    bodies: list[dict[str, Any]] = [
        {"models": [text]}, {"tags": [text]}, {"aliases": {text: text}}, {"metadata": {text: text}},
        {"permissions": {"a": [text]}}, {"allowed_routes": [text]}, {"model_rpm_limit": {text: 1}},
        {"budget_fallbacks": {"m": [text]}}, {"key_alias": text}, {"user_id": text},
    ]  # fmt: skip
    kept = 0

    for body in bodies:
        exchange = await it.post("/key/generate", **body)

        assert exchange.status in (200, 400), exchange.body
        assert "set-cookie" not in exchange.headers
        if exchange.status == 200:
            kept += 1
            info = (await it.get(f"/key/info?key={exchange.json['token']}")).json["info"]
            name, value = next(iter(body.items()))
            assert (info["metadata"][name] if name in ("tags", "model_rpm_limit") else info[name]) == value
        assert len(await it.audited()) == kept
    assert (await it.get("/key/list")).json["total_count"] == kept


@pytest.mark.parametrize(
    "path",
    ["/key/info?key=", "/key/list?search=", "/key/list?user_id=", "/key/list?key_hash=", "/key/list?key_alias=",
     "/key/aliases?search=", "/audit?changed_by=", "/audit?object_id=", "/audit?after=", "/audit/"],
)  # fmt: skip
async def test_queries_find_nothing_that_they_should_not(it: Managed, path: str) -> None:
    await it.key(alias="a")

    for text in ("%00", "'%20OR%201=1--", "%0d%0aset-cookie:%20a=b", "%F0%9F%98%80", "%25", "a%5Cb", "x" * 300):
        exchange = await it.get(path + text)

        assert exchange.status in (200, 400, 404)
        if exchange.status == 200:
            assert [] in (exchange.json.get("keys"), exchange.json.get("aliases"), exchange.json.get("audit_logs"))
        assert "set-cookie" not in exchange.headers


async def test_metadata_is_bounded(it: Managed) -> None:
    small, large = {"a": "x" * 65_000}, {"a": "x" * 66_000}
    huge = {"a": "x" * (10 * _MEGABYTE)}
    key = await it.key()

    await refused(it, await it.post("/key/generate", metadata=large), 400, "metadata")
    await refused(it, await it.post("/key/update", key=key, metadata=large), 400, "metadata")
    await refused(it, await it.post("/key/generate", metadata=huge), 413)
    await refused(it, await it.post("/key/update", key=key, metadata=huge), 413)
    await refused(it, await it.post("/key/generate", metadata=small, permissions=small), 400, "metadata")
    assert (await it.post("/key/generate", metadata=small)).status == 200


@pytest.mark.parametrize(
    "metadata",
    [b'{"a": NaN}', b'{"a": 1e999}', b'{"a": 123456789012345678901234567890}', b'{"a": "\\u0000"}', b'{"\\u0000": 1}',
     b'{"a": "\\ud800"}', b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"],
)  # fmt: skip
async def test_json_that_no_database_keeps_is_refused(it: Managed, metadata: bytes) -> None:
    await refused(it, await it.send("/key/generate", b'{"metadata": ' + metadata + b"}"), 400)


@pytest.mark.parametrize("path", ["/key/generate", "/key/update", "/key/delete", "/key/block", "/v2/key/info"])
async def test_a_body_must_be_json_and_an_object(it: Managed, path: str) -> None:
    for body in (b"{", b"\xff", b'{"a": }'):
        exchange = await refused(it, await it.send(path, body), 400, "request_body")
        assert exchange.error["type"] == "invalid_request_error"
    for body in (b"[]", b"7", b'"sk-text-of-a-key"'):
        exchange = await refused(it, await it.send(path, body), 422)
        assert exchange.json["detail"][0]["loc"] == ["body"]


async def test_wrong_types_are_listed_as_fastapi_lists_them_without_what_was_sent(it: Managed) -> None:
    exchange = await it.post("/key/generate", key=["sk-secret-text-of-a-key"], models="sk-secret-2", on_limit="maybe")

    await refused(it, exchange, 422)
    assert [(each["loc"], each["type"]) for each in exchange.json["detail"]] == [
        (["body", "models"], "list_type"),
        (["body", "on_limit"], "literal_error"),
        (["body", "key"], "string_type"),
    ]
    assert b"secret" not in exchange.body


@pytest.mark.parametrize("value", [[], {}, "", 7, True, [1], {"a": None}, "sk-secret-text-of-a-key", None, [[]], -1])
async def test_no_value_of_any_field_makes_the_server_fail(it: Managed, value: Any) -> None:
    made = 0

    for name in KeyFields.model_fields:
        exchange = await it.post("/key/generate", **{name: value})

        assert exchange.status in (200, 400, 422), (name, exchange.body)
        made += exchange.status == 200
        assert exchange.status == 200 or b"secret" not in exchange.body, (name, exchange.body)
        assert len(await it.audited()) == made


@pytest.mark.parametrize(
    "query", ["page=0", "size=0", "size=101", "page=x", "page=99999999999999999999", "return_full_object=perhaps"]
)
async def test_pages_have_bounds(it: Managed, query: str) -> None:
    exchange = await it.get(f"/key/list?{query}")

    assert exchange.status == 422
    assert exchange.json["detail"][0]["loc"] == ["query", query.partition("=")[0]]


@pytest.mark.parametrize("query", ["status=odd", "expires=odd", "sort_by=hash;DROP", "sort_by=spend&sort_order=odd"])
async def test_unknown_filters_are_refused(it: Managed, query: str) -> None:
    assert (await it.get(f"/key/list?{query}")).status == 400


async def test_a_service_account_keeps_its_name(it: Managed) -> None:
    await it.team("t")
    made = (await it.post("/key/service-account/generate", team_id="t", key_alias="robot")).json

    renamed = await it.post("/key/update", key=made["key"], metadata={"service_account_id": "other"})
    cleared = (await it.post("/key/update", key=made["key"], metadata={})).json

    assert renamed.status == 400
    assert cleared["metadata"] == {"service_account_id": "robot"}
