"""What keys, teams and users that the bill knows by their ids are called now."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from api.management.entries import PAGE, Desk, named
from broker.account_records import Entry, KeyQuery, Kind
from broker.records import KeyRecord


@dataclass(frozen=True, slots=True)
class Names:
    """Of those that are there still."""

    keys: Mapping[str, KeyRecord] = field(default_factory=dict)
    teams: Mapping[str, Entry] = field(default_factory=dict)
    users: Mapping[str, Entry] = field(default_factory=dict)

    def key_alias(self, hash: str) -> str | None:
        record = self.keys.get(hash)
        return (record.alias or None) if record else None

    def key_name(self, hash: str) -> str | None:
        record = self.keys.get(hash)
        return record.name if record else None

    def team_alias(self, id: str) -> str | None:
        entry = self.teams.get(id)
        return (entry.alias or None) if entry else None

    def user_email(self, id: str) -> str | None:
        entry = self.users.get(id)
        return entry.fields.get("user_email") if entry else None

    def key_metadata(self, hash: str) -> dict[str, Any]:
        """LiteLLM's `KeyMetadata`."""
        record = self.keys.get(hash)
        return {
            "key_alias": self.key_alias(hash),
            "team_id": (record.team or None) if record else None,
            "user_id": (record.user or None) if record else None,
            "user_email": self.user_email(record.user) if record else None,
            "key_exists": record is not None,
        }


async def names_of(
    desk: Desk, *, keys: Iterable[str] = (), teams: Iterable[str] = (), users: Iterable[str] = ()
) -> Names:
    records = await records_of(desk, keys)
    owners = [*users, *(record.user for record in records.values())]
    return Names(
        records,
        await named(desk.directory, Kind.TEAM, [id for id in teams if id]),
        await named(desk.directory, Kind.USER, [id for id in owners if id]),
    )


async def records_of(desk: Desk, hashes: Iterable[str]) -> dict[str, KeyRecord]:
    """By hash."""
    wanted = [each for each in dict.fromkeys(hashes) if each]
    found: dict[str, KeyRecord] = {}
    for first in range(0, len(wanted), PAGE):
        query = KeyQuery(hashes=tuple(wanted[first : first + PAGE]), limit=PAGE)
        found |= {record.hash: record for record in await desk.store.keys.find(query)}
    return found
