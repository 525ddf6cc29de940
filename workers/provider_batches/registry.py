"""Which batch API is behind a deployment."""

from shared.catalog import Deployment
from workers.provider_batches.anthropic import AnthropicBatches
from workers.provider_batches.base import BatchApi, Limits
from workers.provider_batches.gemini import GeminiBatches
from workers.provider_batches.http import ProviderHttp
from workers.provider_batches.openai import OpenAIBatches
from workers.providers import registry
from workers.providers.base import Call
from workers.upstream import Upstream

_APIS: dict[str, type[OpenAIBatches] | type[AnthropicBatches] | type[GeminiBatches]] = {
    "openai": OpenAIBatches,
    "anthropic": AnthropicBatches,
    "gemini": GeminiBatches,
}
"""By canonical name of the provider: those with `batch_api` in `shared/providers.toml`."""

_QUESTION = {"messages": [{"role": "user", "content": "?"}]}


def limits(provider: str) -> Limits:
    """What the provider accepts in one batch. Raises `KeyError` for one without a batch API."""
    return _APIS[provider].limits


def connect(upstream: Upstream, deployment: Deployment) -> BatchApi:
    """The batch API with the deployment's key, where its live calls go, too. Raises `KeyError` for a provider without
    one."""
    adapter = registry.adapter(deployment.provider)
    live = adapter.request(Call(dict(_QUESTION), deployment, id="", created=0, client_headers={}))
    api: BatchApi = _APIS[deployment.provider](ProviderHttp(upstream, adapter, live))
    return api
