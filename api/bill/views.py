"""Who sees what of the bill: administrators and viewers all, users what their keys and the teams they lead have spent,
a key without a user what it has spent itself."""

from dataclasses import dataclass, replace

from api.bill.days import Days
from api.management.access import Act, Role, Subject, allowed, require, role_of, sees_everything
from api.management.entries import Desk
from broker import spend_records
from broker.account_records import KeyQuery
from broker.directory_interfaces import Bill
from broker.spend_records import Activity, ActivityQuery, Dimension
from shared.errors import PermissionDenied

MOST_KEYS = 1000
"""Of one user that are looked at where the bill must be asked key by key."""


@dataclass(frozen=True, slots=True)
class View:
    """Attempts with this key (its hash), of this user and in this team; None: of any."""

    key: str | None = None
    user: str | None = None
    team: str | None = None


EVERYBODY = View()


async def view(desk: Desk, wanted: View = EVERYBODY, act: Act = Act.SEE_LOGS) -> View:
    """As much of what is wanted as the caller may see. Raises `PermissionDenied` for what belongs to others by name:
    another user, a team that the caller is not in, another key when the caller has no user."""
    caller = desk.caller
    if sees_everything(caller):
        return wanted
    if role_of(caller) is Role.NONE:
        if wanted.key not in (None, caller.key):
            raise PermissionDenied("You are not authorized to see what another key has spent.", param="api_key")
        if wanted.user is not None or wanted.team not in (None, caller.team):
            raise PermissionDenied("You are not authorized to see what others have spent: this key has no user_id.")
        return replace(wanted, key=caller.key)
    if wanted.team is not None:
        if await allowed(desk.directory, caller, act, Subject(user=caller.user, team=wanted.team)):
            return wanted
        await require(desk.directory, caller, Act.SEE_TEAM, Subject(team=wanted.team))
    if wanted.user not in (None, caller.user):
        raise PermissionDenied("You are not authorized to see what another user has spent.", param="user_id")
    return replace(wanted, user=caller.user)


async def own_keys(desk: Desk) -> tuple[str, ...] | None:
    """Hashes of the keys whose spend the caller may see, where the bill knows keys and no users; None: all."""
    caller = desk.caller
    if sees_everything(caller):
        return None
    if role_of(caller) is Role.NONE:
        return (caller.key,)
    return tuple(record.hash for record in await desk.store.keys.find(KeyQuery(user=caller.user, limit=MOST_KEYS)))


async def sums(bill: Bill, seen: View, days: Days, *by: Dimension, daily: bool = False) -> list[Activity]:
    """What is in view, by these dimensions; with `daily` also by day, newest first."""
    subject: spend_records.Subject | None = None
    ids: tuple[str, ...] = ()
    if seen.user is not None:
        subject, ids = spend_records.Subject.USER, (seen.user,)
    elif seen.team is not None:
        subject, ids = spend_records.Subject.TEAM, (seen.team,)
    query = ActivityQuery(days.start, days.end, subject, ids, by, daily, key=seen.key)
    if seen.user is None or seen.team is None:
        return await bill.activity(query)
    found = await bill.activity(replace(query, by=(*by, Dimension.TEAM)))
    return [replace(each, by=each.by[:-1]) for each in found if each.by[-1] == seen.team]
