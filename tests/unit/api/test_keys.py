"""Virtual keys over HTTP, in LiteLLM's shapes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.fakes.api import Api, api
from tests.fakes.asgi import Exchange


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path) as running:
        yield running


async def post(it: Api, path: str, by: str | None = None, **fields: Any) -> Exchange:
    headers = None if by is None else bearer(by)
    return await it.ask("POST", path, headers, orjson.dumps(fields))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_a_key_is_shown_once_and_kept_as_a_hash(it: Api) -> None:
    made = (await post(it, "/key/generate", team_id="t", user_id="u", key_alias="mine", duration="30d")).json

    assert made["key"].startswith("sk-")
    assert made["key_name"] == f"sk-...{made['key'][-4:]}"
    record = await it.backends.store.keys.get(made["token"])
    assert record is not None
    assert (record.team, record.user, record.alias) == ("t", "u", "mine")
    assert record.expires_at == pytest.approx(record.created_at + 30 * 86_400)
    assert made["key"] not in repr(record)


async def test_a_virtual_key_opens_the_door_for_its_team_and_user(it: Api) -> None:
    key = (await post(it, "/key/generate", team_id="t", user_id="u", max_queue_wait=5)).json["key"]

    exchange = it.chat(headers=bearer(key))
    job = await it.next_job()
    await it.completed(job, body=b"{}")

    assert (await exchange.finished()).status == 200
    assert (job.team, job.user, job.tenant) == ("t", "u", "t")
    assert job.start_by == pytest.approx(job.accepted_at + 5)


async def test_a_deleted_key_is_unknown_at_once(it: Api) -> None:
    made = (await post(it, "/key/generate")).json
    assert (await it.ask("GET", "/v1/models", bearer(made["key"]))).status == 200

    deleted = await post(it, "/key/delete", keys=[made["key"], "sk-never-was-there"])

    assert deleted.json == {"deleted_keys": [made["key"]]}
    assert (await it.ask("GET", "/v1/models", bearer(made["key"]))).status == 401
    assert (await post(it, "/key/delete", keys=[made["key"]])).status == 404


async def test_a_key_may_ask_about_itself_and_about_no_other(it: Api) -> None:
    mine, other = [(await post(it, "/key/generate", user_id=name)).json for name in ("a", "b")]

    own = await it.ask("GET", "/key/info", bearer(mine["key"]))
    foreign = await it.ask("GET", f"/key/info?key={other['token']}", bearer(mine["key"]))
    as_admin = await it.ask("GET", f"/key/info?key={other['key']}")

    assert own.json["info"]["user_id"] == "a"
    assert foreign.status == 403
    assert as_admin.json["info"]["user_id"] == "b"
    assert (await it.ask("GET", "/key/info?key=sk-unknown-key")).status == 404


@pytest.mark.parametrize("path", ["/key/generate", "/key/delete"])
async def test_only_the_master_key_manages_keys(it: Api, path: str) -> None:
    key = (await post(it, "/key/generate")).json["key"]

    assert (await post(it, path, key, keys=["sk-x"])).status == 403
    assert (await it.ask("POST", path, {})).status == 401


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"duration": "soon"}, "duration"),
        ({"duration": "0d"}, "duration"),
        ({"max_queue_wait": 0}, "max_queue_wait"),
        ({"key": "no-sk-prefix-here"}, "key"),
        ({"key": "sk-short"}, "key"),
        ({"metadata": {"a": "x" * 20_000}}, "metadata"),
        ({"team_id": 7}, "team_id"),
    ],
)
async def test_what_cannot_be_a_key_is_refused_by_name(it: Api, fields: dict[str, Any], param: str) -> None:
    refused = await post(it, "/key/generate", **fields)

    assert (refused.status, refused.error["param"]) == (400, param)


async def test_a_key_of_ones_own_choice_is_taken_once(it: Api) -> None:
    first = await post(it, "/key/generate", key="sk-chosen-by-hand")
    second = await post(it, "/key/generate", key="sk-chosen-by-hand")

    assert (first.status, second.status) == (200, 400)
    assert "chosen" not in second.error["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"7"])
async def test_a_body_that_is_no_object_is_refused(it: Api, body: bytes) -> None:
    assert (await it.ask("POST", "/key/generate", None, body)).status == 400
