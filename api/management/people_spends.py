"""What users, teams, members and customers have spent, many at a time."""

from collections.abc import Mapping, Sequence

from api.management.entries import Desk, budgets_of, for_each
from api.management.spends import Spend, spend_of
from broker.account_plans import Fields, completed, filled
from broker.account_records import Entry, Kind
from broker.spend_records import ActivityQuery, Dimension, Subject
from shared.accounts import customer_account, member_account, team_account, user_account

_SUBJECTS = {Kind.USER: Subject.USER, Kind.TEAM: Subject.TEAM, Kind.CUSTOMER: Subject.CUSTOMER}


def account_of(entry: Entry) -> str:
    """The id of the account that limits the entry."""
    match entry.kind:
        case Kind.USER:
            return user_account(entry.id)
        case Kind.TEAM:
            return team_account(entry.id)
        case Kind.MEMBER:
            return member_account(entry.team, entry.user)
        case Kind.CUSTOMER:
            return customer_account(entry.id)
        case kind:
            raise ValueError(f"a {kind} has no account")


async def spends(desk: Desk, entries: Sequence[Entry], limits: Mapping[str, Fields]) -> dict[str, Spend]:
    """By the entries' ids, as are what limits them; all being of one kind. One question to the bill for all of them
    (members: for each team), and one for each that has spent something and has a budget that starts anew."""
    calendar = desk.context.settings.management.calendar
    totals = await _totals(desk, entries)
    accounts = {each.id: account_of(each) for each in entries}

    async def spend(id: str) -> Spend:
        return await spend_of(desk.store.bill, accounts[id], limits[id], desk.now, calendar, total=totals.get(id, 0))

    return await for_each(list(accounts), spend)


async def limits_of(desk: Desk, entries: Sequence[Entry]) -> dict[str, Fields]:
    """By the entries' ids: their fields, with what the budgets say that they name."""
    budgets = await budgets_of(desk.directory, entries)
    return {each.id: filled(each.fields, budgets) for each in entries}


async def member_limits_of(desk: Desk, team: Entry, members: Sequence[Entry]) -> dict[str, Fields]:
    """By the members' ids: as `limits_of`, with what the team has for those who have no limits of their own."""
    limits = await limits_of(desk, members)
    return {id: completed(_named_as_elsewhere(fields), of_members(team)) for id, fields in limits.items()}


def of_members(team: Entry) -> Fields:
    """What the team has for members without limits of their own."""
    return {
        "max_budget": team.fields.get("team_member_budget"),
        "budget_duration": team.fields.get("team_member_budget_duration"),
        "tpm_limit": team.fields.get("team_member_tpm_limit"),
        "rpm_limit": team.fields.get("team_member_rpm_limit"),
    }


def _named_as_elsewhere(fields: Fields) -> Fields:
    own = fields.get("max_budget_in_team")
    return fields if own is None else {**fields, "max_budget": own}


async def _totals(desk: Desk, entries: Sequence[Entry]) -> dict[str, int]:
    bill = desk.store.bill
    if not entries:
        return {}
    if entries[0].kind is not Kind.MEMBER:
        return dict(await bill.totals(_SUBJECTS[entries[0].kind], [each.id for each in entries]))
    found: dict[str, int] = {}
    for team in dict.fromkeys(each.team for each in entries):
        query = ActivityQuery(subject=Subject.TEAM, ids=(team,), by=(Dimension.USER,), daily=False)
        found |= {f"{team}/{row.by[0]}": row.cost for row in await bill.activity(query)}
    return found
