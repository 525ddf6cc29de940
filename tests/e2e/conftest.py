"""One Headrace in each profile for a whole module, in front of one fake of every provider."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest
import pytest_asyncio
import yaml

from tests.e2e import deployment
from tests.e2e.deployment import MASTER_KEY, Headrace, Servers, deployed
from tests.e2e.preloaded import Preloaded
from tests.e2e.servers import real_servers
from tests.fakes.upstream import FakeUpstream

KEEP_ALIVE = 0.5  # seconds
TIMEOUT, STREAM_TIMEOUT = 7.0, 3.0  # seconds that models with faults have: a busy machine takes some for itself


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests come first, so that the short ones fill what is left of the time."""
    ours = Path(__file__).parent
    items.sort(key=lambda item: not item.path.is_relative_to(ours))


@pytest.fixture(scope="session", autouse=True)
def preloaded() -> Iterator[None]:
    """Deployments start in a fraction of the time."""
    with Preloaded() as processes:
        deployment.starter = processes.start
        yield
        deployment.starter = deployment.execute


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
    async with deployed(config, servers, folder, extra={"HEADRACE_KEEPALIVE_SECONDS": str(KEEP_ALIVE)}) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(headrace: Headrace, upstream: FakeUpstream) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client, as a user would make it."""
    upstream.reset()
    async with openai.AsyncOpenAI(base_url=f"{headrace.url}/v1", api_key=MASTER_KEY, max_retries=0) as it:
        yield it


def write_config(folder: Path, upstream: FakeUpstream, *more: dict[str, object]) -> Path:
    """A deployment of everything that the fake can be, and `more`.

    Under `fault/`, `rescued/` and their like the fake's faults are found by name, and what stands before the last slash
    keeps the counts of attempts apart: `fault/mine/fb-s01` is the upstream's model `mine/fb-s01`.
    """
    openai_base = f"{upstream.url}/v1"
    vendors = ("groq", "deepseek", "together_ai", "fireworks_ai", "openrouter", "xai", "hosted_vllm")
    short: dict[str, object] = {"timeout": TIMEOUT, "stream_timeout": STREAM_TIMEOUT}
    models = [
        model("gpt", "openai/gpt-4o", openai_base),
        model("claude", "anthropic/claude-sonnet-4-5", upstream.url),
        model("gemini", "gemini/gemini-2.5-flash", f"{upstream.url}/v1beta"),
        model("mistral", "mistral/mistral-large-latest", openai_base),
        *(model(name, f"{name}/some-model", openai_base) for name in vendors),
        model("fault/*", "openai/*", openai_base, **short),
        model("patient/*", "openai/*", openai_base),
        model("claude-fault/*", "anthropic/*", upstream.url, **short),
        model("gemini-fault/*", "gemini/*", f"{upstream.url}/v1beta", **short),
        model("rescued/*", "openai/*", openai_base, **short),
        model("claude-rescued/*", "anthropic/*", upstream.url, **short),
        model("prefill-rescued/*", "openai/*", openai_base, **short),
        model("quota/*", "openai/*", openai_base, api_key="sk-without-credit", **short),
        model("fallback", "openai/fb-ok", openai_base),
        model("no-prefill", "openai/fb-ok-noprefill", openai_base),
        model("limited", "openai/limited", openai_base, rpm=60),
        model("one-at-a-time", "openai/narrow", openai_base, max_parallel_requests=1),
        model("priced", "openai/priced", openai_base, **PRICES),
        model("priced-fault/*", "openai/*", openai_base, **PRICES, **short),
        model("two-keys", "openai/two-keys", openai_base, api_key="sk-dead"),
        model("two-keys", "openai/two-keys", openai_base, api_key="sk-alive"),
        {"model_name": "simulated", "litellm_params": {"model": "simulated/echo"}},
        *more,
    ]
    settings = {
        "model_list": models,
        "router_settings": {
            "num_retries": 2,
            "default_fallbacks": [],
            "fallbacks": [
                {"rescued/*": ["fallback"]},
                {"claude-rescued/*": ["fallback"]},
                {"prefill-rescued/*": ["no-prefill"]},
            ],
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


PRICES = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}


def model(name: str, model: str, base: str, **params: object) -> dict[str, object]:
    """An entry of `model_list`."""
    given = {"model": model, "api_key": "sk-upstream-key", "api_base": base, **params}
    return {"model_name": name, "litellm_params": given}
