"""LiteLLM's `config.yaml`, read, checked and typed. What it says about models becomes a catalog in `catalog_builder`.

A file that cannot run raises `ConfigError`: one line with the file, the key and the remedy, and no secret. Keys that
nobody uses never fail; they are listed in `Config.unknown` and `Config.ignored`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError

from shared import config_files, config_keys, providers
from shared.config_errors import dotted, explain, shown
from shared.config_files import Document
from shared.config_model import (
    Credential,
    GeneralSettings,
    LiteLLMParams,
    LiteLLMSettings,
    ModelEntry,
    ModelInfo,
    RouterSettings,
    Section,
)
from shared.config_variables import Reference, Resolver
from shared.errors import ConfigError

SECTIONS = {
    "model_list",
    "litellm_settings",
    "general_settings",
    "router_settings",
    "environment_variables",
    "credential_list",
    "include",
}

_Section = TypeVar("_Section", bound=Section)
_Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Ignored:
    """A key that Headrace knows and does not use."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One element of `model_list`, and where it stands."""

    where: str
    """`config.yaml: model_list[2]`, the beginning of an error message about it."""
    fingerprint: str
    """Hash of its name and parameters as written: the same on machines whose environments differ."""
    name: str
    params: LiteLLMParams
    defaults: Mapping[str, Any] = field(repr=False)
    """Default request parameters: the keys of `litellm_params` that mean nothing to us."""
    info: ModelInfo
    written_info: Mapping[str, Any]
    """`model_info` with all its keys."""


@dataclass(frozen=True, slots=True)
class Config:
    name: str
    """The main file, as messages name it."""
    entries: tuple[Entry, ...]
    credentials: Mapping[str, Mapping[str, str]] = field(repr=False)
    general_settings: GeneralSettings
    litellm_settings: LiteLLMSettings
    router_settings: RouterSettings
    environment_variables: Mapping[str, str] = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)
    """The environment, with `environment_variables` laid over it."""
    lenient: bool
    """Missing variables and keys were left out instead of being errors."""
    unknown: list[str]
    """Dotted paths of keys that nobody knows."""
    ignored: list[Ignored]
    references: list[Reference]
    """Every `os.environ/NAME` in the files."""


def load(path: Path, environ: Mapping[str, str], missing: list[Reference] | None = None) -> Config:
    """The configuration in `path` and the files it includes; reads no other file and changes nothing.

    With a `missing` list, references to variables that are not set are added to it and their lines are left out;
    without one they are errors. Raises `ConfigError`.
    """
    config = build(config_files.read(path), environ, lenient=missing is not None)
    if missing is not None:
        missing.extend(each for each in config.references if each.used and not each.present)
    return config


def default_config(environ: Mapping[str, str]) -> Config:
    """What runs without a file: the model `simulated`, and every model of each provider whose key is set."""
    entries = [_entry("simulated", "simulated/echo")]
    for name in sorted(providers.known()):
        variables = providers.api_key_variables(name)
        if not providers.needs_key(name):
            variables = (providers.api_base_variable(name),)  # a server of one's own is known by its address
        if name != "simulated" and any(environ.get(each) for each in variables):
            entries.append(_entry(f"{name}/*", f"{name}/*"))
    return build([Document("the default configuration", {"model_list": entries})], environ)


def _entry(name: str, model: str) -> dict[str, Any]:
    return {"model_name": name, "litellm_params": {"model": model}}


def build(documents: list[Document], environ: Mapping[str, str], *, lenient: bool = False) -> Config:
    """The configuration in files already read, the main one first; where two set the same key, the first one wins."""
    preamble = _Reader(documents, Resolver(environ, lenient))
    variables = preamble.environment_variables()

    environ = {**environ, **variables}
    reader = _Reader(documents, Resolver(environ, lenient))
    reader.top_level()
    return Config(
        name=documents[0].name,
        general_settings=reader.section("general_settings", GeneralSettings),
        litellm_settings=reader.section("litellm_settings", LiteLLMSettings),
        router_settings=reader.router_settings(),
        credentials=reader.credentials(),
        entries=tuple(reader.entries()),
        environment_variables=variables,
        environ=environ,
        lenient=lenient,
        unknown=reader.unknown,
        ignored=reader.ignored,
        references=preamble.resolver.references + reader.resolver.references,
    )


