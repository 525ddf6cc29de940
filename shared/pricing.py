"""What an attempt costs, in integer nano-dollars: the config's own costs, else the price list of `genai-prices`."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

from shared.catalog import Deployment
from shared.jobs import Usage
from shared.prices import AS_LISTED, PUBLIC, Prices, Terms, Tier

_PER_NANODOLLAR = 10**9
"""Rates are whole numbers of 1e-18 dollars, so that no price per token needs a fraction."""

_CLASSES = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")

_PRICE_KEYS = {
    "input": "input_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "output": "output_mtok",
    "reasoning": "output_reasoning_mtok",
}

# A class without a price of its own costs what the class that contains it costs; so does LiteLLM with cached input.
_FALLS_BACK_TO = {"cache_read": "input", "cache_write": "input", "cache_write_1h": "cache_write", "reasoning": "output"}

# LiteLLM's names of providers -> genai-prices' ids, where they differ.
_PROVIDER_IDS = {
    "azure_ai": "azure",
    "azure_text": "azure",
    "bedrock": "aws",
    "cohere_chat": "cohere",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "github_copilot": "github-copilot",
    "meta_llama": "meta",
    "moonshot": "moonshotai",
    "nebius": "huggingface_nebius",
    "sambanova": "huggingface_sambanova",
    "text-completion-openai": "openai",
    "together_ai": "together",
    "vertex_ai": "google",
    "voyage": "voyageai",
    "xai": "x-ai",
}

_BATCH_DISCOUNT = 0.5
"""What OpenAI, Anthropic and Google take off in their batch APIs."""

_FREE_PROVIDERS = frozenset({"simulated"})

# What the price list calls the service tiers that it has prices for; every other tier pays the base price.
_TIERS = {
    "batch": {"processing": "batch"},
    "fast": {"service_tier": "fast"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
}


@dataclass(frozen=True, slots=True)
class _Rates:
    """Prices of one token of each class, in 1e-18 dollars."""

    input: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    output: int
    reasoning: int


@dataclass(frozen=True, slots=True)
class _Schedule:
    tiers: tuple[tuple[int, _Rates], ...]
    """(prompt tokens, rates): the rates of the first entry that the prompt is longer than hold for every token."""
    request: int = 0
    """The fee for the request itself, in 1e-18 dollars."""
    known: bool = True


class PriceBook:
    """Prices by deployment. Loading the price list takes about half a second, so make one a process, at start-up."""

    def __init__(self) -> None:
        get_snapshot()
        # Prices change by date and, for some providers, by time of day, so an entry is good for one minute. That also
        # lets an update of the price list through, and keeps the scan for unknown models off the hot path.
        self._schedule = lru_cache(maxsize=4096)(_schedule)

    def cost(
        self, deployment: Deployment, usage: Usage, *, service_tier: str | None = None, when: datetime | None = None
    ) -> int:
        """Nano-dollars, rounded to the nearest; 0 for a model that nobody has a price for.

        `service_tier` is the tier that the answer names (`flex`, `priority`, `fast`) or `batch`; `when` is the time of
        the request, UTC unless aware, by default now.
        """
        return _billed(self._listed(deployment, usage, service_tier, when), usage, deployment.terms)

    def batch_cost(self, deployment: Deployment, usage: Usage, *, when: datetime | None = None) -> int:
        """Nano-dollars at the provider's own batch API: by the config's discount, else by the price list if it has
        prices for batches and the config has none of its own, else half of what a live call costs."""
        live, batch = (self._find(deployment, tier, when) for tier in (None, "batch"))
        listed = live != batch and deployment.prices == PUBLIC
        if listed and deployment.provider_batch_discount is None:
            return self.cost(deployment, usage, service_tier="batch", when=when)
        discount = deployment.provider_batch_discount
        share = 1 - Decimal(str(_BATCH_DISCOUNT if discount is None else discount))
        return _billed(self._listed(deployment, usage, None, when) * share, usage, deployment.terms)

    def known(self, deployment: Deployment) -> bool:
        """Whether a cost of 0 means free: false when neither the config nor the price list has the model."""
        return self._find(deployment, None, None).known

    def _listed(self, deployment: Deployment, usage: Usage, service_tier: str | None, when: datetime | None) -> int:
        """What the provider takes, in 1e-18 dollars."""
        schedule = self._find(deployment, service_tier, when)
        prompt = max(0, usage.prompt)
        rates = next(rates for start, rates in schedule.tiers if prompt > start)
        reasoning = min(usage.reasoning, usage.output)
        total = (
            usage.input * rates.input
            + usage.cache_read * rates.cache_read
            + usage.cache_write * rates.cache_write
            + usage.cache_write_1h * rates.cache_write_1h
            + (usage.output - reasoning) * rates.output
            + reasoning * rates.reasoning
        )
        return total + schedule.request if prompt or usage.output else total

    def _find(self, deployment: Deployment, service_tier: str | None, when: datetime | None) -> _Schedule:
        return self._schedule(
            deployment.provider,
            deployment.model,
            deployment.info.get("base_model") or "",
            deployment.prices,
            service_tier if service_tier in _TIERS else None,
            int(time.time() if when is None else _utc(when).timestamp()) // 60,
        )


def _billed(listed: int | Decimal, usage: Usage, terms: Terms) -> int:
    """Nano-dollars, rounded to the nearest. `listed` is in 1e-18 dollars."""
    if terms is not AS_LISTED and terms != AS_LISTED:
        listed *= (1 - Decimal(str(terms.discount))) * (1 + Decimal(str(terms.margin)))
        if usage.total:
            listed += Decimal(str(terms.fee)) * 10**18
    return int((listed + _PER_NANODOLLAR // 2) // _PER_NANODOLLAR)


def _utc(when: datetime) -> datetime:
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when


def _schedule(
    provider: str, model: str, base_model: str, custom: Prices, service_tier: str | None, minute: int
) -> _Schedule:
    found = _look_up(provider, model, base_model)
    public = ModelPrice() if found is None else _prices(*found, service_tier, minute)
    starts = {tier.start for tier in custom.above} | {
        tier.start for price in public.__dict__.values() if isinstance(price, TieredPrices) for tier in price.tiers
    }
    fee = None if custom != PUBLIC else public.__dict__.get("requests_kcount")
    return _Schedule(
        tiers=tuple(
            (start, _rates(_own(custom, start), public, start)) for start in (*sorted(starts, reverse=True), -1)
        ),
        request=int(fee * 10**15) if isinstance(fee, Decimal) else 0,
        known=found is not None or custom != PUBLIC or provider in _FREE_PROVIDERS,
    )


def _own(custom: Prices, start: int) -> dict[str, float]:
    """The config's prices by class, for prompts longer than `start`."""
    own: dict[str, float] = {}
    reached: list[Prices | Tier] = [custom, *(tier for tier in custom.above if tier.start <= start)]
    for each in reached:
        own |= {name: price for name in _CLASSES if (price := getattr(each, name, None)) is not None}
    return own


