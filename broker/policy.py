"""What a key may do, computed once from everything that decides about it. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from broker.account_plans import (
    LIMITS,
    Plans,
    completed,
    customer_plan,
    filled,
    fixed_plans,
    model_plans,
    number,
    proxy_plan,
)
from broker.account_records import Entry, Kind, Resolved
from broker.records import KeyRecord
from shared.accounts import Account
from shared.errors import (
    CustomerModelNotAllowed,
    InvalidKey,
    KeyBlocked,
    KeyExpired,
    ModelNotAllowed,
    TeamModelNotAllowed,
    UserModelNotAllowed,
)
from shared.management import Management
from shared.model_access import EVERYTHING, Access, ModelList

ADMIN = "proxy_admin"
USER = "internal_user"
"""LiteLLM's role of users that name none."""


@dataclass(frozen=True, slots=True)
class Customer:
    """What is known of an end user: None of it is usual."""

    id: str
    blocked: bool
    models: ModelList | None
    plans: Plans
    depends_on: frozenset[str]


class Policy:
    """What one key may do. Immutable but for the windows that its budgets are in."""

    __slots__ = (
        "_by_model", "_fixed", "_team_blocked", "access", "alias", "allowed_routes", "blocked", "depends_on",
        "expires_at", "key", "limits", "max_queue_wait", "name", "role", "tags", "team", "user", "waits",
    )  # fmt: skip

    def __init__(self, key: str = "", role: str = "", fixed: Plans | None = None) -> None:
        """Of the master key, or of everybody if the broker runs open; `resolve` makes all others."""
        self.key = key
        """Its SHA-256 in hex."""
        self.name = ""
        self.alias = ""
        self.team = ""
        self.user = ""
        self.role = role
        """LiteLLM's `user_role`; empty for a key without a user."""
        self.max_queue_wait: float | None = None
        self.tags: tuple[str, ...] = ()
        self.access = EVERYTHING
        self.allowed_routes: tuple[str, ...] = ()
        """Empty: all."""
        self.waits = False
        """`on_limit: wait`: what is over a limit waits for its turn instead of being refused."""
        self.limits: Mapping[str, float] = {}
        """The key's own `rpm_limit`, `tpm_limit`, `max_budget` ..., for headers; those that are set."""
        self.blocked = False
        self.expires_at: float | None = None
        self.depends_on: frozenset[str] = frozenset()
        """Subjects of changes that this policy must be made anew after."""
        self._team_blocked = False
        self._fixed = fixed
        self._by_model: dict[str, Plans] = {}

    @property
    def limited(self) -> bool:
        """Whether a job of this key may need to be admitted, whoever its customer is."""
        return bool(self._fixed) or bool(self._by_model)

    def accounts(self, group: str, customer: Customer | None, now: float) -> tuple[Account, ...]:
        """Those that limit a job of this model group, now; `now` is seconds since the epoch."""
        accounts = self._fixed.at(now) if self._fixed else ()
        if self._by_model and (plans := self._by_model.get(group)) is not None:
            accounts += plans.at(now)
        if customer is not None:
            accounts += customer.plans.at(now)
        return accounts

    def refusal(self, now: float) -> InvalidKey | None:
        """Why nobody may use the key, if so."""
        if self.blocked:
            return KeyBlocked("Authentication Error, Key is blocked. Update via `/key/unblock` if you're an admin.")
        if self._team_blocked:
            return KeyBlocked(
                f"Authentication Error, Team={self.team} is blocked. Update via `/team/unblock` if you're an admin."
            )
        if self.expires_at is not None and self.expires_at <= now:
            return KeyExpired(
                f"Authentication Error - Expired Key. Key Expiry time {_shown(self.expires_at)} "
                f"and current time {_shown(now)}",
                param=self.key,
            )
        return None


UNLIMITED = Policy()
"""Of nobody in particular."""


def master(digest: str, management: Management) -> Policy:
    """The policy of the master key; with an empty digest of everybody, while there is none."""
    return Policy(digest, ADMIN, Plans([proxy_plan(management)], management.calendar))


