"""Who joins a team: known users by id or email, unknown ones made on the way, nobody twice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.management.access import Role, is_admin
from api.management.entries import Desk, every, named
from api.management.people_bodies import Member, OneMember
from broker.account_records import Entry, EntryQuery, Kind
from shared.errors import AlreadyMember, InvalidRequest, PermissionDenied, UserExists
from shared.ids import uuid7

MOST_MEMBERS = 10_000
"""Of one team."""

_ADMINS = frozenset({Role.ADMIN, Role.VIEWER})


@dataclass(frozen=True, slots=True)
class Joining:
    """What must be added to the directory, in one transaction, for members to join."""

    users: tuple[Entry, ...] = ()
    """All who join, in the order asked for."""
    new_users: tuple[Entry, ...] = ()
    """Those of them who did not exist."""
    members: tuple[Entry, ...] = ()

    @property
    def entries(self) -> list[Entry]:
        return [*self.new_users, *self.members]

    @property
    def subjects(self) -> list[str]:
        """Of the announcements."""
        return [f"user:{each.id}" for each in self.new_users] + [f"member:{each.id}" for each in self.members]


async def members_of(desk: Desk, team: str) -> list[Entry]:
    """In the order in which they joined."""
    return await every(desk.directory, EntryQuery(Kind.MEMBER, team=team, newest_first=False), MOST_MEMBERS)


async def join(
    desk: Desk, team: Entry, wanted: Sequence[Member], fields: Mapping[str, Any], present: Sequence[Entry] = ()
) -> Joining:
    """`fields` are what each of them may use within the team. Who is `present` is passed over, as LiteLLM does it,
    unless that leaves nobody: then it raises `AlreadyMember`.

    Raises `InvalidRequest` for a member without id and email, `UserExists` for a new one with another's email, and
    `PermissionDenied` when a team's admin would take in an administrator: a team's admin makes keys for its members,
    and theirs would be an administrator's.
    """
    users, made = await _users(desk, wanted)
    there = {each.user for each in present}
    joining: dict[str, tuple[Entry, Member]] = {}
    for user, member in zip(users, wanted, strict=True):
        if user.id not in there:
            joining.setdefault(user.id, (user, member))
    if wanted and not joining:
        raise _already(wanted)
    if len(there) + len(joining) > MOST_MEMBERS:
        raise InvalidRequest(f"A team may have at most {MOST_MEMBERS} members.", param="member")
    if not is_admin(desk.caller) and any(user.fields.get("user_role") in _ADMINS for user, _ in joining.values()):
        raise PermissionDenied("Only proxy admins may add a user with an admin role to a team.", param="member")
    return Joining(
        users=tuple(user for user, _ in joining.values()),
        new_users=tuple(user for user, _ in joining.values() if user.id in made),
        members=tuple(
            desk.member(team.id, user.id, member_fields(user, member, fields)) for user, member in joining.values()
        ),
    )


async def find_member(desk: Desk, wanted: OneMember) -> Entry | None:
    """By the user's id, else by an email. Raises `InvalidRequest` if neither is given."""
    if wanted.user_id is not None:
        return await desk.directory.get(Kind.MEMBER, f"{wanted.team_id}/{wanted.user_id}")
    if wanted.user_email is None:
        raise InvalidRequest("Either user_id or user_email needs to be passed in", param="user_id")
    invited = EntryQuery(Kind.MEMBER, team=wanted.team_id, field=("user_email", wanted.user_email), limit=1)
    for member in await desk.directory.find(invited):
        return member
    user = await user_with(desk, wanted.user_email)
    return None if user is None else await desk.directory.get(Kind.MEMBER, f"{wanted.team_id}/{user.id}")


async def user_with(desk: Desk, email: str) -> Entry | None:
    query = EntryQuery(Kind.USER, field=("user_email", email), newest_first=False, limit=1)
    return next(iter(await desk.directory.find(query)), None)


async def _users(desk: Desk, wanted: Sequence[Member]) -> tuple[list[Entry], frozenset[str]]:
    """The user of each, and the ids of those that are not there yet."""
    known = await named(desk.directory, Kind.USER, [each.user_id for each in wanted if each.user_id])
    mailed: dict[str, Entry] = {}
    made: dict[str, Entry] = {}
    users = []
    for member in wanted:
        email = member.user_email
        user = known.get(member.user_id or "") or made.get(member.user_id or "")
        if user is None and email is not None:
            user = mailed.get(email) or await user_with(desk, email)
            if user is not None and member.user_id not in (None, user.id):
                raise UserExists(f"User with email {email} already exists", param="user_email")
        if user is None:
            user = _new_user(desk, member)
            made[user.id] = user
        if email is not None:
            mailed[email] = user
        users.append(user)
    return users, frozenset(made)


def _new_user(desk: Desk, member: Member) -> Entry:
    if member.user_id is None and member.user_email is None:
        raise InvalidRequest("Either user_id or user_email needs to be passed in", param="member")
    fields = {"user_email": member.user_email, "user_role": Role.USER.value}
    return desk.entry(Kind.USER, member.user_id or uuid7(), fields)


def member_fields(user: Entry, member: Member, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": member.role, "user_email": member.user_email or user.fields.get("user_email"), **fields}


def _already(wanted: Sequence[Member]) -> AlreadyMember:
    if len(wanted) > 1:
        return AlreadyMember("All users are already in team.", param="member")
    member = wanted[0]
    return AlreadyMember(
        f"User already in team. Member: user_id={member.user_id}, user_email={member.user_email}.", param="member"
    )
