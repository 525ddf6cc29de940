"""Which models a key may call, and by which other names: the lists of key, team, user and customer. Pure.

The rules are LiteLLM's. A name on a list is a model group, a pattern (`openai/*`), an access group
(`model_info.access_groups`), or one of the special ones. A model is on a list if the name that the client uses is, or
the group that it leads to.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared import providers
from shared.catalog import Catalog, Deployment
from shared.errors import CustomerModelNotAllowed, ModelNotAllowed
from shared.jobs import Leg

_EVERYTHING = frozenset({"*", "all-proxy-models", "all-team-models"})
"""`all-team-models` on a key means that its team's list alone decides; on its own it is no restriction."""
_NOTHING = "no-default-models"

_NOT_YOURS = (
    "The requested model '{}' is not available for this API key, or the model name is invalid. "
    "Check the models available to you and try again."
)
_NOT_THE_CUSTOMERS = (
    "The requested model '{}' is not in the allowed models for this customer. "
    "Check the models this customer can use and try again."
)


@dataclass(frozen=True, slots=True)
class ModelList:
    """The `models` of somebody who may not call all of them."""

    names: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]
    refusal: type[ModelNotAllowed]

    @classmethod
    def of(cls, names: Sequence[str] | None, refusal: type[ModelNotAllowed]) -> "ModelList | None":
        """None for a list that allows everything: an empty one, or one with a name that says so."""
        if not names or not _EVERYTHING.isdisjoint(names):
            return None
        stars = [re.compile(".*".join(map(re.escape, name.split("*"))), re.DOTALL) for name in names if "*" in name]
        return cls(frozenset(names) - {_NOTHING}, tuple(stars), refusal)

    def has(self, model: str, catalog: Catalog) -> bool:
        if model in self.names:
            return True
        deployments = catalog.group(model)
        known_as = [model, *{each.group for each in deployments}]
        if not self.names.isdisjoint(known_as) or not self.names.isdisjoint(access_groups(deployments)):
            return True
        if self.patterns and "/" not in model and (provider := providers.provider_of(model)):
            known_as.append(f"{provider}/{model}")  # LiteLLM lets `openai/*` stand for `gpt-4o`, too
        return any(pattern.fullmatch(name) for pattern in self.patterns for name in known_as)

    def require(self, model: str, catalog: Catalog, said: str) -> None:
        """Raises `ModelNotAllowed` with the name that the client `said`."""
        if not self.has(model, catalog):
            message = _NOT_THE_CUSTOMERS if self.refusal is CustomerModelNotAllowed else _NOT_YOURS
            raise self.refusal(message.format(said), param="model")


@dataclass(frozen=True, slots=True)
class Access:
    """What a key may call: what all of the lists have."""

    lists: tuple[ModelList, ...] = ()
    aliases: Mapping[str, str] | None = None
    """Names of the key's own, each with the one that it stands for."""
    fallbacks_too: bool = True
    """Whether the lists hold for fallback groups (`enforce_fallback_model_access`)."""

    def target(self, model: str) -> str:
        """The name in the catalog."""
        return self.aliases.get(model, model) if self.aliases else model

    def admit(self, model: str, catalog: Catalog) -> str:
        """The name in the catalog for one that the client sent. Raises `ModelNotAllowed`."""
        target = self.target(model)
        for each in self.lists:
            each.require(target, catalog, model)
        return target

    def admit_fallbacks(self, models: Sequence[str], catalog: Catalog) -> list[str]:
        """The same for fallbacks that the client named."""
        return [self.admit(each, catalog) if self.fallbacks_too else self.target(each) for each in models]

    def allows(self, model: str, catalog: Catalog) -> bool:
        """Of a name in the catalog."""
        return all(each.has(model, catalog) for each in self.lists)

    def route(self, legs: tuple[Leg, ...], catalog: Catalog) -> tuple[Leg, ...]:
        """Without those that fall back to a group that the key may not call."""
        if not self.lists or not self.fallbacks_too or not any(leg.fallback for leg in legs):
            return legs
        return tuple(leg for leg in legs if not leg.fallback or self.allows(leg.group, catalog))

    def barred(self, legs: Collection[Leg], catalog: Catalog) -> tuple[str, ...]:
        """Groups that a worker might add to the route, for errors of a certain kind, and may not."""
        if not self.lists or not self.fallbacks_too:
            return ()
        added: set[str] = set()
        ahead = [leg.group for leg in legs]
        while ahead:
            group = ahead.pop()
            names = (*catalog.context_window_fallbacks(group), *catalog.content_policy_fallbacks(group))
            found = {each for name in names if (each := catalog.resolve(name)) is not None} - added
            added |= found
            ahead += found
        return tuple(sorted(group for group in added if not self.allows(group, catalog)))

    def visible(self, catalog: Catalog) -> list[str]:
        """What `GET /v1/models` shows: what the catalog lists and the key may call, names on its own lists that only a
        wildcard knows, and its aliases."""
        written = {each.group: each for each in catalog.connections()}  # wildcards as they are written
        listed = [name for name in catalog.models() if all(_lists(each, name, written, catalog) for each in self.lists)]
        named = sorted({name for each in self.lists for name in each.names})
        served = [name for name in named if catalog.resolve(name) is not None and self.allows(name, catalog)]
        aliases = [name for name, target in (self.aliases or {}).items() if self.allows(target, catalog)]
        return list(dict.fromkeys([*listed, *served, *aliases]))


EVERYTHING = Access()


def access_groups(deployments: Sequence[Deployment]) -> set[str]:
    found: set[str] = set()
    for each in deployments:
        groups: Any = each.info.get("access_groups")
        if isinstance(groups, list | tuple):
            found.update(str(group) for group in groups)
    return found


def _lists(models: ModelList, name: str, written: Mapping[str, Deployment], catalog: Catalog) -> bool:
    if "*" not in name or name not in written:
        return models.has(name, catalog)
    return (
        name in models.names
        or not models.names.isdisjoint(access_groups([written[name]]))
        or any(pattern.fullmatch(name) for pattern in models.patterns)
    )
