"""Other names of models: `router_settings.model_group_alias`."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Alias:
    target: str
    """A group, a name that a wildcard matches, or another alias."""
    hidden: bool = False
    """Works, and is not listed."""


def targets(aliases: Mapping[str, Alias]) -> dict[str, str]:
    """Each alias with the name at the end of its chain. Raises `ConfigError` for a cycle."""
    ends = {}
    for name in aliases:
        trail = [name]
        while trail[-1] in aliases:
            trail.append(aliases[trail[-1]].target)
            if trail[-1] in trail[:-1]:
                cycle = " -> ".join(trail[trail.index(trail[-1]) :])
                raise ConfigError(
                    f"router_settings.model_group_alias.{name}: aliases in a cycle ({cycle}): "
                    "let one of them name a model_name"
                )
        ends[name] = trail[-1]
    return ends