def resolve(found: Resolved, management: Management) -> Policy:
    key, user, team = found.key, found.user, found.team
    own = filled(key.fields, found.budgets)
    policy = Policy(key.hash, _role(key, user), Plans(fixed_plans(found, own, management), management.calendar))
    policy.name, policy.alias = key.name, key.alias
    policy.team, policy.user = key.team, key.user
    policy.max_queue_wait = key.max_queue_wait
    policy.tags = tuple(_names(own.get("tags")) or _names(key.metadata.get("tags")))
    policy.access = _access(found, management)
    policy.allowed_routes = tuple(_names(own.get("allowed_routes")))
    policy.waits = own.get("on_limit") == "wait"
    policy.limits = {
        name: limit if name == "max_budget" else int(limit)
        for name in (*LIMITS, "max_budget")
        if (limit := number(own.get(name))) is not None
    }
    policy.blocked = key.blocked
    policy.expires_at = key.expires_at
    policy.depends_on = frozenset(_subjects(found))
    policy._team_blocked = team is not None and bool(team.fields.get("blocked"))
    policy._by_model = model_plans(found, own, management.calendar)
    return policy


def customer(id: str, entry: Entry | None, budget: Entry | None, management: Management) -> Customer | None:
    """None for one that nothing is known of and nothing limits. `budget` is the one that the entry names, or the
    default."""
    given = entry.fields if entry is not None else {}
    fields = dict(given) if budget is None else completed(given, budget.fields)
    if fields.get("max_budget") is None and management.max_end_user_budget is not None:
        fields["max_budget"] = management.max_end_user_budget
    plans = Plans([customer_plan(id, fields)], management.calendar)
    models = ModelList.of(_names(fields.get("models")), CustomerModelNotAllowed)
    if entry is None and not plans:
        return None
    named = str(fields.get("budget_id") or management.max_end_user_budget_id)
    depends_on = {f"customer:{id}", *([f"budget:{named}"] if named else [])}
    return Customer(id, bool(fields.get("blocked")), models, plans, frozenset(depends_on))


_WITHIN_A_TEAM = {"proxy_admin": USER, "proxy_admin_viewer": "internal_user_viewer"}


def _role(key: KeyRecord, user: Entry | None) -> str:
    if not key.user:
        return ""
    role = str((user.fields.get("user_role") if user is not None else None) or USER)
    # An admin of the team may have made the key, or have it made anew: it must not lend them its user's power.
    return _WITHIN_A_TEAM.get(role, role) if key.team else role


def _access(found: Resolved, management: Management) -> Access:
    key, user, team = found.key.fields, found.user, found.team
    lists = [ModelList.of(_names(key.get("models")), ModelNotAllowed)]
    if team is not None:
        lists.append(ModelList.of(_names(team.fields.get("models")), TeamModelNotAllowed))
    elif user is not None:  # whose models are those of personal keys
        lists.append(ModelList.of(_names(user.fields.get("models")), UserModelNotAllowed))
    aliases = _texts(team.fields.get("model_aliases") if team else None) | _texts(key.get("aliases"))
    restricting = tuple([each for each in lists if each is not None])
    if not restricting and not aliases:
        return EVERYTHING
    return Access(restricting, aliases or None, management.enforce_fallback_model_access)


def _subjects(found: Resolved) -> Iterator[str]:
    key = found.key
    if key.user:
        yield f"{Kind.USER}:{key.user}"
    if key.team:
        yield f"{Kind.TEAM}:{key.team}"
        if key.user:
            yield f"{Kind.MEMBER}:{key.team}/{key.user}"
    for each in (key, found.user, found.team, found.member):
        if each is not None and (named := each.fields.get("budget_id")):
            yield f"{Kind.BUDGET}:{named}"


def _names(value: Any) -> Sequence[str]:
    return [str(each) for each in value] if isinstance(value, list | tuple) else ()


def _texts(value: Any) -> dict[str, str]:
    return {str(name): str(text) for name, text in value.items()} if isinstance(value, Mapping) else {}


def _shown(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds")
