"""From the configuration to the catalog: providers, keys and addresses found, defaults applied, limits shared."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from shared import providers
from shared.catalog import (
    Catalog,
    Deployment,
    Routing,
    Wildcard,
    fingerprint,
    tightest,
    upstream_of,
)
from shared.config import Config, Entry
from shared.config_model import Fallbacks
from shared.errors import ConfigError
from shared.model_aliases import Alias
from shared.prices import Prices, Terms, Tier

DEFAULT_TIMEOUT = 600.0
"""Seconds for an attempt when the configuration says nothing."""

SIMULATED = "simulated"

_STRENGTHS = ("weight", "rpm", "tpm")
_SCHEMES = ("http://", "https://")


def build_catalog(config: Config, stored: Sequence[Entry] = ()) -> Catalog:
    """Raises `ConfigError` for an unknown provider, a provider without a key or an address, an unknown credential, two
    entries with the same `model_info.id`, and aliases in a cycle. A lenient config gets deployments without keys.

    `stored` are models of the database: one that cannot run is left out, with a warning."""
    builder = _Builder(config)
    entries = (*config.entries, *stored)
    skipped = []
    for number, (entry, weight) in enumerate(zip(entries, _weights(entries), strict=True)):
        try:
            builder.add(entry, weight)
        except ConfigError as error:
            if number < len(config.entries):
                raise
            skipped.append(str(error))

    aliases = {
        name: Alias(target.model, target.hidden) for name, target in config.router_settings.model_group_alias.items()
    }
    deployments = _with_shared_limits(builder.deployments)
    routing = _routing(config)
    try:
        draft = Catalog(deployments, builder.wildcards, aliases, routing)
    except ConfigError as exc:
        raise ConfigError(f"{config.name}: {exc}") from exc
    warnings = (*skipped, *_dangling(draft, aliases))
    return Catalog(deployments, builder.wildcards, aliases, routing, warnings) if warnings else draft


def _weights(entries: Sequence[Entry]) -> list[float]:
    """Each entry's share among those of its name and order: the first that any of them sets of weight, rpm and tpm.
    One that leaves it out counts 1 by weight, and as much as the largest by rpm or tpm: nothing bounds it."""
    peers: dict[tuple[str, int], list[Entry]] = {}
    for entry in entries:
        peers.setdefault((entry.name, entry.params.order), []).append(entry)
    return [_weight(entry, peers[entry.name, entry.params.order]) for entry in entries]


def _weight(entry: Entry, peers: Sequence[Entry]) -> float:
    for strength in _STRENGTHS:
        given = [value for each in peers if (value := getattr(each.params, strength)) is not None]
        if given:
            own = getattr(entry.params, strength)
            missing = 1.0 if strength == "weight" else max(given)
            return float(missing if own is None else own)
    return 1.0


class _Builder:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.deployments: list[Deployment] = []
        self.wildcards: list[Wildcard] = []
        self._ids: dict[str, str] = {}

    def add(self, entry: Entry, weight: float) -> None:
        """One deployment for each of the entry's organizations; a wildcard if its name has stars. Raises `ConfigError`,
        and then nothing was added."""
        if "*" in entry.params.model and "*" not in entry.name:
            raise ConfigError(
                f"{entry.where}.litellm_params.model: a star stands for a part of model_name, which has none: "
                "write e.g. model_name: openai/*"
            )
        made = [self._made(entry, weight, organization) for organization in entry.params.organization or [""]]
        self.wildcards += [each for each in made if isinstance(each, Wildcard)]
        self.deployments += [each for each in made if isinstance(each, Deployment)]

    def _made(self, entry: Entry, weight: float, organization: str) -> Deployment | Wildcard:
        credential = self._credential(entry)
        template = self._template(entry, weight, organization)
        if entry.params.model == "*" and not self._is_bound(entry, credential):
            return self._wildcard_by_name(entry, template)
        provider, model = self._upstream(entry)
        _check_batch_api(entry, provider)
        deployment = self._connected(entry, replace(template, provider=provider, model=model), credential)
        return Wildcard(entry.name, model, {provider: deployment}) if "*" in entry.name else deployment

    def _credential(self, entry: Entry) -> Mapping[str, str]:
        name = entry.params.litellm_credential_name
        if name is None:
            return {}
        if name not in self.config.credentials:
            raise ConfigError(
                f"{entry.where}.litellm_params.litellm_credential_name: no credential {name!r}: "
                "add it to credential_list, or write api_key instead"
            )
        return self.config.credentials[name]

    def _is_bound(self, entry: Entry, credential: Mapping[str, str]) -> bool:
        """Whether `model: "*"` means one server. A key must not go to whatever provider a client's model names."""
        params = entry.params
        own = params.custom_llm_provider or params.api_key or params.api_base or params.base_url
        return bool(own or credential) or params.mock_response is not None

    def _template(self, entry: Entry, weight: float, organization: str) -> Deployment:
        """Everything but the connection."""
        params, router, litellm = entry.params, self.config.router_settings, self.config.litellm_settings
        headers = {**params.headers, **params.extra_headers}
        if organization:
            headers["OpenAI-Organization"] = organization
        defaults = dict(entry.defaults)
        if params.mock_response is not None:
            defaults["simulated"] = {"reply": params.mock_response}
        return Deployment(
            id=self._id(entry, organization),
            group=entry.name,
            provider="",
            model="",
            rpm=params.rpm,
            tpm=params.tpm,
            max_parallel_requests=params.max_parallel_requests or router.default_max_parallel_requests,
            weight=weight,
            order=params.order,
            timeout=params.timeout or router.timeout or litellm.request_timeout or DEFAULT_TIMEOUT,
            stream_timeout=params.stream_timeout or router.stream_timeout,
            num_retries=params.num_retries,
            cooldown_time=params.cooldown_time,
            drop_params=litellm.drop_params if params.drop_params is None else params.drop_params,
            additional_drop_params=tuple(params.additional_drop_params),
            headers=headers,
            params=defaults,
            prices=_prices(entry),
            provider_batch=params.provider_batch == "auto",
            provider_batch_discount=params.provider_batch_discount,
            info=entry.written_info,
        )

    def _id(self, entry: Entry, organization: str) -> str:
        chosen = entry.info.id
        wanted = chosen or entry.fingerprint
        if organization and len(entry.params.organization) > 1:
            wanted = f"{wanted}-{fingerprint(organization)[:8]}"
        if wanted in self._ids and chosen:
            raise ConfigError(
                f"{entry.where}.model_info.id: {chosen!r} is also the id of {self._ids[wanted]}: give each its own"
            )
        unique, twin = wanted, 1
        while unique in self._ids:  # the same entry written twice counts twice
            twin += 1
            unique = f"{wanted}-{twin}"
        self._ids[unique] = entry.where.partition(": ")[2]
        return unique

    def _upstream(self, entry: Entry) -> tuple[str, str]:
        """Provider and model: `custom_llm_provider`, else the prefix, else whose model it is by its name."""
        written, named = entry.params.model, entry.params.custom_llm_provider
        found = upstream_of(written)
        if entry.params.mock_response is not None:
            return SIMULATED, found[1] if found else written
        if named is not None:
            provider = providers.canonical(named)
            if provider is None:
                place = f"{entry.where}.litellm_params.custom_llm_provider"
                raise ConfigError(f"{place}: unknown provider {named!r}: {_suggestion(named)}")
            prefix, _, rest = written.partition("/")
            return provider, rest if rest and providers.canonical(prefix) == provider else written
        if found is not None:
            return found
        if entry.params.model == "*":
            return "openai", written  # it has its own address or key: an OpenAI-compatible server

        place = f"{entry.where}.litellm_params.model"
        prefix, slash, _ = written.partition("/")
        if slash:
            raise ConfigError(f"{place}: unknown provider {prefix!r} in {written!r}: {_suggestion(prefix)}")
        raise ConfigError(
            f"{place}: no provider is known for {written!r}: write it with a prefix, e.g. openai/{written}"
        )

    def _wildcard_by_name(self, entry: Entry, template: Deployment) -> Wildcard:
        """`*` -> `*`: every provider that has a key, chosen by the name that a client sends."""
        usable = [each for each in sorted(providers.known()) if self._is_usable(each)]
        if not usable and not self.config.lenient:
            raise ConfigError(
                f"{entry.where}.litellm_params.model: '*' finds no provider with a key: set e.g. OPENAI_API_KEY"
            )
        bases = {each: self._connected(entry, replace(template, provider=each, model="*"), {}) for each in usable}
        return Wildcard(entry.name, "*", bases, by_name=True)

    def _is_usable(self, provider: str) -> bool:
        if provider == SIMULATED:
            return True
        if providers.needs_key(provider):
            return bool(self._key_in_environment(provider))
        # A server that people run themselves is known by its address.
        return bool(self.config.environ.get(providers.api_base_variable(provider)))

    def _connected(self, entry: Entry, deployment: Deployment, credential: Mapping[str, str]) -> Deployment:
        """With key, address and the fingerprints of both."""
        provider = deployment.provider
        key, base = _own_key(entry, credential), _own_base(entry, credential)
        if entry.params.mock_response is None:
            base = self._address(entry, provider, base)
            key = key or self._key_in_environment(provider)
            if not key and providers.needs_key(provider) and not self.config.lenient:
                raise ConfigError(
                    f"{entry.where}.litellm_params.api_key: no key for {providers.label(provider)}: "
                    f"set {providers.api_key_variables(provider)[0]}, or add api_key"
                )
        organization = deployment.headers.get("OpenAI-Organization", "")
        shared = fingerprint(provider, base, key, organization)
        return replace(
            deployment,
            api_key=key,
            api_base=base,
            credential=shared,
            bucket=fingerprint(shared, deployment.model),
            terms=self._terms(provider),
        )

    def _terms(self, provider: str) -> Terms:
        litellm = self.config.litellm_settings
        discounts, margins = litellm.cost_discount_config, litellm.cost_margin_config
        margin = margins.get(provider) or margins.get("global")
        return Terms(
            discount=discounts.get(provider, 0.0),
            margin=margin.percentage if margin else 0.0,
            fee=margin.fixed_amount if margin else 0.0,
        )

    def _key_in_environment(self, provider: str) -> str:
        keys = (self.config.environ.get(name, "").strip() for name in providers.api_key_variables(provider))
        return next((key for key in keys if key), "")

    def _address(self, entry: Entry, provider: str, own: str) -> str:
        variable = providers.api_base_variable(provider)
        base = own or self.config.environ.get(variable, "").strip()
        if base and not base.startswith(_SCHEMES) and provider != SIMULATED:
            place = f"{entry.where}.litellm_params.api_base" if own else f"environment: {variable}"
            raise ConfigError(f"{place}: expected an address: write e.g. http://localhost:8000/v1")
        if not base and not providers.default_base(provider) and not self.config.lenient:
            raise ConfigError(
                f"{entry.where}.litellm_params.api_base: {providers.label(provider)} has no address of its own: "
                f"add api_base, or set {variable}"
            )
        return base.rstrip("/")


