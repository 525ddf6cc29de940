"""An api with people in it: users in their roles, teams, and keys of theirs."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from api.auth import Authenticator, hashed
from api.context import Context
from broker.account_records import Actor, AuditQuery, AuditRecord, Entry, Kind
from broker.policies import PolicyCache
from broker.records import KeyRecord
from broker.store_interfaces import Store
from shared.management import Management
from tests.fakes.api import KEY, Api, api
from tests.fakes.asgi import Exchange
from tests.fakes.clock import FakeClock

NOBODY = Actor("somebody-before-the-test")


@dataclass
class Managed:
    api: Api
    clock: FakeClock
    context: Context

    @property
    def store(self) -> Store:
        return self.api.backends.store

    async def post(self, path: str, /, *, by: str = KEY, **fields: Any) -> Exchange:
        """By the holder of the master key, if nobody else is named."""
        return await self.send(path, orjson.dumps(fields), by=by)

    async def send(self, path: str, body: bytes, *, by: str = KEY, **headers: str) -> Exchange:
        return await self.api.ask("POST", path, bearer(by) | headers, body)

    async def get(self, path: str, *, by: str = KEY) -> Exchange:
        return await self.api.ask("GET", path, bearer(by))

    async def user(self, id: str, role: str = "internal_user", **fields: Any) -> str:
        """Text of a key of a new user."""
        await self.store.directory.add([Entry(Kind.USER, id, fields={"user_role": role, **fields})], NOBODY)
        return await self.key(id)

    async def team(self, id: str, *, admins: Sequence[str] = (), members: Sequence[str] = (), **fields: Any) -> None:
        roles = dict.fromkeys(members, "user") | dict.fromkeys(admins, "admin")
        people = [
            Entry(Kind.MEMBER, f"{id}/{user}", team=id, user=user, fields={"role": role})
            for user, role in roles.items()
        ]
        await self.store.directory.add([Entry(Kind.TEAM, id, fields=fields), *people], NOBODY)

    async def key(self, user: str = "", team: str = "", *, alias: str = "", **fields: Any) -> str:
        """Text of a key that was there before the test."""
        text = f"sk-of-{user or 'nobody'}-{team or 'no-team'}-{alias or 'unnamed'}"
        record = KeyRecord(
            hashed(text), f"sk-...{text[-4:]}", alias, user, team, created_at=self.clock.now(), fields=fields
        )
        assert await self.store.keys.add(record, NOBODY) == ""
        return text

    async def record(self, key: str) -> KeyRecord:
        record = await self.store.keys.get(hashed(key))
        assert record is not None
        return record

    async def audited(self) -> list[AuditRecord]:
        """What was done in the test, in order."""
        records = await self.store.directory.audit(AuditQuery(limit=1000))
        return [record for record in reversed(records) if record.actor != NOBODY]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@asynccontextmanager
async def managed(folder: Path, **management: Any) -> AsyncIterator[Managed]:
    """`management` is what the config says, by the names of `shared.management.Management`."""
    clock = FakeClock()
    async with api(folder, clock=clock) as running:
        state = running.app._app.state  # type: ignore[attr-defined]
        store, said = running.backends.store, Management(**management)
        policies = PolicyCache(store.keys, store.directory, clock, running.log, said, hashed(KEY))
        settings = state.context.settings.managed(said)
        state.context = replace(state.context, settings=settings, authenticator=Authenticator(KEY, policies))
        yield Managed(running, clock, state.context)
