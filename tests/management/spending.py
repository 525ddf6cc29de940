"""An office whose people have spent something, a few weeks long."""

from dataclasses import dataclass, field
from typing import Any

from shared.ids import uuid7
from shared.jobs import Outcome, Status, Usage
from tests.fakes.management import Managed, hashed

DAY = 86_400.0


@dataclass
class Spending:
    """What is written into the ledger of an api."""

    it: Managed
    rows: list[Outcome] = field(default_factory=list)

    async def add(self, key: str = "", nano: int = 100_000_000, *, days_ago: float = 0.0, **fields: Any) -> Outcome:
        """An attempt by the key with this text; a tenth of a dollar, now, unless the test says otherwise."""
        record = await self.it.store.keys.get(hashed(key)) if key else None
        defaults: dict[str, Any] = {
            "endpoint": "chat.completions", "model": "chat", "group": "chat", "deployment": "d", "provider": "openai",
            "upstream_model": "gpt", "status": Status.SUCCESS, "usage": Usage(input=10, output=5), "duration": 1.5,
            "key": hashed(key) if key else "", "user": record.user if record else "",
            "team": record.team if record else "", "response_id": f"chatcmpl-{len(self.rows)}",
        }  # fmt: skip
        row = Outcome(
            uuid7(), fields.pop("attempt", 1), self.it.clock.now() - days_ago * DAY, cost=nano, **{**defaults, **fields}
        )
        assert await self.it.store.record([row]) == 1
        self.rows.append(row)
        return row