def stored_entry(file: str, key: str, written: dict[str, Any], environ: Mapping[str, str]) -> Entry:
    """An element of `model_list` that stands elsewhere, say in the database; `file` and `key` begin messages about it.
    `os.environ/NAME` means here what it means in a file. Raises `ConfigError`."""
    entry = _Reader([Document(file, {})], Resolver(environ, lenient=False)).entry(Document(file, {}), (key,), written)
    assert entry is not None, "only a lenient reader leaves entries out"
    return entry


class _Reader:
    """Walks the documents, section by section, and remembers what it met and did not use."""

    def __init__(self, documents: list[Document], resolver: Resolver) -> None:
        self.documents = documents
        self.resolver = resolver
        self.unknown: list[str] = []
        self.ignored: list[Ignored] = []

    def top_level(self) -> None:
        for document in self.documents:
            for key, value in document.content.items():
                if key not in SECTIONS:
                    self._unused("", key, value, document.name, (key,))

    def environment_variables(self) -> dict[str, str]:
        variables: dict[str, str] = {}
        for document in self.documents:
            for key, value in self._mapping(document, "environment_variables").items():
                path = ("environment_variables", key)
                if isinstance(value, dict | list):
                    raise _wrong(document.name, path, "text", value, "text")
                resolved = self.resolver.resolve(value, document.name, path)
                if resolved is not None:
                    variables.setdefault(key, str(resolved))
        return variables

    def section(self, name: str, model: type[_Section]) -> _Section:
        written: dict[str, Any] = {}
        resolved: dict[str, Any] = {}
        files: dict[str, str] = {}
        for document in self.documents:
            for key, value in self._mapping(document, name).items():
                if key not in model.model_fields:
                    self._unused(name, key, value, document.name, (name, key))
                elif key not in written:
                    written[key] = value
                    resolved[key] = self.resolver.resolve(value, document.name, (name, key))
                    files[key] = document.name
        return _validate(model, resolved, written, (name,), files)

    def router_settings(self) -> RouterSettings:
        settings = self.section("router_settings", RouterSettings)
        if settings.routing_strategy != "simple-shuffle":
            reason = f"{settings.routing_strategy} is not supported; deployments are chosen by simple-shuffle"
            self.ignored.append(Ignored("router_settings.routing_strategy", reason))
        return settings

    def credentials(self) -> dict[str, dict[str, str]]:
        credentials: dict[str, dict[str, str]] = {}
        for document, path, written in self._elements("credential_list"):
            resolved = self.resolver.resolve(written, document.name, path)
            credential = _validate(Credential, resolved, written, path, document.name)
            credentials.setdefault(credential.credential_name, credential.credential_values)
        return credentials

    def entries(self) -> list[Entry]:
        return [
            entry
            for document, path, written in self._elements("model_list")
            if (entry := self.entry(document, path, written)) is not None
        ]

    def entry(self, document: Document, path: _Path, written: dict[str, Any]) -> Entry | None:
        for key, value in written.items():
            if key not in ModelEntry.model_fields:
                self._unused("model_list", key, value, document.name, (*path, key))
        known, defaults = self._params(document, path, written.get("litellm_params"))
        resolved = {
            "model_name": self.resolver.resolve(written.get("model_name"), document.name, (*path, "model_name")),
            "litellm_params": known,
            "model_info": self.resolver.resolve(written.get("model_info"), document.name, (*path, "model_info")),
        }
        if self._nameless(resolved, written):
            return None

        model = _validate(ModelEntry, resolved, written, path, document.name)
        return Entry(
            where=f"{document.name}: {dotted(path)}",
            fingerprint=_fingerprint(written),
            name=model.model_name,
            params=model.litellm_params,
            defaults=defaults,
            info=model.model_info,
            written_info=resolved["model_info"] or {},
        )

    def _params(self, document: Document, path: _Path, written: Any) -> tuple[Any, dict[str, Any]]:
        """`litellm_params` parted into the keys we use and default request parameters."""
        if not isinstance(written, dict):
            return written, {}
        known: dict[str, Any] = {}
        defaults: dict[str, Any] = {}
        for key, value in written.items():
            place = (*path, "litellm_params", str(key))
            if key in LiteLLMParams.model_fields:
                known[key] = self.resolver.resolve(value, document.name, place)
            elif config_keys.ignored("litellm_params", str(key)):
                self._unused("litellm_params", str(key), value, document.name, place)
            elif (resolved := self.resolver.resolve(value, document.name, place)) is not None:
                defaults[str(key)] = resolved
        return known, defaults

    def _nameless(self, resolved: dict[str, Any], written: dict[str, Any]) -> bool:
        """Whether, leniently, a missing variable took the entry's name or model away: nothing can be said about it."""
        if not self.resolver.lenient:
            return False
        params = written.get("litellm_params")
        model_is_gone = isinstance(params, dict) and params.get("model") and resolved["litellm_params"]["model"] is None
        return bool(model_is_gone or (written.get("model_name") and resolved["model_name"] is None))

    def _unused(self, section: str, key: str, value: Any, file: str, path: _Path) -> None:
        reason = config_keys.ignored(section, key)
        if reason is None:
            self.unknown.append(dotted(path))
        else:
            self.ignored.append(Ignored(dotted(path), reason))
        self.resolver.note(value, file, path)

    def _mapping(self, document: Document, name: str) -> dict[str, Any]:
        content = document.content.get(name)
        if content is None:
            return {}
        if not isinstance(content, dict):
            raise _wrong(document.name, (name,), "a mapping", content, "{key: value}")
        return {str(key): value for key, value in content.items()}

    def _elements(self, name: str) -> list[tuple[Document, _Path, dict[str, Any]]]:
        elements: list[tuple[Document, _Path, dict[str, Any]]] = []
        for document in self.documents:
            content = document.content.get(name)
            if content is None:
                continue
            if not isinstance(content, list):
                raise _wrong(document.name, (name,), "a list", content, "[{...}]")
            for index, element in enumerate(content):
                if not isinstance(element, dict):
                    raise _wrong(document.name, (name, index), "a mapping", element, "{key: value}")
                elements.append((document, (name, index), element))
        return elements


