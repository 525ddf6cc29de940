"""A model added on one api is served by every process a moment later, without a restart."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml

from tests.e2e.deployment import MASTER_KEY, Headrace, Servers, deployed
from tests.fakes.upstream import ANSWER, FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOON = 15.0  # seconds; far less than the 30 s between looks that nobody asked for
SECRET = "sk-upstream-secret-7"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    upstream: FakeUpstream, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Headrace]:
    """Two apis where processes share servers; the config has one model of one provider."""
    folder = tmp_path_factory.mktemp("models")
    params = {"model": "openai/gpt-4o", "api_base": f"{upstream.url}/v1", "api_key": "sk-of-the-config"}
    config = {
        "model_list": [{"model_name": "configured", "litellm_params": params, "model_info": {"id": "configured"}}],
        "general_settings": {"store_model_in_db": True},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    extra = {"HEADRACE_SALT_KEY": "sk-salt"}
    async with deployed(path, servers, folder, apis=2 if servers.distributed else 1, extra=extra) as it:
        yield it


@pytest_asyncio.fixture(loop_scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {MASTER_KEY}"}) as it:
        yield it


class Client:
    """Of one api."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self.session = session
        self.address = f"http://127.0.0.1:{port}"

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self.session.request(method, self.address + path, json=body) as response:
            return response.status, await response.json()

    async def add(self, upstream: FakeUpstream, id: str, provider: str, **params: Any) -> None:
        """The model `stored-<id>`."""
        params = {"model": f"{provider}/m", "api_base": f"{upstream.url}/v1", "api_key": SECRET, **params}
        body = {"model_name": f"stored-{id}", "litellm_params": params, "model_info": {"id": id}}
        status, answer = await self.call("POST", "/model/new", body)
        assert status == 200, answer

    async def chat(self, model: str) -> tuple[int, Any]:
        return await self.call(
            "POST", "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        )

    async def chat_until(self, model: str, status: int) -> Any:
        """The first answer with this status, which must come soon."""
        deadline = time.monotonic() + SOON
        while True:
            got, answer = await self.chat(model)
            if got == status:
                return answer
            assert time.monotonic() < deadline, (got, answer)
            await asyncio.sleep(0.05)


def first_and_last(running: Headrace, session: aiohttp.ClientSession) -> tuple[Client, Client]:
    return Client(session, running.ports[0]), Client(session, running.ports[-1])


async def test_a_model_of_a_new_provider_is_served_through_another_api(
    running: Headrace, session: aiohttp.ClientSession, upstream: FakeUpstream
) -> None:
    one, other = first_and_last(running, session)

    await one.add(upstream, "new", "groq")

    answer = await other.chat_until("stored-new", 200)
    assert answer["choices"][0]["message"]["content"] == ANSWER


async def test_it_is_served_at_once_through_the_api_that_added_it(
    running: Headrace, session: aiohttp.ClientSession, upstream: FakeUpstream
) -> None:
    one, _ = first_and_last(running, session)

    await one.add(upstream, "at-once", "deepseek")

    status, answer = await one.chat("stored-at-once")
    assert status == 200, answer


async def test_a_changed_model_is_used_as_it_is_now(
    running: Headrace, session: aiohttp.ClientSession, upstream: FakeUpstream
) -> None:
    one, other = first_and_last(running, session)
    await one.add(upstream, "changed", "openai", api_base="http://127.0.0.1:1/v1", num_retries=0)

    status, answer = await one.call(
        "PATCH", "/model/changed/update", {"litellm_params": {"api_base": f"{upstream.url}/v1"}}
    )

    assert status == 200, answer
    await other.chat_until("stored-changed", 200)


async def test_a_deleted_model_is_gone_everywhere(
    running: Headrace, session: aiohttp.ClientSession, upstream: FakeUpstream
) -> None:
    one, other = first_and_last(running, session)
    await one.add(upstream, "doomed", "openai")
    await other.chat_until("stored-doomed", 200)

    status, _ = await one.call("POST", "/model/delete", {"id": "doomed"})

    assert status == 200
    await other.chat_until("stored-doomed", 400)
    assert (await one.chat("configured"))[0] == 200


async def test_a_process_that_starts_later_has_the_models(
    running: Headrace, session: aiohttp.ClientSession, upstream: FakeUpstream
) -> None:
    one, _ = first_and_last(running, session)
    await one.add(upstream, "earlier", "openai")

    if running.servers.distributed:
        await running.start_api()
        late = Client(session, running.ports[-1])
    else:
        await running.apis[0].stop()
        await running.apis[0].start()
        await running.apis[0].ready()
        late = one

    status, answer = await late.chat("stored-earlier")
    assert status == 200, answer


async def test_models_are_shown_everywhere_and_their_secrets_nowhere(
    running: Headrace, session: aiohttp.ClientSession, upstream: FakeUpstream, tmp_path: Path
) -> None:
    one, other = first_and_last(running, session)
    await one.add(upstream, "shown", "openai")
    await other.chat_until("stored-shown", 200)

    _, listed = await other.call("GET", "/v1/models")
    _, told = await other.call("GET", "/v1/model/info?litellm_model_id=shown")

    assert {"configured", "stored-shown"} <= {each["id"] for each in listed["data"]}
    assert told["data"][0]["model_info"]["db_model"] is True
    assert SECRET not in str(told)
    logs = [each.log.read_text(errors="replace") for each in (*running.apis, *running.workers)]
    assert not any(SECRET in text for text in logs)
