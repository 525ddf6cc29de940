"""Users, teams, members and customers as their readers see them: rows, with what was spent and what belongs to them."""

from collections.abc import Sequence
from typing import Any

from api.management.entries import Desk, for_each
from api.management.key_views import look
from api.management.membership import members_of
from api.management.people_shapes import customer_row, membership_row, team_row, user_row
from api.management.people_spends import limits_of, member_limits_of, spends
from broker.account_records import Entry, EntryQuery, KeyQuery, Kind

MOST_KEYS = 1000
"""Of one user or team that are shown with it."""


async def user_rows(desk: Desk, users: Sequence[Entry], *, count_keys: bool = False) -> list[dict[str, Any]]:
    """In their order; with `key_count` as a list has it, if asked."""
    spent = await spends(desk, users, await limits_of(desk, users))
    ids = [user.id for user in users]
    teams = await for_each(ids, lambda id: _teams_of(desk, id))
    rows = [user_row(user, teams[user.id], spent[user.id]) for user in users]
    if count_keys:
        counts = await for_each(ids, lambda id: desk.store.keys.count(KeyQuery(user=id)))
        rows = [{**row, "key_count": counts[row["user_id"]]} for row in rows]
    return rows


async def team_rows(desk: Desk, teams: Sequence[Entry], *, counted: bool = False) -> list[dict[str, Any]]:
    """In their order; with `members_count` and `keys_count` as the second version of the list has them, if asked."""
    spent = await spends(desk, teams, await limits_of(desk, teams))
    ids = [team.id for team in teams]
    members = await for_each(ids, lambda id: members_of(desk, id))
    rows = [team_row(team, members[team.id], spent[team.id]) for team in teams]
    if counted:
        counts = await for_each(ids, lambda id: desk.store.keys.count(KeyQuery(team=id)))
        rows = [
            {**row, "members_count": len(members[row["team_id"]]), "keys_count": counts[row["team_id"]]} for row in rows
        ]
    return rows


async def membership_rows(desk: Desk, team: Entry, members: Sequence[Entry]) -> list[dict[str, Any]]:
    limits = await member_limits_of(desk, team, members)
    spent = await spends(desk, members, limits)
    return [membership_row(member, limits[member.id], spent[member.id]) for member in members]


async def customer_rows(desk: Desk, customers: Sequence[Entry]) -> list[dict[str, Any]]:
    limits = await limits_of(desk, customers)
    spent = await spends(desk, customers, limits)
    return [customer_row(customer, limits[customer.id], spent[customer.id]) for customer in customers]


async def key_rows(
    desk: Desk, *, user: str | None = None, team: str | None = None, limit: int = MOST_KEYS
) -> list[dict[str, Any]]:
    """The newest keys of a user or a team, or of everybody."""
    records = await desk.store.keys.find(KeyQuery(user=user, team=team, limit=limit))
    return [seen.row for seen in await look(desk, records)]


async def _teams_of(desk: Desk, user: str) -> list[str]:
    members = await desk.directory.find(EntryQuery(Kind.MEMBER, user=user, newest_first=False, limit=1000))
    return [member.team for member in members]