def _wrong(file: str, path: _Path, expected: str, value: Any, example: str) -> ConfigError:
    key = str(next(part for part in reversed(path) if isinstance(part, str)))
    line = f"{file}: {dotted(path)}: expected {expected}, got {shown(value, key)}: write e.g. {key}: {example}"
    return ConfigError(line)


def _validate(
    model: type[_Section],
    resolved: Any,
    written: Any,
    path: _Path,
    files: Mapping[str, str] | str,
) -> _Section:
    """`files` names the file of each key, or of all. `written` is what messages show instead of resolved values."""
    try:
        return model.model_validate(resolved)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        place = error["loc"]
        file = files if isinstance(files, str) else files.get(str(place[0]), next(iter(files.values()), ""))
        full = (*path, *place)
        key = str(next(part for part in reversed(full) if isinstance(part, str)))
        line = f"{file}: {dotted(full)}: {explain(error, key=key, raw=_dig(written, place))}"
        raise ConfigError(line) from None  # the cause would show the value


def _dig(value: Any, path: _Path) -> Any:
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return value
    return value


def _fingerprint(written: dict[str, Any]) -> str:
    identity = [written.get("model_name"), written.get("litellm_params")]
    canonical = orjson.dumps(identity, default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return hashlib.sha256(canonical).hexdigest()[:32]
