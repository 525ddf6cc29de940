"""Models in the database over HTTP: LiteLLM's shapes and refusals, and no secret ever comes back."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.types import ASGIApp

from api.app import asgi, create_app
from broker.accounts.memory import MemoryAccounts
from broker.backends import Backends
from broker.events.memory import MemoryEventLog
from broker.limits.memory import MemoryLimiter
from broker.live_catalog import MODELS, LiveCatalog
from broker.queues.memory import MemoryQueue
from broker.store import database
from shared.catalog import Catalog
from shared.catalog_builder import build_catalog
from shared.clock import SystemClock
from shared.config import build
from shared.config_files import Document
from shared.secrets import Sealer, seems_sealed
from shared.settings import Settings
from tests.fakes import asgi as client
from tests.fakes.api import AUTHORIZED, KEY
from tests.fakes.asgi import Exchange
from tests.fakes.directory import FakeStore
from tests.fakes.schema import make_schema

SECRET = "sk-upstream-secret"
PARAMS = {"model": "groq/llama", "api_key": SECRET, "rpm": 60, "temperature": 0.5, "extra_headers": {"x-token": SECRET}}
NEW = {"model_name": "llama", "litellm_params": PARAMS, "model_info": {"id": "one", "team": "research"}}


@dataclass
class Api:
    app: ASGIApp
    store: FakeStore
    catalog: Catalog
    announced: list[str]

    async def post(self, path: str, body: Any, headers: dict[str, str] | None = None, method: str = "POST") -> Exchange:
        return await client.ask(self.app, method, path, orjson.dumps(body), headers or AUTHORIZED)

    async def get(self, path: str) -> Any:
        return (await client.ask(self.app, "GET", path, b"", AUTHORIZED)).json

    @property
    def kept(self) -> bytes:
        """All that the directory and its audit have."""
        return orjson.dumps([*self.store.directory.rows.values(), *self.store.audited])


@pytest.fixture(params=[True])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Api]:
    """`indirect` False: models come from the config alone."""
    written = {
        "model_name": "chat",
        "litellm_params": {"model": "openai/gpt", "api_key": "k"},
        "model_info": {"id": "c"},
    }
    config = build([Document("config.yaml", {"model_list": [written]})], {})
    catalog = build_catalog(config)
    settings = Settings(_env_file=None, master_key=KEY, disable_logging=True)  # type: ignore[call-arg]
    announced: list[str] = []
    async with (
        MemoryQueue(10) as queue,
        MemoryEventLog() as log,
        database.connect(f"sqlite:///{tmp_path}/ledger.db") as real,
    ):
        await make_schema(real)
        store, clock = FakeStore(real), SystemClock()
        log.on_change(announced.append)
        live = LiveCatalog(catalog, config, store.directory, log, Sealer("salt"), queue.declare)
        backends = Backends(queue, log, MemoryLimiter(clock), store, MemoryAccounts(clock))
        app = create_app(backends, catalog, settings, live=live if request.param else None)
        yield Api(asgi(app), store, catalog, announced)


async def test_a_new_model_is_served_and_announced(api: Api) -> None:
    answer = await api.post("/model/new", NEW)

    assert answer.status == 200, answer.body
    [deployment] = api.catalog.group("llama")
    assert (deployment.id, deployment.provider, deployment.api_key, deployment.rpm) == ("one", "groq", SECRET, 60)
    assert api.announced == [MODELS]


async def test_the_row_is_told_without_its_secrets(api: Api) -> None:
    row = (await api.post("/model/new", NEW)).json

    assert row["model_id"] == row["model_info"]["id"] == "one"
    assert row["model_name"] == "llama"
    assert row["litellm_params"] == {"model": "groq/llama", "rpm": 60, "temperature": 0.5}
    assert row["model_info"] == {"id": "one", "team": "research", "db_model": True}
    assert row["created_at"] == row["updated_at"]


async def test_a_model_gets_an_id_if_it_has_none(api: Api) -> None:
    row = (await api.post("/model/new", {**NEW, "model_info": {}})).json

    assert len(row["model_id"]) == 36
    assert api.catalog.known([row["model_id"]])


async def test_no_secret_is_kept_in_plain_text(api: Api) -> None:
    await api.post("/model/new", NEW)
    await api.post("/model/update", {"model_info": {"id": "one"}, "litellm_params": {"api_key": SECRET + "2"}})

    assert SECRET.encode() not in api.kept
    [entry] = api.store.directory.rows.values()
    params = entry.fields["litellm_params"]
    assert all(seems_sealed(params[name]) for name in ("model", "api_key"))


@pytest.mark.parametrize("path", ["/model/info", "/v1/model/info", "/model/info?litellm_model_id=one"])
async def test_models_of_the_database_are_shown_as_such(api: Api, path: str) -> None:
    await api.post("/model/new", NEW)

    shown = {each["model_info"]["id"]: each for each in (await api.get(path))["data"]}

    assert shown["one"]["model_info"]["db_model"] is True
    assert shown["one"]["litellm_params"]["model"] == "groq/llama"
    assert SECRET.encode() not in orjson.dumps(shown)
    assert all(each["model_info"]["db_model"] is False for id, each in shown.items() if id != "one")


async def test_models_of_the_database_are_listed(api: Api) -> None:
    await api.post("/model/new", NEW)

    assert [each["id"] for each in (await api.get("/v1/models"))["data"]] == ["chat", "llama"]


async def test_a_key_is_shown_the_models_alone_that_it_may_call(api: Api) -> None:
    await api.post("/model/new", NEW)
    made = await api.post("/key/generate", {"models": ["llama"]})
    caller = {"authorization": f"Bearer {made.json['key']}"}

    shown = await api.post("/model/info", None, caller, "GET")
    hidden = await api.post("/model/info?litellm_model_id=c", None, caller, "GET")

    assert [each["model_name"] for each in shown.json["data"]] == ["llama"]
    assert hidden.status == 400


@pytest.mark.parametrize(
    ("method", "path", "named"), [("POST", "/model/update", {"id": "one"}), ("PATCH", "/model/one/update", {})]
)
async def test_an_update_changes_what_it_names_and_nothing_else(
    api: Api, method: str, path: str, named: dict[str, str]
) -> None:
    await api.post("/model/new", NEW)
    change = {"litellm_params": {"rpm": 7, "temperature": None}, "model_info": {**named, "tier": "free"}}

    answer = await api.post(path, change, method=method)

    assert answer.status == 200, answer.body
    assert answer.json["litellm_params"] == {"model": "groq/llama", "rpm": 7}
    assert answer.json["model_info"] == {"id": "one", "team": "research", "tier": "free", "db_model": True}
    [deployment] = api.catalog.group("llama")
    assert (deployment.rpm, deployment.api_key, deployment.params) == (7, SECRET, {})


async def test_a_model_may_be_renamed(api: Api) -> None:
    await api.post("/model/new", NEW)

    await api.post("/model/one/update", {"model_name": "renamed"}, method="PATCH")

    assert api.catalog.models() == ["chat", "renamed"]


async def test_a_deleted_model_is_gone(api: Api) -> None:
    await api.post("/model/new", NEW)

    answer = await api.post("/model/delete", {"id": "one"})

    assert (answer.status, answer.json) == (200, {"message": "Model: one deleted successfully"})
    assert api.catalog.models() == ["chat"]
    assert api.announced == [MODELS, MODELS]


async def test_every_change_is_in_the_audit(api: Api) -> None:
    await api.post("/model/new", NEW)
    await api.post("/model/one/update", {"model_name": "renamed"}, {**AUTHORIZED, "litellm-changed-by": "eve"}, "PATCH")
    await api.post("/model/delete", {"id": "one"})

    assert [(each.action, each.table, each.subject) for each in api.store.audited] == [
        ("created", "model", "one"),
        ("updated", "model", "one"),
        ("deleted", "model", "one"),
    ]
    assert api.store.audited[1].actor.id == "eve"


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("/model/new", {**NEW, "litellm_params": {"model": "nobody/x"}}, 400, "unknown provider 'nobody'"),
        ("/model/new", {**NEW, "litellm_params": {"model": "groq/x"}}, 400, "no key for Groq"),
        ("/model/new", {**NEW, "litellm_params": {**PARAMS, "rpm": -1}}, 400, "litellm_params.rpm"),
        ("/model/new", {**NEW, "litellm_params": {}}, 400, "litellm_params.model"),
        ("/model/new", {**NEW, "model_info": {"id": "c"}}, 400, "also the id of model_list[0]"),
        ("/model/new", {**NEW, "model_info": {"id": "there"}}, 400, "id=there is in the database already"),
        ("/model/new", {**NEW, "model_info": {"id": 7}}, 400, "model_info.id"),
        ("/model/new", {**NEW, "model_info": {"id": "a\nb"}}, 400, "model_info.id"),
        ("/model/new", {**NEW, "model_name": "x" * 300}, 400, "model_name"),
        ("/model/new", {**NEW, "litellm_params": {**PARAMS, "stop": ["x" * 70_000]}}, 400, "too large"),
        ("/model/new", {"model_name": "x"}, 422, "litellm_params"),
        ("/model/new", [], 422, "detail"),
        ("/model/update", {"litellm_params": {"rpm": 1}}, 400, "model_info.id is required"),
        ("/model/update", {"model_info": {"id": "c"}}, 400, "Cannot edit config-based model."),
        ("/model/update", {"model_info": {"id": "nowhere"}}, 404, "Model nowhere not found"),
        ("/model/update", {"model_info": {"id": "there"}, "litellm_params": {"model": "nobody/x"}}, 400, "nobody"),
        ("/model/delete", {"id": "nowhere"}, 400, "Model with id=nowhere not found in db"),
        ("/model/delete", {"id": "c"}, 400, "Model with id=c not found in db"),
        ("/model/delete", {}, 422, "id"),
    ],
)
async def test_what_cannot_be_is_refused_and_nothing_is_written(
    api: Api, path: str, body: Any, status: int, told: str
) -> None:
    await api.post("/model/new", {**NEW, "model_info": {"id": "there"}})
    before = api.kept

    answer = await api.post(path, body)

    assert answer.status == status, answer.body
    assert told in answer.body.decode()
    assert SECRET not in answer.body.decode()
    assert api.kept == before


@pytest.mark.parametrize("path", ["/model/new", "/model/update", "/model/delete"])
async def test_only_an_administrator_manages_models(api: Api, path: str) -> None:
    made = await api.post("/key/generate", {})
    assert made.status == 200, made.body

    answer = await api.post(path, NEW, {"authorization": f"Bearer {made.json['key']}"})

    assert answer.status == 403


@pytest.mark.parametrize("api", [False], indirect=True)
@pytest.mark.parametrize("path", ["/model/new", "/model/update", "/model/delete"])
async def test_models_are_managed_only_where_the_database_may_have_them(api: Api, path: str) -> None:
    answer = await api.post(path, NEW)

    assert answer.status == 400
    assert "STORE_MODEL_IN_DB" in answer.error["message"]
