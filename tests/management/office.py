"""An api whose users, teams and budgets a test manages, with callers of every role."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson

from api.auth import hashed as hashed
from broker.account_records import AuditQuery, AuditRecord, Entry, EntryQuery, KeyQuery, Kind
from shared.jobs import Outcome, Status
from tests.fakes.api import KEY, Api, api
from tests.fakes.asgi import Exchange
from tests.fakes.clock import FakeClock

NAMES = {
    "sql": "x'; DROP TABLE directory; --",
    "header": "x\r\nset-cookie: a=b",
    "nul": "x\0y",
    "surrogate": "\ud800",
    "markup": "<script>alert(1)</script>",
    "long": "x" * 300,
}
"""What names of users, teams and the like may hold if nobody looks."""


@dataclass
class Office:
    api: Api
    clock: FakeClock
    changes: list[str] = field(default_factory=list)
    """What every process was told."""
    _rows: int = 0

    async def post(self, path: str, by: str | None = None, **fields: Any) -> Exchange:
        return await self.send(path, orjson.dumps(fields), by)

    async def send(self, path: str, body: bytes, by: str | None = None, **headers: str) -> Exchange:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.api.ask("POST", path, {**bearer(by), **named}, body)

    async def get(self, path: str, by: str | None = None, **query: Any) -> Exchange:
        return await self.api.ask("GET", f"{path}?{urlencode(query)}" if query else path, bearer(by))

    async def made(self, path: str, **fields: Any) -> Any:
        """What `post` answers, once it has worked."""
        answer = await self.post(path, **fields)
        assert answer.status == 200, answer.body
        return answer.json

    async def refused_or_made(self, path: str, fields: dict[str, Any]) -> Any:
        """What was made; None if it was refused and left nothing. No header comes from it."""
        before = await self.counted()
        answer = await self.send(path, as_json(fields))
        assert "set-cookie" not in answer.headers
        if answer.status == 200:
            return answer.json
        assert (answer.status, await self.counted()) == (400, before)
        return None

    async def caller(self, role: str, user: str = "") -> str:
        """The key of a new user with this role."""
        made = await self.made("/user/new", user_id=user or f"a-{role}", user_role=role)
        return str(made["key"])

    async def spend(self, dollars: float, **whose: str) -> None:
        """The ledger gets a row, now."""
        self._rows += 1
        row = Outcome(
            f"job-{self._rows}", 1, self.clock.now(), "/v1/chat/completions", "chat", "chat", "d", "openai", "gpt",
            Status.SUCCESS, cost=round(dollars * 1e9), **whose,  # type: ignore[arg-type]  # names of people
        )  # fmt: skip
        assert await self.api.backends.store.record([row]) == 1

    async def entry(self, kind: Kind, id: str) -> Entry | None:
        return await self.api.backends.store.directory.get(kind, id)

    async def counted(self) -> dict[str, int]:
        """How many there are of each."""
        store = self.api.backends.store
        counts = {str(kind): await store.directory.count(EntryQuery(kind)) for kind in Kind}
        return counts | {"key": await store.keys.count(KeyQuery())}

    async def audited(self, **query: Any) -> list[AuditRecord]:
        return await self.api.backends.store.directory.audit(AuditQuery(**query))


def bearer(key: str | None) -> dict[str, str]:
    """None: the master key's."""
    return {"authorization": f"Bearer {key or KEY}"}


@asynccontextmanager
async def office(folder: Path) -> AsyncIterator[Office]:
    clock = FakeClock()
    async with api(folder, clock=clock) as running:
        made = Office(running, clock)
        running.log.on_change(made.changes.append)
        yield made


def problem(answer: Exchange) -> tuple[int, str]:
    """The status, and the field that was refused."""
    body = answer.json
    if "detail" in body:
        return answer.status, str(body["detail"][0]["loc"][1]) if isinstance(body["detail"], list) else "detail"
    return answer.status, str(body["error"]["param"])


def as_json(value: Any) -> bytes:
    """Also what is no JSON, NaN and half a surrogate, as Python's clients send it."""
    return json.dumps(value).encode()
