"""One Headrace in each profile for a whole module, in front of one fake of every provider."""

from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
import pytest_asyncio
import yaml

from tests.e2e.deployment import MASTER_KEY, Headrace, Servers, deployed
from tests.fakes.upstream import FakeUpstream
from tests.e2e.servers import real_servers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["embedded", "distributed"])
async def servers(request: pytest.FixtureRequest, worker_number: int) -> AsyncIterator[Servers]:
    if request.param == "embedded":
        yield Servers()
        return
    async with real_servers(worker_number) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def headrace(
    upstream: FakeUpstream, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Headrace]:
    folder = tmp_path_factory.mktemp("headrace")
    config = write_config(folder, upstream)
    async with deployed(config, servers, folder, extra={"HEADRACE_KEEPALIVE_SECONDS": "0.5"}) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(headrace: Headrace, upstream: FakeUpstream) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client, as a user would make it."""
    upstream.reset()
    async with openai.AsyncOpenAI(base_url=f"{headrace.url}/v1", api_key=MASTER_KEY, max_retries=0) as it:
        yield it


def write_config(folder: Path, upstream: FakeUpstream) -> Path:
    openai_base = f"{upstream.url}/v1"
    vendors = ("groq", "deepseek", "together_ai", "fireworks_ai", "openrouter", "xai", "hosted_vllm")
    models = [
        _model("gpt", "openai/gpt-4o", openai_base),
        _model("claude", "anthropic/claude-sonnet-4-5", upstream.url),
        _model("gemini", "gemini/gemini-2.5-flash", f"{upstream.url}/v1beta"),
        _model("mistral", "mistral/mistral-large-latest", openai_base),
        *(_model(name, f"{name}/some-model", openai_base) for name in vendors),
        _model("fault/*", "openai/*", openai_base, timeout=4, stream_timeout=1.5),
        _model("claude-fault/*", "anthropic/*", upstream.url, timeout=4, stream_timeout=1.5),
        _model("rescued/*", "openai/*", openai_base, timeout=4, stream_timeout=1.5),
        _model("fallback", "openai/fb-ok", openai_base),
        _model("limited", "openai/limited", openai_base, rpm=60),
        _model("one-at-a-time", "openai/narrow", openai_base, max_parallel_requests=1),
        _model("priced", "openai/priced", openai_base, input_cost_per_token=1e-6, output_cost_per_token=2e-6),
        _model("two-keys", "openai/two-keys", openai_base, api_key="sk-dead"),
        _model("two-keys", "openai/two-keys", openai_base, api_key="sk-alive"),
        {"model_name": "simulated", "litellm_params": {"model": "simulated/echo"}},
    ]
    settings = {
        "model_list": models,
        "router_settings": {
            "num_retries": 2,
            "default_fallbacks": [],
            "fallbacks": [{f"rescued/fb-{fault}": ["fallback"]} for fault in _RESCUED],
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


_RESCUED = ["s01", "s02", "s03", "s04", "s05", "s06", "s07", "s12", "s13", "s16", "f01-a", "f01-d", "f14-a", "f07"]


def _model(name: str, model: str, base: str, **params: object) -> dict[str, object]:
    given = {"model": model, "api_key": "sk-upstream-key", "api_base": base, **params}
    return {"model_name": name, "litellm_params": given}
