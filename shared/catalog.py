"""Which deployments serve a model's name: alias -> group -> deployments -> the legs of a route. Pure."""

import hashlib
import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from typing import Any

from shared import providers
from shared.errors import UnknownModel
from shared.jobs import Leg
from shared.model_aliases import Alias, targets
from shared.prices import AS_LISTED, PUBLIC, Terms
from shared.prices import Prices as Prices

CACHE_ENTRIES = 4096
"""Names of models whose plan or wildcard match is remembered. Clients choose the names, so there must be an end."""
LONGEST_NAME = 512
"""Characters; a longer name matches no wildcard."""


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
    """Share of the group's traffic relative to the others of its `order`: the first that any of them sets of weight,
    rpm and tpm; 0 means last."""
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
    prices: Prices = PUBLIC
    terms: Terms = AS_LISTED
    """`cost_discount_config` and `cost_margin_config`."""
    provider_batch: bool = False
    """Lines of batches may go to the provider's own batch API."""
    provider_batch_discount: float | None = None
    """What is taken off the price there, 0 to 1; None means the public price list, else a half."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """`model_info` as configured."""


@dataclass(frozen=True, slots=True)
class Routing:
    """What `router_settings` and `litellm_settings` say about all groups."""

    num_retries: int = 2
    """Retries on one leg; `Deployment.num_retries` overrides it."""
    retry_after: float = 0.0
    """Least seconds between two attempts."""
    allowed_fails: int = 3
    """Failures a minute after which a deployment cools down."""
    cooldown_time: float = 5.0
    """Seconds; `Deployment.cooldown_time` overrides it."""
    disable_cooldowns: bool = False
    max_fallbacks: int = 5
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    default_fallbacks: tuple[str, ...] = ()
    context_window_fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    content_policy_fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Wildcard:
    """An entry whose `model_name` has stars: a deployment for every name that matches."""

    def __init__(self, pattern: str, model: str, bases: Mapping[str, Deployment], *, by_name: bool = False) -> None:
        """`bases` are the deployment before substitution, by provider: one, or with `by_name` (the model is a lone
        star) one for each provider that the substituted name may turn out to belong to. All have the same id."""
        self.pattern = pattern
        self.model = model
        self.bases = bases
        self.by_name = by_name
        self.specificity = len(pattern.replace("*", ""))
        self._regex = re.compile("(.+)".join(map(re.escape, pattern.split("*"))), re.DOTALL)

    def match(self, name: str) -> tuple[str, ...] | None:
        """What the stars stand for in `name`."""
        if len(name) > LONGEST_NAME or "*" in name:
            return None
        found = self._regex.fullmatch(name)
        return found.groups() if found else None

    def at(self, parts: Sequence[str]) -> Deployment | None:
        """The deployment in which `parts` have replaced the stars; None when no provider is known for the name."""
        model = _fill(self.model, parts)
        provider = next(iter(self.bases), "")
        if self.by_name:
            provider, model = upstream_of(model) or ("", "")
        base = self.bases.get(provider)
        if base is None:
            return None
        return replace(
            base,
            id=f"{base.id}:{'*'.join(parts)}",
            group=_fill(self.pattern, parts),
            model=model,
            bucket=fingerprint(base.credential, model),
        )


class Catalog:
    """All deployments. Every process builds the same one from the same config and database. It changes by `adopt` only,
    between two turns of the event loop; what must fit together is to be asked for in one turn."""

    def __init__(
        self,
        deployments: Iterable[Deployment],
        wildcards: Iterable[Wildcard] = (),
        aliases: Mapping[str, Alias] | None = None,
        routing: Routing | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        """Raises `ConfigError` for aliases in a cycle."""
        self.routing = routing or Routing()
        self.warnings = tuple(warnings)
        """What the operator should know about the config though it can run."""
        self._aliases = aliases or {}
        self._targets = targets(self._aliases)
        self._by_id = {each.id: each for each in deployments}
        self._by_bucket = {each.bucket: each for each in self._by_id.values()}
        groups: dict[str, list[Deployment]] = {}
        for each in self._by_id.values():
            groups.setdefault(each.group, []).append(each)
        self._groups = {name: tuple(sorted(each, key=_order)) for name, each in groups.items()}
        self._wildcards = sorted(wildcards, key=lambda each: (-each.specificity, each.pattern))
        self._wildcards_by_id = {base.id: each for each in self._wildcards for base in each.bases.values()}
        self._matched = lru_cache(CACHE_ENTRIES)(self._match)
        self._expanded = lru_cache(CACHE_ENTRIES)(self._expand)
        self._plans: dict[str, tuple[Leg, ...]] = {}

    def adopt(self, other: "Catalog") -> None:
        """Be `other` from now on, for everybody who holds this catalog. The caller gives `other` away."""
        vars(self).update(vars(other))  # its caches as well, which know nothing of what was

    def models(self) -> list[str]:
        """Names for `GET /v1/models`: groups, visible aliases, wildcards as they are written."""
        visible = (name for name, alias in self._aliases.items() if not alias.hidden)
        patterns = (each.pattern for each in self._wildcards)
        return list(dict.fromkeys([*self._groups, *visible, *patterns]))

    def deployments(self) -> list[Deployment]:
        """Those that the config names one by one; what wildcards stand for has no end."""
        return list(self._by_id.values())

    def providers(self) -> list[str]:
        """Every provider that a job may go to: those whose lanes must be declared and consumed."""
        return sorted({each.provider for each in self.connections()})

    def connections(self) -> list[Deployment]:
        """All deployments, those of wildcards before substitution: every key and address that may be used."""
        return [*self._by_id.values(), *(base for each in self._wildcards for base in each.bases.values())]

    def deployment(self, id: str) -> Deployment:
        """Also understands the ids of wildcards, `<id>:<suffix>`. Raises `KeyError` for one of another config, or that
        was removed."""
        found = self._by_id.get(id)
        return found if found is not None else self._expanded(id)

    def known(self, ids: Iterable[str]) -> list[Deployment]:
        """Those of the deployments that there are."""
        found = []
        for id in ids:
            with suppress(KeyError):
                found.append(self.deployment(id))
        return found

    def resolve(self, model: str) -> str | None:
        """The group that serves `model`: aliases are followed, exact names win over wildcards, specific wildcards over
        general ones. The group of a wildcard is the full name it matched."""
        name, _ = self._find(model)
        return name or None

    def group(self, model: str) -> tuple[Deployment, ...]:
        """The deployments of the group that serves `model`, by `order`; none when it is unknown."""
        return self._find(model)[1]

    def plan(self, model: str, *, fallbacks: Sequence[str] | None = None, rng: random.Random) -> tuple[Leg, ...]:
        """The route of a job: the group's deployments of the lowest `order`, a leg for each provider, then those of
        higher orders, then the same for at most `max_fallbacks` fallback groups: the request's own `fallbacks`, else
        the configured ones, else the default ones. Fallback groups that do not exist are left out.

        Raises `UnknownModel`.
        """
        if fallbacks is None and (known := self._plans.get(model)) is not None:
            return known
        group, deployments = self._find(model)
        if not deployments:
            raise UnknownModel(_UNKNOWN.format(model), param="model")

        names = self._fallbacks(model, group) if fallbacks is None else fallbacks
        groups = {found: each for name in names for found, each in (self._find(name),) if each and found != group}
        chain = list(groups.items())[: self.routing.max_fallbacks]
        legs = _legs(group, deployments, rng, fallback=False)
        for name, each in chain:
            legs += _legs(name, each, rng, fallback=True)

        route = tuple(legs)
        if fallbacks is None and _certain(deployments) and all(_certain(each) for _, each in chain):
            if len(self._plans) >= CACHE_ENTRIES:
                self._plans.clear()
            self._plans[model] = route
        return route

    def legs_for(self, groups: Iterable[str], rng: random.Random | None = None) -> tuple[Leg, ...]:
        """Fallback legs for these groups (or names of models), for a worker to append; unknown ones are left out."""
        rng = rng or random.Random()
        return tuple(
            leg
            for found in map(self._find, dict.fromkeys(groups))
            for leg in _legs(found[0], found[1], rng, fallback=True)
        )

    def shuffle(self, deployments: Sequence[Deployment], rng: random.Random) -> list[Deployment]:
        """The order in which to try them: by `order`, and at random by weight within it."""
        if len(deployments) == 1:
            return list(deployments)
        return sorted(deployments, key=lambda each: (each.order, _draw(each.weight, rng)))

    def context_window_fallbacks(self, group: str) -> tuple[str, ...]:
        """Where to go when the prompt is too long for `group`."""
        return self._configured(self.routing.context_window_fallbacks, group, group)[: self.routing.max_fallbacks]

    def content_policy_fallbacks(self, group: str) -> tuple[str, ...]:
        """Where to go when the provider of `group` refuses the content."""
        return self._configured(self.routing.content_policy_fallbacks, group, group)[: self.routing.max_fallbacks]

    def _find(self, model: str) -> tuple[str, tuple[Deployment, ...]]:
        """The group's name and deployments; ("", ()) for an unknown model."""
        name = self._targets.get(model, model)
        exact = self._groups.get(name)
        if exact is not None:
            return name, exact
        return self._matched(name) if self._wildcards else ("", ())

    def _match(self, name: str) -> tuple[str, tuple[Deployment, ...]]:
        found = self._match_written(name)
        if not found and "/" not in name and (provider := providers.provider_of(name)):
            # LiteLLM serves `gpt-4o` from an entry `openai/*`, too.
            found = self._match_written(f"{provider}/{name}")
        return (found[0].group, tuple(found)) if found else ("", ())

    def _match_written(self, name: str) -> list[Deployment]:
        for _, equals in groupby(self._wildcards, key=lambda each: each.pattern):
            matches = [(each, parts) for each in equals if (parts := each.match(name))]
            found = [self._limited(each) for wildcard, parts in matches if (each := wildcard.at(parts))]
            if found:
                return sorted(found, key=_order)
        return []

    def _expand(self, id: str) -> Deployment:
        for colon in re.finditer(":", id):
            wildcard = self._wildcards_by_id.get(id[: colon.start()])
            if wildcard is not None and (found := wildcard.at(id[colon.end() :].split("*"))):
                return self._limited(found)
        raise KeyError(id)

    def _limited(self, deployment: Deployment) -> Deployment:
        """With the limits of an entry that names the same model at the same key, where those are smaller."""
        named = self._by_bucket.get(deployment.bucket)
        return tightest([deployment, named])[0] if named is not None else deployment

    def _fallbacks(self, model: str, group: str) -> tuple[str, ...]:
        return self._configured(self.routing.fallbacks, model, group) or self.routing.default_fallbacks

    def _configured(self, table: Mapping[str, tuple[str, ...]], model: str, group: str) -> tuple[str, ...]:
        """The row for the name that the client sent, the group's, the wildcard's that matched it, or for all."""
        if not table:
            return ()
        patterns = [each.pattern for each in self._wildcards if each.pattern in table and each.match(group)]
        rows = (table.get(name) for name in (model, group, *patterns, "*"))
        return next((row for row in rows if row), ())


