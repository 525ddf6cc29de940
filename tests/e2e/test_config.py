"""A LiteLLM proxy's config file, unchanged, with every line honoured; and what an operator may look at."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from tests.e2e.deployment import Headrace, Servers, deployed
from tests.fakes.upstream import ANSWER, FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = """\
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
  database_url: os.environ/DATABASE_URL
  disable_logging: false
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: gpt-4o
      api_key: os.environ/OPENAI_API_KEY
      timeout: 60
  - model_name: claude-3-5-sonnet
    litellm_params:
      model: claude-3-5-sonnet-20240620
      api_key: os.environ/ANTHROPIC_API_KEY
      headers: {anthropic-beta: 'prompt-caching-2024-07-31'}
  - model_name: gemini-pro
    litellm_params:
      model: gemini/gemini-1.5-pro
      api_key: os.environ/GEMINI_API_KEY
      safety_settings: [{category: HARM_CATEGORY_HARASSMENT, threshold: BLOCK_NONE}]
  - model_name: best-model
    litellm_params: {model: gpt-4o}
"""
MASTER = "sk-litellm-master-0123456789"
SECRETS = {
    "OPENAI_API_KEY": "sk-openai-0123456789abcdef",
    "ANTHROPIC_API_KEY": "sk-ant-0123456789abcdef",
    "GEMINI_API_KEY": "AIza0123456789abcdefghij",
}
QUESTION = [{"role": "user", "content": "What is a headrace?"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def headrace(
    upstream: FakeUpstream, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Headrace]:
    folder = tmp_path_factory.mktemp("headrace")
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    environment = SECRETS | {
        "HEADRACE_MASTER_KEY": "",
        "LITELLM_MASTER_KEY": MASTER,
        "DATABASE_URL": servers.database or f"sqlite:///{folder}/ledger.db",
        "OPENAI_API_BASE": f"{upstream.url}/v1",
        "ANTHROPIC_API_BASE": upstream.url,
        "GEMINI_API_BASE": f"{upstream.url}/v1beta",
    }
    async with deployed(config, servers, folder, extra=environment) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(headrace: Headrace, upstream: FakeUpstream) -> AsyncIterator[openai.AsyncOpenAI]:
    upstream.reset()
    async with openai.AsyncOpenAI(base_url=f"{headrace.url}/v1", api_key=MASTER, max_retries=0) as it:
        yield it


@pytest.mark.parametrize(
    ("model", "upstream_model", "key"),
    [
        ("gpt-4o", "gpt-4o", "OPENAI_API_KEY"),
        ("best-model", "gpt-4o", "OPENAI_API_KEY"),
        ("claude-3-5-sonnet", "claude-3-5-sonnet-20240620", "ANTHROPIC_API_KEY"),
        ("gemini-pro", "gemini-1.5-pro", "GEMINI_API_KEY"),
    ],
)
async def test_each_model_goes_to_its_provider_with_its_key(
    client: openai.AsyncOpenAI, upstream: FakeUpstream, model: str, upstream_model: str, key: str
) -> None:
    answer = await client.chat.completions.create(model=model, messages=QUESTION)

    [attempt] = upstream.requests
    assert answer.choices[0].message.content == ANSWER
    assert attempt.model == upstream_model
    assert attempt.key == SECRETS[key]


async def test_headers_of_the_config_arrive(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    await client.chat.completions.create(model="claude-3-5-sonnet", messages=QUESTION)

    assert "prompt-caching-2024-07-31" in upstream.requests[0].headers["anthropic-beta"]


async def test_safety_settings_of_the_config_arrive(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    await client.chat.completions.create(model="gemini-pro", messages=QUESTION)

    body = upstream.requests[0].body
    expected = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    assert (body.get("safetySettings") or body.get("safety_settings")) == expected


@pytest.mark.parametrize("key", ["", "sk-some-other-key-000000"])
async def test_the_master_key_is_needed(headrace: Headrace, key: str) -> None:
    async with _session(key) as session, session.get(f"{headrace.url}/v1/models") as answer:
        assert answer.status == 401


async def test_the_database_of_the_config_keeps_the_ledger(client: openai.AsyncOpenAI, headrace: Headrace) -> None:
    await client.chat.completions.create(model="gpt-4o", messages=QUESTION)

    async with asyncio.timeout(60):
        while not await _json(headrace, "/spend/logs"):
            await asyncio.sleep(0.05)
    if not headrace.servers.distributed:
        assert (headrace.folder / "ledger.db").exists()
        assert not (headrace.folder / "headrace.db").exists()


async def test_the_models_are_those_of_the_config(headrace: Headrace) -> None:
    listed = await _json(headrace, "/v1/models")
    info = await _json(headrace, "/model/info")

    names = ["gpt-4o", "claude-3-5-sonnet", "gemini-pro", "best-model"]
    assert [each["id"] for each in listed["data"]] == names
    assert [each["model_name"] for each in info["data"]] == names
    assert info["data"][0]["litellm_params"]["timeout"] == 60


@pytest.mark.parametrize("path", ["/model/info", "/v1/models", "/health", "/metrics", "/v1/queues", "/spend/logs"])
async def test_no_page_shows_a_secret(headrace: Headrace, path: str) -> None:
    async with _session(MASTER) as session, session.get(f"{headrace.url}{path}") as answer:
        page = await answer.text()

    assert answer.status == 200
    assert [name for name, secret in SECRETS.items() if secret in page] == []
    assert MASTER not in page


@pytest.mark.parametrize(
    "path", ["/health/liveliness", "/health/liveness", "/health/readiness", "/docs", "/openapi.json"]
)
async def test_some_pages_are_open_to_all(headrace: Headrace, path: str) -> None:
    async with _session("") as session, session.get(f"{headrace.url}{path}") as answer:
        assert answer.status == 200


@pytest.mark.parametrize("path", ["/metrics", "/model/info", "/v1/queues", "/spend/logs", "/global/spend", "/health"])
async def test_the_others_are_not(headrace: Headrace, path: str) -> None:
    async with _session("") as session, session.get(f"{headrace.url}{path}") as answer:
        assert answer.status == 401


async def test_readiness_names_every_server(headrace: Headrace) -> None:
    state = await _json(headrace, "/health/readiness")

    assert state["status"] == "healthy"
    assert {state[name] for name in ("queue", "events", "limits", "db")} == {"connected"}


async def test_health_asks_every_model(headrace: Headrace, upstream: FakeUpstream) -> None:
    upstream.reset()

    state = await _json(headrace, "/health")

    assert (state["healthy_count"], state["unhealthy_count"]) == (4, 0)
    assert len(upstream.requests) == 4


async def test_metrics_count_what_happened(client: openai.AsyncOpenAI, headrace: Headrace) -> None:
    await client.chat.completions.create(model="gpt-4o", messages=QUESTION)

    async with _session(MASTER) as session, asyncio.timeout(60):
        page = ""
        while "litellm_in_flight_requests 1.0" not in page:  # an answer's last byte comes before its end is counted
            async with session.get(f"{headrace.url}/metrics") as answer:
                page = await answer.text()

    assert answer.content_type == "text/plain"


async def test_the_documentation_lists_the_routes(headrace: Headrace) -> None:
    paths = (await _json(headrace, "/openapi.json"))["paths"]

    assert {"/v1/chat/completions", "/v1/models", "/v1/queues", "/spend/logs", "/health/readiness"} <= set(paths)


def _session(key: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"} if key else {})


async def _json(headrace: Headrace, path: str) -> Any:
    async with _session(MASTER) as session, session.get(f"{headrace.url}{path}") as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()
