"""The key that a request means, by its text, its hash or its alias."""

import re
from collections.abc import Sequence

from api.auth import hashed
from broker.account_records import KeyQuery
from broker.directory_interfaces import Keys
from broker.records import KeyRecord
from shared.errors import InvalidRequest, NotFound

_HASH = re.compile(r"[0-9a-f]{64}")


def key_hash(text: str) -> str:
    """Of a key, or of what is a hash already. What is neither gets a hash that no key has."""
    lower = text.lower()
    return lower if _HASH.fullmatch(lower) else hashed(text)


def key_name(key: str) -> str:
    """The key for people: nothing that helps to guess it."""
    return f"sk-...{key[-4:]}"


async def find_key(keys: Keys, text: str, *, message: str = "Key not found.") -> KeyRecord:
    """Raises `NotFound`."""
    record = await keys.get(key_hash(text))
    if record is None:
        raise NotFound(message, param="key")
    return record


async def find_alias(keys: Keys, alias: str) -> KeyRecord:
    """Raises `NotFound`, and `InvalidRequest` when several have the alias."""
    found = await keys.find(KeyQuery(alias=alias, limit=2))
    if not found:
        raise NotFound(f"Key not found. No key with key_alias={alias!r}.", param="key_alias")
    if len(found) > 1:
        raise InvalidRequest(
            f"Multiple keys share key_alias={alias!r}, so it cannot be used as an identifier.", param="key_alias"
        )
    return found[0]


async def find_keys(keys: Keys, texts: Sequence[str], aliases: Sequence[str]) -> dict[str, KeyRecord]:
    """Those that there are, by what they were called, in the order of the request."""
    asked = {text: key_hash(text) for text in texts}
    found: dict[str, KeyRecord] = {}
    if asked:
        there = await keys.find(KeyQuery(hashes=tuple(set(asked.values())), limit=1000))
        by_hash = {record.hash: record for record in there}
        found = {text: by_hash[digest] for text, digest in asked.items() if digest in by_hash}
    for alias in dict.fromkeys(aliases):
        for record in await keys.find(KeyQuery(alias=alias, limit=1)):
            found[alias] = record
    return found
