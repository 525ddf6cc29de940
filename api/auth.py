"""API key -> Principal."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from shared.errors import InvalidKey, NotAuthenticated

_HEADERS = ("x-litellm-api-key", "authorization", "api-key", "x-api-key", "x-goog-api-key", "ocp-apim-subscription-key")
"""Where a key may stand, first match wins: LiteLLM's order."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling."""

    key: str
    """SHA-256 of the key, in hex; empty when the broker runs open."""
    admin: bool = False


ANYONE = Principal(key="", admin=True)
"""Everybody, while no master key is set; the broker is then bound to loopback."""


class Authenticator:
    """Knows the master key, by its hash only."""

    def __init__(self, master_key: str | None) -> None:
        self._master = sha256(master_key.encode()).hexdigest() if master_key else None

    def principal(self, headers: Mapping[str, str]) -> Principal:
        """The caller. Raises `NotAuthenticated` without a key and `InvalidKey` for an unknown one."""
        if self._master is None:
            return ANYONE
        key = _key(headers)
        if not key:
            raise NotAuthenticated("Authentication Error, No api key passed in.")
        digest = sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        if hmac.compare_digest(digest, self._master):
            return Principal(key=digest, admin=True)
        if not key.startswith("sk-"):
            raise NotAuthenticated(
                "Authentication Error, LiteLLM Virtual Key expected. "
                f"Received={_masked(key)}, expected to start with 'sk-'."
            )
        raise InvalidKey("Authentication Error, Invalid API key provided.", param="key")


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
