"""Deployments of `/model/new` as the store keeps them, and as entries of a catalog. Secrets are sealed in between."""

from collections.abc import Mapping
from typing import Any

from broker.account_records import Entry
from shared.config import Entry as CatalogEntry
from shared.config import stored_entry
from shared.errors import ConfigError
from shared.secrets import Sealer, Unsealable


def fields(params: Mapping[str, Any], info: Mapping[str, Any], sealer: Sealer) -> dict[str, Any]:
    """Of an entry of `Kind.MODEL`; every text in `params` is sealed."""
    return {"litellm_params": sealer.seal_all(dict(params)), "model_info": dict(info)}


def params_of(stored: Entry, sealer: Sealer) -> dict[str, Any]:
    """Its `litellm_params`, readable. Raises `ConfigError` if they were sealed under another salt key."""
    try:
        params = sealer.unseal_all(stored.fields.get("litellm_params", {}))
    except Unsealable as exc:
        raise ConfigError(
            f"database: {_label(stored)}: its litellm_params were encrypted under another salt key, or are damaged: "
            "set HEADRACE_SALT_KEY to the key that it was added under, or delete the model and add it again"
        ) from exc
    return params if isinstance(params, dict) else {}


def info_of(stored: Entry) -> dict[str, Any]:
    """Its `model_info`, as `/model/info` shows it."""
    info = stored.fields.get("model_info")
    return {**(info if isinstance(info, dict) else {}), "id": stored.id, "db_model": True}


def blocked(stored: Entry) -> bool:
    """Kept, and not served."""
    return info_of(stored).get("blocked") is True


def catalog_entry(stored: Entry, sealer: Sealer, environ: Mapping[str, str]) -> CatalogEntry:
    """As if it stood in `model_list`. Raises `ConfigError`."""
    return _entry("database", _label(stored), stored.alias, params_of(stored, sealer), info_of(stored), environ)


def asked_entry(
    id: str, name: str, params: Mapping[str, Any], info: Mapping[str, Any], environ: Mapping[str, str]
) -> CatalogEntry:
    """What somebody wants to add or to change. Raises `ConfigError`."""
    return _entry("this request", "model", name, params, {**info, "id": id, "db_model": True}, environ)


def _entry(
    file: str, key: str, name: str, params: Mapping[str, Any], info: Mapping[str, Any], environ: Mapping[str, str]
) -> CatalogEntry:
    written = {"model_name": name, "litellm_params": dict(params), "model_info": dict(info)}
    return stored_entry(file, key, written, environ)


def _label(stored: Entry) -> str:
    return f"model {stored.alias!r} ({stored.id})"