_UNKNOWN = (
    "{{'error': '/chat/completions: Invalid model name passed in model={}. "
    "Call `/v1/models` to view available models for your key.'}}"
)


def fingerprint(*parts: str) -> str:
    """A short name for a secret, or for things that belong together, that cannot be turned back."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def upstream_of(model: str) -> tuple[str, str] | None:
    """Provider and upstream model of a name with a provider's prefix, or of a bare name that is known."""
    prefix, slash, rest = model.partition("/")
    if slash and rest and (provider := providers.canonical(prefix)):
        return provider, rest
    bare = providers.provider_of(model)
    return (bare, model) if bare else None


def tightest(deployments: Sequence[Deployment]) -> list[Deployment]:
    """The deployments of one bucket, each with the smallest limits of them all: the provider counts them together."""
    limits = {name: _least(getattr(each, name) for each in deployments) for name in _LIMITS}
    return [replace(each, **limits) for each in deployments]


_LIMITS = ("rpm", "tpm", "max_parallel_requests")


def _least(values: Iterable[Any]) -> Any:
    return min((value for value in values if value is not None), default=None)


def _legs(group: str, deployments: Sequence[Deployment], rng: random.Random, *, fallback: bool) -> list[Leg]:
    """`deployments` come sorted by `order`. Neighbouring legs of one provider are one: it has its order inside."""
    legs: list[tuple[str, list[str]]] = []
    for _, peers in groupby(deployments, key=_order):
        by_provider: dict[str, list[Deployment]] = {}
        for each in peers:
            by_provider.setdefault(each.provider, []).append(each)
        for provider in _providers_at_random(by_provider, rng):
            ids = [each.id for each in by_provider[provider]]
            if legs and legs[-1][0] == provider:
                legs[-1][1].extend(ids)
            else:
                legs.append((provider, ids))
    return [Leg(provider, group, tuple(ids), fallback) for provider, ids in legs]


def _providers_at_random(by_provider: Mapping[str, Sequence[Deployment]], rng: random.Random) -> list[str]:
    if len(by_provider) == 1:
        return list(by_provider)
    weights = {provider: sum(each.weight for each in members) for provider, members in by_provider.items()}
    return sorted(weights, key=lambda provider: _draw(weights[provider], rng))


def _certain(deployments: Sequence[Deployment]) -> bool:
    """Whether no chance decides about the group's legs."""
    return all(len({each.provider for each in peers}) == 1 for _, peers in groupby(deployments, key=_order))


def _draw(weight: float, rng: random.Random) -> float:
    """A time until arrival at the rate `weight`: sorting by it is a weighted shuffle (Efraimidis and Spirakis)."""
    return rng.expovariate(weight) if weight > 0 else math.inf


def _order(deployment: Deployment) -> int:
    return deployment.order


def _fill(text: str, parts: Sequence[str]) -> str:
    """`text` with its stars replaced by `parts`, one after the other."""
    for part in parts:
        text = text.replace("*", part, 1)
    return text