def _check_batch_api(entry: Entry, provider: str) -> None:
    if entry.params.provider_batch == "auto" and not providers.provider(provider).batch_api:
        able = ", ".join(name for name in sorted(providers.known()) if providers.provider(name).batch_api)
        raise ConfigError(
            f"{entry.where}.litellm_params.provider_batch: no batch API is known for {providers.label(provider)}, only "
            f"for {able}: leave it out"
        )


def _own_key(entry: Entry, credential: Mapping[str, str]) -> str:
    key = entry.params.api_key
    return (key.get_secret_value().strip() if key is not None else "") or credential.get("api_key", "")


def _own_base(entry: Entry, credential: Mapping[str, str]) -> str:
    return (entry.params.api_base or entry.params.base_url or credential.get("api_base", "")).strip()


def _suggestion(name: str) -> str:
    close = get_close_matches(name, sorted(providers.known()), n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}for a server that speaks OpenAI's API write openai/<model> and api_base"


_TIERED = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
}
_COSTS = {
    **_TIERED,
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
    "reasoning": "output_cost_per_reasoning_token",
}
"""LiteLLM's names of costs."""

_TIERS = (128, 200, 272)  # thousands of prompt tokens


def _prices(entry: Entry) -> Prices:
    above = (
        Tier(number * 1000, **{name: _cost(entry, f"{cost}_above_{number}k_tokens") for name, cost in _TIERED.items()})
        for number in _TIERS
    )
    return Prices(
        **{name: _cost(entry, cost) for name, cost in _COSTS.items()},
        above=tuple(tier for tier in above if tier != Tier(tier.start)),
    )


