"""API key -> Principal: the master key, and virtual keys, whose policies `broker.policies` remembers."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from broker.policies import PolicyCache
from broker.policies import hashed as hashed
from broker.policy import ADMIN, UNLIMITED, Policy
from shared.errors import NotAuthenticated
from shared.job_plan import Caller

_HEADERS = ("x-litellm-api-key", "authorization", "api-key", "x-api-key", "x-goog-api-key", "ocp-apim-subscription-key")
"""Where a key may stand, first match wins: LiteLLM's order."""

_MOST_PRINCIPALS = 10_000


@dataclass(frozen=True, slots=True)
class Principal(Caller):
    """Who is calling."""

    admin: bool = False
    role: str = ""
    """LiteLLM's `user_role`; empty for a key without a user."""
    policy: Policy = field(default=UNLIMITED, compare=False, repr=False)
    """What the key may do."""

    @classmethod
    def of(cls, policy: Policy) -> Self:
        return cls(
            key=policy.key,
            team=policy.team,
            user=policy.user,
            max_queue_wait=policy.max_queue_wait,
            tags=policy.tags,
            access=policy.access,
            admin=policy.role == ADMIN,
            role=policy.role,
            policy=policy,
        )

    @property
    def scope(self) -> str | None:
        """The `owner` filter of what the caller may see: an administrator sees everybody's."""
        return None if self.admin else self.key


class Authenticator:
    """Keeps keys by their hashes only."""

    def __init__(self, master_key: str | None, keys: PolicyCache, key_header: str = "") -> None:
        """`key_header` is one more name of a header, in lower case, that the key may stand in; it goes before all
        others."""
        self._master = hashed(master_key) if master_key else None
        self.keys = keys
        self._headers = (key_header, *_HEADERS) if key_header else _HEADERS
        self._administrator = Principal.of(keys.master)
        self._principals: dict[str, Principal] = {}

    def known(self, headers: Mapping[str, str]) -> Principal | None:
        """The caller, if nobody needs to be asked; None for a key that `principal` must look up. Raises
        `NotAuthenticated` without a key, and `InvalidKey` for one that is unknown, blocked or expired."""
        if self._master is None:
            return self._administrator  # whoever it is: the broker is then bound to loopback
        key = _key(headers, self._headers)
        if not key:
            raise NotAuthenticated("Authentication Error, No api key passed in.")
        digest = hashed(key)
        if hmac.compare_digest(digest, self._master):
            return self._administrator
        if not key.startswith("sk-"):
            raise NotAuthenticated(
                "Authentication Error, LiteLLM Virtual Key expected. "
                f"Received={_masked(key)}, expected to start with 'sk-'."
            )
        policy = self.keys.fresh(digest)
        return None if policy is None else self._principal(policy)

    async def principal(self, headers: Mapping[str, str]) -> Principal:
        """The caller. Raises what `known` does, and `NoDatabase` for a key that nobody can look up now."""
        known = self.known(headers)
        if known is not None:
            return known
        return self._principal(await self.keys.look_up(hashed(_key(headers, self._headers))))

    def _principal(self, policy: Policy) -> Principal:
        """The same as long as its policy is."""
        found = self._principals.get(policy.key)
        if found is None or found.policy is not policy:
            if len(self._principals) >= _MOST_PRINCIPALS:
                self._principals.clear()
            found = self._principals[policy.key] = Principal.of(policy)
        return found


def _key(headers: Mapping[str, str], names: tuple[str, ...]) -> str:
    for name in names:
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
