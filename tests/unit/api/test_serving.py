"""What may be served where, and what a process says of itself."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from api import serving, startup
from shared.catalog import Catalog, Deployment
from shared.config import build
from shared.config_files import Document
from shared.errors import ConfigError, NotAuthenticated
from shared.settings import Settings
from tests.fakes.api import api


def settings(**fields: object) -> Settings:
    empty = {"master_key": None, "rabbitmq_url": None, "redis_url_given": None, "redis_host": None}
    return Settings(_env_file=None, **{**empty, **fields})  # type: ignore[arg-type]


def catalog() -> Catalog:
    return Catalog([Deployment("a", "chat", "openai", "m"), Deployment("b", "chat", "gemini", "m")])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_an_open_broker_may_listen_on_loopback(host: str) -> None:
    startup.require_key_unless_loopback(settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "10.0.0.1", "example.com", "", "localhost.evil.com"])
def test_an_open_broker_may_not_listen_where_others_can_reach_it(host: str) -> None:
    with pytest.raises(ConfigError, match="HEADRACE_MASTER_KEY"):
        startup.require_key_unless_loopback(settings(host=host))


def test_with_a_key_it_may_listen_anywhere() -> None:
    startup.require_key_unless_loopback(settings(host="0.0.0.0", master_key=SecretStr("sk-1")))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "RABBITMQ_URL and REDIS_URL"),
        ({"rabbitmq_url": SecretStr("amqp://x")}, "REDIS_URL"),
        ({"redis_url_given": SecretStr("redis://x")}, "RABBITMQ_URL"),
    ],
)
@pytest.mark.parametrize("workers", [1, 4])
def test_several_processes_need_servers_between_them(given: dict[str, object], named: str, workers: int) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        startup.require_shared_seams(settings(**given), workers)

    assert ("--workers 4" in str(caught.value)) == (workers == 4)


def test_several_processes_with_servers_between_them_are_fine() -> None:
    urls = {"rabbitmq_url": SecretStr("amqp://x"), "redis_url_given": SecretStr("redis://x")}

    startup.require_shared_seams(settings(**urls), 4)


@pytest.mark.parametrize(
    ("asked", "served"), [(["openai"], ["openai"]), (["openai", "gemini", "openai"], ["openai", "gemini"])]
)
def test_a_worker_serves_the_providers_that_it_is_asked_to(asked: list[str], served: list[str]) -> None:
    assert startup.known_providers(asked, catalog(), settings()) == served


def test_a_worker_cannot_serve_what_the_config_does_not_use() -> None:
    with pytest.raises(ConfigError, match=r"mistral.*gemini, openai"):
        startup.known_providers(["mistral"], catalog(), settings())


def test_the_greeting_shows_a_call_that_works_and_no_key() -> None:
    greeting = serving._greeting(settings(host="::1", master_key=SecretStr("sk-secret")), catalog())

    assert "http://[::1]:{port}/v1/chat/completions" in greeting
    assert '"model": "chat"' in greeting
    assert "$HEADRACE_MASTER_KEY" in greeting
    assert "secret" not in greeting


# Pages beside chat


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/v1/models/chat",
        "/model/info",
        "/v1/queues",
        "/spend/logs",
        "/global/spend",
        "/metrics",
        "/health",
    ],
)
async def test_what_costs_or_tells_something_needs_a_key(tmp_path: Path, path: str) -> None:
    async with api(tmp_path) as it:
        exchange = await it.ask("GET", path, headers={})

    assert (exchange.status, exchange.error["type"]) == (401, "auth_error")
    assert NotAuthenticated.code


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/chat", "/model/info", "/v1/queues", "/spend/logs", "/global/spend", "/metrics"]
)
async def test_with_the_key_each_page_answers(tmp_path: Path, path: str) -> None:
    async with api(tmp_path) as it:
        exchange = await it.ask("GET", path)

    assert exchange.status == 200
    assert b"sk-upstream-secret" not in exchange.body


@pytest.mark.parametrize("path", ["/health/liveliness", "/health/liveness", "/health/readiness"])
async def test_probes_need_no_key(tmp_path: Path, path: str) -> None:
    async with api(tmp_path) as it:
        exchange = await it.ask("GET", path, headers={})

    assert exchange.status == 200


async def test_an_unknown_model_is_a_404_on_its_own_page(tmp_path: Path) -> None:
    async with api(tmp_path) as it:
        exchange = await it.ask("GET", "/v1/models/nope")

    assert (exchange.status, exchange.error["param"]) == (404, "model")


async def test_the_queues_page_tells_each_lane(tmp_path: Path) -> None:
    async with api(tmp_path) as it:
        exchange = await it.ask("GET", "/v1/queues")

    assert {each["id"] for each in exchange.json["data"]} == {"openai.interactive", "openai.batch"}


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("start_date=2026-01-01", 200),
        ("start_date=2026-01-01&end_date=2026-01-02", 200),
        ("start_date=yesterday", 400),
        ("limit=0", 422),
    ],
)
async def test_the_spend_page_checks_its_dates(tmp_path: Path, query: str, status: int) -> None:
    async with api(tmp_path) as it:
        exchange = await it.ask("GET", f"/spend/logs?{query}")

    assert exchange.status == status


async def test_models_of_the_database_need_a_key_for_their_secrets() -> None:
    loaded = startup.Loaded(build([Document("config.yaml", {})], {}), catalog())

    with pytest.raises(ConfigError, match="HEADRACE_SALT_KEY"):
        async with startup.living(None, loaded, settings(store_model_in_db=True)):  # type: ignore[arg-type]
            pass


async def test_without_models_of_the_database_nothing_follows_it() -> None:
    loaded = startup.Loaded(build([Document("config.yaml", {})], {}), catalog())

    async with startup.living(None, loaded, settings()) as live:  # type: ignore[arg-type]  # it needs no backends
        assert live is None


def test_a_worker_may_be_asked_for_a_provider_that_only_the_database_may_have() -> None:
    assert startup.known_providers(["groq"], catalog(), settings(store_model_in_db=True)) == ["groq"]
