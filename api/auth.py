"""API key -> Principal: the master key, and virtual keys from the store, remembered for a minute."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from broker.records import KeyRecord
from broker.store_interfaces import Keys
from shared.clock import Clock
from shared.errors import InvalidKey, NotAuthenticated, Unavailable
from shared.job_plan import Caller

_HEADERS = ("x-litellm-api-key", "authorization", "api-key", "x-api-key", "x-goog-api-key", "ocp-apim-subscription-key")
"""Where a key may stand, first match wins: LiteLLM's order."""

_TTL = 60.0  # seconds that a key is believed; so long may one that another process deleted still be used
_UNKNOWN_TTL = 5.0  # seconds that the store is not asked again for a key that it did not have
_AWAY_TTL = 5.0  # seconds that the store is not asked again for a key that is known, after it was away
_MOST_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Principal(Caller):
    """Who is calling."""

    admin: bool = False

    @property
    def scope(self) -> str | None:
        """The `owner` filter of what the caller may see: an administrator sees everybody's."""
        return None if self.admin else self.key


ANYONE = Principal(key="", admin=True)
"""Everybody, while no master key is set; the broker is then bound to loopback."""


class Authenticator:
    """Keeps keys by their hashes only."""

    def __init__(self, master_key: str | None, keys: "KeyCache") -> None:
        self._master = hashed(master_key) if master_key else None
        self.keys = keys

    def known(self, headers: Mapping[str, str]) -> Principal | None:
        """The caller, if nobody needs to be asked; None for a key that `principal` must look up. Raises
        `NotAuthenticated` without a key, and `InvalidKey` for one that is unknown, blocked or expired."""
        if self._master is None:
            return ANYONE
        key = _key(headers)
        if not key:
            raise NotAuthenticated("Authentication Error, No api key passed in.")
        digest = hashed(key)
        if hmac.compare_digest(digest, self._master):
            return Principal(key=digest, admin=True)
        if not key.startswith("sk-"):
            raise NotAuthenticated(
                "Authentication Error, LiteLLM Virtual Key expected. "
                f"Received={_masked(key)}, expected to start with 'sk-'."
            )
        return self.keys.fresh(digest)

    async def principal(self, headers: Mapping[str, str]) -> Principal:
        """The caller. Raises what `known` does, and `Unavailable` for a key that nobody can look up now."""
        return self.known(headers) or await self.keys.look_up(hashed(_key(headers)))


@dataclass(slots=True)
class _Entry:
    principal: Principal | None
    """None for a key that may not be used."""
    refusal: str
    expires_at: float | None
    """When the key itself expires, in seconds since the epoch."""
    fresh_until: float
    """Monotonic seconds."""


class KeyCache:
    """Virtual keys that were used lately. While the store is away, they stay known."""

    def __init__(self, keys: Keys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._refused: dict[str, _Entry] = {}  # apart, so that guessing keys pushes no good one out

    def fresh(self, digest: str) -> Principal | None:
        """The key's principal; None when the store must be asked. Raises `InvalidKey`."""
        entry = self._entries.get(digest) or self._refused.get(digest)
        if entry is None or entry.fresh_until < self._clock.monotonic():
            return None
        return self._admitted(entry)

    async def look_up(self, digest: str) -> Principal:
        """Ask the store. Raises `InvalidKey`, and `Unavailable` when the store is away and the key was not known."""
        try:
            record = await self._keys.get(digest)
        except Unavailable:
            stale = self._entries.get(digest)
            if stale is None:
                raise
            stale.fresh_until = self._clock.monotonic() + _AWAY_TTL
            return self._admitted(stale)
        entry = self._entry(record)
        self.forget(digest)
        entries = self._refused if entry.principal is None else self._entries
        while len(entries) >= _MOST_KEYS:
            del entries[next(iter(entries))]  # the oldest
        entries[digest] = entry
        return self._admitted(entry)

    def forget(self, digest: str) -> None:
        """The key was changed or deleted."""
        self._entries.pop(digest, None)
        self._refused.pop(digest, None)

    def _entry(self, record: KeyRecord | None) -> _Entry:
        now = self._clock.monotonic()
        if record is None:
            return _Entry(None, "Authentication Error, Invalid API key provided.", None, now + _UNKNOWN_TTL)
        if record.blocked:
            return _Entry(None, "Authentication Error, Key is blocked.", None, now + _TTL)
        principal = Principal(key=record.hash, team=record.team, user=record.user, max_queue_wait=record.max_queue_wait)
        return _Entry(principal, "", record.expires_at, now + _TTL)

    def _admitted(self, entry: _Entry) -> Principal:
        if entry.principal is None:
            raise InvalidKey(entry.refusal, param="key")
        if entry.expires_at is not None and entry.expires_at <= self._clock.now():
            raise InvalidKey("Authentication Error - Expired Key.", param="key")
        return entry.principal


def hashed(key: str) -> str:
    """What is kept of a key: its SHA-256 in hex."""
    return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _key(headers: Mapping[str, str]) -> str:
    for name in _HEADERS:
        value = headers.get(name)
        if value is None:
            continue
        scheme, _, rest = value.strip().partition(" ")
        if scheme.lower() in ("bearer", "basic"):
            return rest.strip()
        return "" if name == "authorization" else value.strip()
    return ""


def _masked(key: str) -> str:
    return "****" if len(key) < 12 else f"{key[:4]}****{key[-4:]}"
