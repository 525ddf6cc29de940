"""Which deployments serve a model's name: alias -> group -> deployments -> the legs of a route. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Prices:
    """Custom costs of a deployment in dollars per token; None means the public price list."""

    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    reasoning: float | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """One entry of `model_list`: a model at a provider, with its key, limits and defaults."""

    id: str
    """`model_info.id`, or a hash of the name and parameters; it goes out as `x-litellm-model-id`."""
    group: str
    """`model_name`."""
    provider: str
    """A name that `workers.providers` knows: openai, anthropic, gemini, mistral, simulated, groq ..."""
    model: str
    """The upstream's name of the model, without the provider's prefix."""
    api_key: str = field(default="", repr=False)
    api_base: str = ""
    """Empty means the provider's own address."""
    credential: str = ""
    """Fingerprint of provider, address and key: deployments that share it share the key's fate."""
    bucket: str = ""
    """Fingerprint of credential and model: deployments that share it share the provider's limits."""
    rpm: float | None = None
    tpm: float | None = None
    max_parallel_requests: int | None = None
    weight: float = 1.0
    order: int = 1
    timeout: float = 600.0
    """Seconds for a whole attempt."""
    stream_timeout: float | None = None
    """Seconds to the first content event of a stream, and between two events; None means the default."""
    num_retries: int | None = None
    cooldown_time: float | None = None
    drop_params: bool = False
    additional_drop_params: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """`headers` and `extra_headers` of litellm_params."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Default request parameters: any other key of litellm_params. The request overrides them."""
    prices: Prices = Prices()
    info: Mapping[str, Any] = field(default_factory=dict)
    """`model_info` as configured."""
