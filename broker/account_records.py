"""Who may use the broker, as the store keeps them: users, teams, members, budgets, customers, models; and the audit.

`fields` hold LiteLLM's names (`max_budget`, `tpm_limit`, `models`, ...) with JSON values, those alone that were set.
Money in them is in dollars, as it was given. Times are seconds since the Unix epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from broker.records import KeyRecord


class Kind(StrEnum):
    USER = "user"
    TEAM = "team"
    MEMBER = "member"
    """A user in a team; its id is `<team>/<user>`."""
    BUDGET = "budget"
    CUSTOMER = "customer"
    MODEL = "model"
    """A deployment of `/model/new`; the secrets in its `litellm_params` are encrypted."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One of them."""

    kind: Kind
    id: str
    alias: str = ""
    """`team_alias`, `user_alias`, `model_name` ...; not unique."""
    team: str = ""
    """Of a member."""
    user: str = ""
    """Of a member."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    created_at: float = 0.0
    created_by: str = ""
    updated_at: float = 0.0
    updated_by: str = ""


@dataclass(frozen=True, slots=True)
class EntryQuery:
    kind: Kind
    ids: tuple[str, ...] = ()
    """Empty: any."""
    team: str | None = None
    user: str | None = None
    text: str | None = None
    """Part of the id or the alias, upper and lower case alike."""
    field: tuple[str, str] | None = None
    """A field that must be equal to this text: `("user_role", "internal_user")`."""
    newest_first: bool = True
    offset: int = 0
    limit: int = 100
    """1 to 1,000."""


@dataclass(frozen=True, slots=True)
class KeyQuery:
    hashes: tuple[str, ...] = ()
    """Empty: any."""
    alias: str | None = None
    user: str | None = None
    team: str | None = None
    teams: tuple[str, ...] = ()
    """Keys of these teams as well as those that `user` names."""
    created_by: str | None = None
    text: str | None = None
    """Part of the alias or the hash."""
    expired: bool | None = None
    now: float = 0.0
    """What `expired` is measured against."""
    blocked: bool | None = None
    sort: str = "created_at"
    """created_at, updated_at, alias or expires_at."""
    descending: bool = True
    offset: int = 0
    limit: int = 100
    """1 to 1,000."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A key and everything that decides what it may do, read together. What it names and is not there is None."""

    key: KeyRecord
    user: Entry | None = None
    team: Entry | None = None
    member: Entry | None = None
    """The key's user in the key's team."""
    budgets: Mapping[str, Entry] = field(default_factory=dict)
    """Those that the others name in `budget_id`, by id."""


@dataclass(frozen=True, slots=True)
class Removed:
    ids: tuple[str, ...]
    """Those that were there."""
    keys: tuple[str, ...] = ()
    """Hashes of keys that went with them."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who manages, for the audit."""

    id: str
    """`litellm-changed-by`, else the user, else the key's hash; empty when the broker runs open."""
    key: str = ""
    """The key's hash."""
    address: str = ""
    """The client's IP address."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """Who did what to what, when and from where. Written in the same transaction as the change itself."""

    id: str
    """UUIDv7."""
    at: float
    actor: Actor
    action: str
    """created, updated, deleted, blocked, unblocked, regenerated, rotated ..."""
    table: str
    """`key`, or a `Kind`."""
    subject: str
    """The id of what was changed."""
    before: Mapping[str, Any] | None = None
    """None for what was created. Secrets are left out."""
    after: Mapping[str, Any] | None = None
    """None for what was deleted."""


@dataclass(frozen=True, slots=True)
class AuditQuery:
    id: str | None = None
    actor: str | None = None
    action: str | None = None
    table: str | None = None
    subject: str | None = None
    start: float | None = None
    end: float | None = None
    after: str | None = None
    """The id of the last record on the page before."""
    limit: int = 50
    """1 to 1,000."""
