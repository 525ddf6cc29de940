"""`headrace check`: what the configuration asks for, and whether it is there. Prints no secret."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from rich.table import Table
from rich.text import Text

from shared import config_model, providers
from shared.catalog import Catalog, Deployment
from shared.catalog_builder import build_catalog
from shared.config import SECTIONS, Config
from shared.config_keys import IGNORED
from shared.config_variables import Reference
from shared.errors import AppError, ConfigError
from shared.settings import Settings

PING_TIMEOUT = 3.0  # seconds

Ping = Callable[[], Awaitable[None]]


class State(StrEnum):
    OK = "ok"
    MISSING = "missing"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    area: str
    """settings, config, variable, provider, key or server."""
    name: str
    state: State
    detail: str
    """What was found; for anything but ok, what to do about it."""


async def audit(settings: Settings, config: Config, path: Path | None, pings: Mapping[str, Ping]) -> list[Finding]:
    """Everything worth knowing before a start. Load `config` leniently, or it stops at the first missing variable.

    `path` is the configuration file, None when there is none. `pings` has a call for each server, by the names queue,
    events, limits and store; each gets 3 seconds, in which importing a driver counts, and may raise `Unavailable` or
    `OSError`.
    """
    findings = [*_settings(settings), *_variables(config)]
    try:
        catalog = build_catalog(config)
    except ConfigError as exc:
        findings.append(Finding("config", config.name, State.ERROR, str(exc)))
    else:
        findings += [*_models(config, catalog, path), *_providers(catalog)]
    findings += _keys(config)
    findings += await asyncio.gather(*(_server(name, ping, settings) for name, ping in pings.items()))
    return findings


def failed(findings: Iterable[Finding]) -> bool:
    """Whether a start would fail: something is missing or wrong. Warnings do not count."""
    return any(each.state in (State.MISSING, State.ERROR) for each in findings)


def render(findings: Sequence[Finding]) -> Table:
    table = Table("area", "name", "state", "detail")
    for each in findings:
        # Text, because names such as `model_list[0]` would be read as markup.
        state = Text(each.state, style=_STYLES[each.state])
        table.add_row(Text(each.area), Text(each.name, overflow="fold"), state, Text(each.detail, overflow="fold"))
    return table


_STYLES = {State.OK: "green", State.MISSING: "bold red", State.WARNING: "yellow", State.ERROR: "bold red"}


def _settings(settings: Settings) -> Iterator[Finding]:
    if settings.master_key is None:
        detail = "not set, so anybody who reaches the port may use it: set HEADRACE_MASTER_KEY"
        yield Finding("settings", "master key", State.WARNING, detail)
    else:
        yield Finding("settings", "master key", State.OK, masked(settings.master_key.get_secret_value()))


def _variables(config: Config) -> Iterator[Finding]:
    """One finding for each variable that the files name, wherever they name it."""
    by_name: dict[str, list[Reference]] = {}
    for reference in config.references:
        by_name.setdefault(reference.variable, []).append(reference)
    for name, references in by_name.items():
        places = ", ".join(f"{each.file}: {each.key}" for each in references)
        if references[0].present:
            yield Finding("variable", name, State.OK, places)
        elif any(each.used for each in references):
            yield Finding("variable", name, State.MISSING, f"named in {places}: set it, or remove the line")
        else:
            yield Finding("variable", name, State.WARNING, f"not set, but only ignored keys name it ({places})")


def _models(config: Config, catalog: Catalog, path: Path | None) -> Iterator[Finding]:
    source = config.name if path is not None else "no file"
    models = len(catalog.models())
    places = ", ".join(catalog.providers()) or "no provider"
    yield Finding("config", source, State.OK, f"{models} model{'' if models == 1 else 's'} at {places}")
    for warning in catalog.warnings:
        yield Finding("config", warning.partition(":")[0], State.WARNING, warning)


def _providers(catalog: Catalog) -> Iterator[Finding]:
    by_provider: dict[str, list[Deployment]] = {}
    for each in catalog.connections():
        by_provider.setdefault(each.provider, []).append(each)
    for name, deployments in sorted(by_provider.items()):
        yield _provider(name, deployments)


def _provider(name: str, deployments: Sequence[Deployment]) -> Finding:
    keyless = list(dict.fromkeys(each.group for each in deployments if not each.api_key))
    if providers.needs_key(name) and keyless:
        variable = providers.api_key_variables(name)[0]
        detail = f"no key for {', '.join(keyless)}: set {variable}, or add api_key"
        return Finding("provider", name, State.MISSING, detail)
    if not all(each.api_base or providers.default_base(name) for each in deployments):
        return Finding("provider", name, State.MISSING, f"no address: set {providers.api_base_variable(name)}")
    keys = list(dict.fromkeys(masked(each.api_key) for each in deployments if each.api_key))
    return Finding("provider", name, State.OK, ", ".join(keys) or "needs no key")


def _keys(config: Config) -> Iterator[Finding]:
    for path in config.unknown:
        yield Finding("key", path, State.WARNING, f"unknown, has no effect: {_remedy(path)}")
    for ignored in config.ignored:
        yield Finding("key", ignored.key, State.WARNING, f"ignored: {ignored.reason}")


def _remedy(path: str) -> str:
    section, _, key = path.rpartition(".")
    close = get_close_matches(key, _known_keys(section.partition("[")[0]), n=1, cutoff=0.75)
    return f"did you mean {close[0]}?" if close else "remove it"


def _known_keys(section: str) -> list[str]:
    models: dict[str, type[config_model.Section]] = {
        "model_list": config_model.ModelEntry,
        "general_settings": config_model.GeneralSettings,
        "litellm_settings": config_model.LiteLLMSettings,
        "router_settings": config_model.RouterSettings,
    }
    known = models[section].model_fields if section in models else SECTIONS
    return [*known, *IGNORED.get(section, ())]


async def _server(name: str, ping: Ping, settings: Settings) -> Finding:
    urls = {
        "queue": settings.queue_url,
        "events": settings.events_url,
        "limits": settings.limits_url,
        "store": settings.store_url,
    }
    address = _address(urls.get(name, ""))
    try:
        async with asyncio.timeout(PING_TIMEOUT):
            await ping()
    except TimeoutError:
        detail = f"{address} did not answer within {PING_TIMEOUT:g} s: {_SERVER_REMEDY}"
        return Finding("server", name, State.ERROR, detail)
    except (AppError, OSError) as exc:
        detail = f"{address}: {_without_passwords(str(exc))}: {_SERVER_REMEDY}"
        return Finding("server", name, State.ERROR, detail)
    return Finding("server", name, State.OK, address)


_SERVER_REMEDY = "start it, or correct its address"


def _address(url: str) -> str:
    """Where a server is, without user, password and options."""
    if url.startswith("memory:"):
        return "in this process"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is no number, say; the backend's own message follows
        return "its address"
    if not host:
        return f"{parts.scheme}:{parts.path[1:]}"
    return f"{parts.scheme}://{host}:{port}" if port else f"{parts.scheme}://{host}"


def _without_passwords(text: str) -> str:
    return re.sub(r"://[^/\s]*@", "://***@", text)


def masked(secret: str) -> str:
    """`sk-...abcd`: enough to tell keys apart. Short secrets show nothing, for four characters would be too much."""
    if len(secret) < 16:
        return "set"
    return f"{'sk-' if secret.startswith('sk-') else ''}...{secret[-4:]}"
