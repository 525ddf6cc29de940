"""What the routes for users, teams, members, budgets and customers are sent, under LiteLLM's names."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from api.management.bodies import (
    Body,
    Budget,
    Count,
    Duration,
    Identifier,
    Metadata,
    ModelCounts,
    ModelNames,
    Name,
    Names,
    refuse,
)
from api.management.key_bodies import BudgetWindow, ModelBudget
from api.management.shapes import IN_METADATA

MOST_AT_ONCE = 500
"""Members, users, teams ... that one request may name: LiteLLM's bound for `/team/bulk_member_add`."""

_MOST_WINDOWS = 7  # and the budget itself: an account has at most 8
_MOST_MODELS = 1000


def _filled(value: str, info: ValidationInfo) -> str:
    if not value.strip():
        raise refuse(f"{info.field_name} must not be empty.")
    return value


def _address(value: str, info: ValidationInfo) -> str:
    local, _, host = value.strip().rpartition("@")
    if not local or not host or " " in value.strip():
        raise refuse(f"{info.field_name} is not an email address: {value[:100]!r}.")
    return value.strip().lower()


Id = Annotated[Name, AfterValidator(_filled)]
TeamId = Annotated[Identifier, AfterValidator(_filled)]
Ids = Annotated[list[Id], Field(max_length=MOST_AT_ONCE)]
Email = Annotated[Name, AfterValidator(_address)]
"""In lower case, as it is kept: no two users have the same."""
UserRole = Literal["proxy_admin", "proxy_admin_viewer", "internal_user", "internal_user_viewer"]
MemberRole = Literal["admin", "user"]


Windows = Annotated[list[BudgetWindow], Field(max_length=_MOST_WINDOWS)]
"""Several budgets that hold at the same time."""
ModelBudgets = Annotated[dict[Name, ModelBudget], Field(max_length=_MOST_MODELS)]
Aliases = Annotated[dict[Name, Name], Field(max_length=_MOST_MODELS)]


class Limited(Body):
    """Limits that a user, a team, a budget and a customer may have."""

    max_budget: Budget = None
    soft_budget: Budget = None
    budget_duration: Duration | None = None
    max_parallel_requests: Count | None = None
    tpm_limit: Count | None = None
    rpm_limit: Count | None = None
    tpd_limit: Count | None = None
    model_max_budget: ModelBudgets | None = None


class Limits(Limited):
    """Limits and permissions of users and teams."""

    budget_limits: Windows | None = None
    budget_id: Id | None = None
    models: ModelNames | None = None
    metadata: Metadata | None = None
    blocked: bool | None = None
    model_rpm_limit: ModelCounts | None = None
    model_tpm_limit: ModelCounts | None = None
    tags: Names | None = None
    guardrails: Names | None = None
    policies: Names | None = None
    prompts: Names | None = None
    object_permission: Metadata | None = None

    @model_validator(mode="before")
    @classmethod
    def _lifted(cls, sent: Any) -> Any:
        """LiteLLM keeps some fields within `metadata`, and takes them from there."""
        metadata = sent.get("metadata") if isinstance(sent, dict) else None
        if not isinstance(metadata, dict):
            return sent
        inside = {name: metadata[name] for name in IN_METADATA if name in metadata and name in cls.model_fields}
        rest = {name: value for name, value in metadata.items() if name not in inside}
        return {**inside, **sent, "metadata": rest}


# --- Users ----------------------------------------------------------------------------------------------------------


class TeamOfNewUser(Body):
    team_id: TeamId
    max_budget_in_team: Budget = None
    user_role: MemberRole = "user"


class UserFields(Limits):
    user_email: Email | None = None
    user_alias: Name | None = None
    user_role: UserRole | None = None
    sso_user_id: Name | None = None
    organization_id: Name | None = None
    spend: Budget = None
    """Dollars that count as spent from now on, whatever the ledger had before."""
    aliases: Aliases | None = None
    config: Metadata | None = None
    permissions: Metadata | None = None
    allowed_cache_controls: Names | None = None


class NewUser(UserFields):
    user_id: Id | None = None
    team_id: TeamId | None = None
    teams: Annotated[list[TeamId | TeamOfNewUser], Field(max_length=MOST_AT_ONCE)] | None = None
    auto_create_key: bool = True
    key_alias: Name | None = None
    """This and `duration` are the key's."""
    duration: Duration | None = None


class UserChange(UserFields):
    user_id: Id | None = None


class UserIds(Body):
    user_ids: Ids


# --- Teams ----------------------------------------------------------------------------------------------------------


class Member(Body):
    user_id: Id | None = None
    user_email: Email | None = None
    role: MemberRole


Members = Annotated[list[Member], Field(max_length=MOST_AT_ONCE)]


class TeamFields(Limits):
    team_alias: Name | None = None
    organization_id: Name | None = None
    model_aliases: Aliases | None = None
    router_settings: Metadata | None = None
    access_group_ids: Names | None = None
    team_member_permissions: Names | None = None
    default_team_member_models: ModelNames | None = None
    team_member_budget: Budget = None
    """What members may spend who have no budget of their own; so with the three below."""
    team_member_budget_duration: Duration | None = None
    team_member_rpm_limit: Count | None = None
    team_member_tpm_limit: Count | None = None
    team_member_key_duration: Duration | None = None


class NewTeam(TeamFields):
    team_id: TeamId | None = None
    members_with_roles: Members = Field(default_factory=list)
    admins: Ids = Field(default_factory=list)
    """Older than `members_with_roles`: user ids."""
    members: Ids = Field(default_factory=list)


class TeamChange(TeamFields):
    team_id: Id


class TeamIds(Body):
    team_ids: Ids


class OneTeam(Body):
    team_id: Id


# --- Members --------------------------------------------------------------------------------------------------------


class MemberFields(Body):
    max_budget_in_team: Budget = None
    budget_duration: Duration | None = None
    tpm_limit: Count | None = None
    rpm_limit: Count | None = None
    budget_id: Id | None = None


class NewMembers(MemberFields):
    team_id: Id
    member: Members | Member

    @property
    def listed(self) -> list[Member]:
        return self.member if isinstance(self.member, list) else [self.member]


class OneMember(Body):
    team_id: Id
    user_id: Id | None = None
    user_email: Email | None = None


class MemberChange(MemberFields, OneMember):
    role: MemberRole | None = None


# --- Budgets --------------------------------------------------------------------------------------------------------


class BudgetFields(Limited):
    budget_id: Id | None = None


class BudgetIds(Body):
    budgets: Ids


class OneBudget(Body):
    id: Id


# --- Customers ------------------------------------------------------------------------------------------------------


class CustomerFields(Limited):
    user_id: Id
    alias: Name | None = None
    blocked: bool | None = None
    budget_id: Id | None = None
    spend: Budget = None
    allowed_model_region: Literal["eu", "us"] | None = None
    default_model: Name | None = None
    models: ModelNames | None = None
    metadata: Metadata | None = None
    object_permission: Metadata | None = None


def fields_of(body: Body, *left_out: str) -> dict[str, Any]:
    """What was sent of `Entry.fields`; None clears. A new `metadata` replaces what LiteLLM keeps within it."""
    sent = body.given()
    replaced = [name for name in IN_METADATA if name in type(body).model_fields] if "metadata" in sent else []
    return {name: value for name, value in (dict.fromkeys(replaced) | sent).items() if name not in left_out}
