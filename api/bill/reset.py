"""All keys and teams begin anew with nothing spent. The ledger is what was paid, so nothing is taken from it: from now
on it is counted from here, which is what `/key/{key}/reset_spend` does for one key."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api.management.changes import announce
from api.management.entries import PAGE, Desk, for_each
from broker.account_records import Entry, EntryQuery, KeyQuery, Kind
from broker.records import KeyRecord
from broker.spend_records import Subject

_ACTION = "spend_reset"


async def reset_spend(desk: Desk) -> None:
    """Those that have spent nothing since they were made stay as they are. Raises `Unavailable`; what was reset by then
    is, and asking again does the rest."""
    try:
        await _reset_keys(desk)
        await _reset_teams(desk)
    finally:
        await announce(desk.context, "")  # every process forgets the policies that it knows


async def _reset_keys(desk: Desk) -> None:
    keys, bill = desk.store.keys, desk.store.bill

    def patch(record: KeyRecord) -> KeyRecord:
        return replace(record, fields=_anew(desk, record.fields), updated_at=desk.now, updated_by=desk.author)

    offset = 0
    while True:
        page = await keys.find(KeyQuery(descending=False, offset=offset, limit=PAGE))
        spent = await bill.totals(Subject.KEY, [record.hash for record in page])
        touched = [record.hash for record in page if record.hash in spent or record.fields.get("spend_base")]
        await for_each(touched, lambda hash: keys.change(hash, patch, desk.actor, _ACTION))
        offset += len(page)
        if len(page) < PAGE:
            return


async def _reset_teams(desk: Desk) -> None:
    bill = desk.store.bill

    def patch(team: Entry) -> Entry:
        return replace(team, fields=_anew(desk, team.fields), updated_at=desk.now, updated_by=desk.author)

    offset = 0
    while True:
        page = await desk.directory.find(EntryQuery(Kind.TEAM, newest_first=False, offset=offset, limit=PAGE))
        spent = await bill.totals(Subject.TEAM, [team.id for team in page])
        touched = [team.id for team in page if team.id in spent or team.fields.get("spend_base")]
        await for_each(touched, lambda id: desk.directory.change(Kind.TEAM, id, patch, desk.actor, _ACTION))
        offset += len(page)
        if len(page) < PAGE:
            return


def _anew(desk: Desk, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {**fields, "spend_base": 0.0, "spend_since": desk.now}