def _cost(entry: Entry, name: str) -> float | None:
    own: float | None = getattr(entry.params, name)
    described: float | None = getattr(entry.info, name)
    return described if own is None else own


def _with_shared_limits(deployments: Sequence[Deployment]) -> list[Deployment]:
    """In the same order, with the smallest limits of each bucket for all that share it."""
    buckets: dict[str, list[Deployment]] = {}
    for each in deployments:
        buckets.setdefault(each.bucket, []).append(each)
    limited = {each.id: each for members in buckets.values() for each in tightest(members)}
    return [limited[each.id] for each in deployments]


def _routing(config: Config) -> Routing:
    router, litellm, default = config.router_settings, config.litellm_settings, Routing()

    def first(name: str) -> Any:
        values = (getattr(router, name), getattr(litellm, name), getattr(default, name))
        return next(value for value in values if value is not None)

    return Routing(
        num_retries=first("num_retries"),
        retry_after=router.retry_after,
        allowed_fails=first("allowed_fails"),
        cooldown_time=first("cooldown_time"),
        disable_cooldowns=router.disable_cooldowns,
        max_fallbacks=first("max_fallbacks"),
        fallbacks=_table(router.fallbacks, litellm.fallbacks),
        default_fallbacks=tuple(router.default_fallbacks or litellm.default_fallbacks),
        context_window_fallbacks=_table(router.context_window_fallbacks, litellm.context_window_fallbacks),
        content_policy_fallbacks=_table(router.content_policy_fallbacks, litellm.content_policy_fallbacks),
    )


