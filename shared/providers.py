"""The table of providers: their names, addresses, key variables and departures from OpenAI's dialect.

The rows are in `providers.toml`, where each column is explained. How a provider is spoken to is `workers.providers`'
business; which providers there are is also the configuration's, so the table lives here.

Every function takes a canonical name (see `canonical`) and raises `KeyError` for any other.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

_TABLE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True, slots=True)
class Provider:
    """One row of the table; `providers.toml` says what each column means."""

    name: str
    label: str
    dialect: str = "openai"
    base: str = ""
    base_path: str = ""
    keys: tuple[str, ...] = ()
    needs_key: bool = True
    aliases: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    unsupported: frozenset[str] = frozenset()
    stream_options: bool = True
    batch_api: bool = False


def known() -> frozenset[str]:
    """The canonical names of all providers."""
    return frozenset(_table())


def provider(name: str) -> Provider:
    return _table()[name]


def canonical(name: str) -> str | None:
    """The provider that `name` is a name or an alias of; case does not matter."""
    return _names().get(name.lower())


def api_key_variables(name: str) -> tuple[str, ...]:
    """Environment variables that may hold the API key; the first one that is set wins."""
    return provider(name).keys


def api_base_variable(name: str) -> str:
    """The environment variable that replaces `default_base`: `GROQ_API_BASE`."""
    return f"{name.upper()}_API_BASE"


def default_base(name: str) -> str:
    """The provider's own address; empty when every installation has its own."""
    return provider(name).base


def needs_key(name: str) -> bool:
    return provider(name).needs_key


def label(name: str) -> str:
    """The name in error messages: `DeepSeek`."""
    return provider(name).label


def provider_of(model: str) -> str | None:
    """The provider that a bare model name belongs to: `claude-sonnet-4-5` is Anthropic's."""
    for row in _table().values():
        if any(fnmatchcase(model, pattern) for pattern in row.models):
            return row.name
    return None


@cache
def _table() -> dict[str, Provider]:
    rows = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    return {
        name: Provider(
            name=name,
            label=row.pop("label"),
            keys=tuple(row.pop("keys", ())),
            aliases=tuple(row.pop("aliases", ())),
            models=tuple(row.pop("models", ())),
            unsupported=frozenset(row.pop("unsupported", ())),
            **row,
        )
        for name, row in rows.items()
    }


@cache
def _names() -> dict[str, str]:
    return {each: row.name for row in _table().values() for each in (row.name, *row.aliases)}
