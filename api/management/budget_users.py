"""Who has a budget, for the message that it cannot be deleted."""

from api.management.entries import PAGE, Desk
from broker.account_records import Entry, EntryQuery, KeyQuery, Kind
from shared.errors import InvalidRequest

MOST_NAMED = 5

_HOLDERS = (Kind.TEAM, Kind.USER, Kind.MEMBER, Kind.CUSTOMER)
_MOST_KEYS = 1_000_000  # that are looked through: the store finds no keys by their budget


async def holders_of(desk: Desk, budget: str) -> list[str]:
    """For people: `team research (t-1)`, `key ci`. At most five and `others`; empty if nobody has it."""
    holders: list[str] = []
    for kind in _HOLDERS:
        query = EntryQuery(kind, field=("budget_id", budget), limit=MOST_NAMED + 1)
        holders += [_name(each) for each in await desk.directory.find(query)]
        if len(holders) > MOST_NAMED:
            return _shortened(holders)
    settings = desk.context.settings.management
    if budget == settings.max_end_user_budget_id:
        holders.append("litellm_settings.max_end_user_budget_id")
    holders += await _keys(desk, budget, MOST_NAMED + 1 - len(holders))
    return _shortened(holders)


async def _keys(desk: Desk, budget: str, most: int) -> list[str]:
    found: list[str] = []
    for offset in range(0, _MOST_KEYS, PAGE):
        page = await desk.store.keys.find(KeyQuery(offset=offset, limit=PAGE))
        found += [f"key {each.alias or each.name}" for each in page if each.fields.get("budget_id") == budget]
        if len(found) >= most or len(page) < PAGE:
            return found
    raise InvalidRequest(f"More than {_MOST_KEYS} keys would have to be looked through.")


def _name(entry: Entry) -> str:
    if entry.kind is Kind.MEMBER:
        return f"member {entry.user} of team {entry.team}"
    return f"{entry.kind} {entry.alias} ({entry.id})" if entry.alias else f"{entry.kind} {entry.id}"


def _shortened(holders: list[str]) -> list[str]:
    return holders if len(holders) <= MOST_NAMED else [*holders[:MOST_NAMED], "others"]