def _look_up(provider: str, model: str, base_model: str) -> tuple[Provider, ModelInfo] | None:
    if not base_model:
        return _find_model(provider, model)
    prefix, _, rest = base_model.partition("/")
    return (
        (_find_model(prefix, rest) if rest else None) or _find_model(provider, base_model) or _find_anywhere(base_model)
    )


def _find_model(provider: str, model: str) -> tuple[Provider, ModelInfo] | None:
    providers = get_snapshot().providers
    wanted = _PROVIDER_IDS.get(provider, provider)
    # The library also guesses a provider from parts of its name; a price must not rest on a guess.
    listed = next((each for each in providers if each.id == wanted), None)
    found = listed.find_model(model, all_providers=providers) if listed else None
    return (listed, found) if listed and found else None


def _find_anywhere(model: str) -> tuple[Provider, ModelInfo] | None:
    try:
        return get_snapshot().find_provider_model(model, None, None, None)
    except LookupError:
        return None


def _prices(provider: Provider, model: ModelInfo, service_tier: str | None, minute: int) -> ModelPrice:
    # Variants of a model that was found at another provider are not this one's offer; the library has the same rule.
    own_model = any(model is each for each in provider.models)
    context = _TIERS[service_tier] if service_tier and own_model else None
    return model.get_prices(datetime.fromtimestamp(minute * 60, UTC), context)


def _rates(own: dict[str, float], public: ModelPrice, start: int) -> _Rates:
    return _Rates(**{name: _rate(name, own, public, start) for name in _CLASSES})


def _rate(name: str, own: dict[str, float], public: ModelPrice, start: int) -> int:
    """A price in the config holds for its class and the classes within it; then the price list's, in the same order."""
    lineage = [name]
    while lineage[-1] in _FALLS_BACK_TO:
        lineage.append(_FALLS_BACK_TO[lineage[-1]])
    for each in lineage:
        if each in own:
            return int(Decimal(str(own[each])) * 10**18)  # dollars a token
    for each in lineage:
        price = public.__dict__.get(_PRICE_KEYS[each])
        if price is not None:
            return int(_at(price, start) * 10**12)  # dollars a million tokens
    return 0


def _at(price: Decimal | TieredPrices, start: int) -> Decimal:
    if isinstance(price, Decimal):
        return price
    reached = [tier.price for tier in price.tiers if tier.start <= start]
    return reached[-1] if reached else price.base