def _table(*lists: Fallbacks) -> dict[str, tuple[str, ...]]:
    """Fallbacks by group; what an earlier list says about a group wins."""
    table: dict[str, tuple[str, ...]] = {}
    for rows in lists:
        for row in rows:
            for group, names in row.items():
                table.setdefault(group, tuple(names))
    return table


def _dangling(catalog: Catalog, aliases: Mapping[str, Alias]) -> Iterator[str]:
    """Names that lead nowhere: they do no harm until a request follows them."""
    routing = catalog.routing
    for name, alias in aliases.items():
        if catalog.resolve(name) is None:
            yield f"model_group_alias.{name}: no model_name {alias.target!r}"
    tables = {
        "fallbacks": routing.fallbacks,
        "context_window_fallbacks": routing.context_window_fallbacks,
        "content_policy_fallbacks": routing.content_policy_fallbacks,
        "default_fallbacks": {"": routing.default_fallbacks},
    }
    for kind, table in tables.items():
        for group, names in table.items():
            yield from (f"{_place(kind, group)}: no model_name {each!r}" for each in _unknown(catalog, names))


def _place(kind: str, group: str) -> str:
    return f"{kind}.{group}" if group else kind


def _unknown(catalog: Catalog, names: Iterable[str]) -> list[str]:
    return [name for name in names if catalog.resolve(name) is None]
