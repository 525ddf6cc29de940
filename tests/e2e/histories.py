"""Random histories: callers with limits of every kind, and everything that can happen to their requests."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from shared import token_estimates
from shared.accounts import customer_account, key_account, team_account
from tests.e2e.callers import Callers, Key

COST = 1_000
"""Nano-dollars of a token of the prompt; one of the answer costs twice as much."""
PRICES = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
ANSWER = 60  # tokens
MOST_ANSWER = 100
"""`max_tokens` of every request: more than any estimate of a part of the answer, so that no estimate is too low."""
USUAL = 140_000
"""Nano-dollars of about one answer."""
LOST, UNHEARD = -1, -2
"""Statuses of requests whose connection broke, and of those that got none."""

CALLERS: dict[str, dict[str, Any]] = {
    "free": {},
    "rich": {"max_budget": 1.0},
    "poor": {"max_budget": 12.5 * USUAL / 1e9},
    "paced": {"rpm_limit": 10},
    "tokens": {"tpm_limit": 600},
    "narrow": {"max_parallel_requests": 1, "max_budget": 1.0},
    "patient": {"rpm_limit": 30, "on_limit": "wait"},
    "modelled": {"model_rpm_limit": {"chat": 8}, "model_max_budget": {"chat": {"budget_limit": 15 * USUAL / 1e9}}},
    "member": {"team_id": "history"},
    "colleague": {"team_id": "history", "max_parallel_requests": 3},
}
"""Keys, by name, with their fields."""
TEAM: dict[str, Any] = {"team_id": "history", "max_budget": 20.5 * USUAL / 1e9, "rpm_limit": 300}
CUSTOMER: dict[str, Any] = {"user_id": "acme", "max_budget": 10.5 * USUAL / 1e9}
BUDGETS = {
    "key rich": 1.0,
    "key poor": CALLERS["poor"]["max_budget"],
    "key narrow": 1.0,
    "model modelled": 15 * USUAL / 1e9,
    "team": TEAM["max_budget"],
    "customer": CUSTOMER["max_budget"],
}
"""Dollars, by account, as `Request.accounts` names them."""


@dataclass(slots=True)
class Request:
    """One request, or one line of a batch, as its client knows it."""

    number: int
    caller: str
    how: str
    """The name of a `History` method."""
    model: str
    customer: str = ""
    api: int = 0
    sent: float = 0.0
    """Seconds since the epoch."""
    status: int = 0
    detail: str = ""

    @property
    def prompt(self) -> str:
        """Tells it from all others, at the provider too."""
        return f"request {self.number} of {self.caller}"

    @property
    def body(self) -> dict[str, Any]:
        body = {"model": self.model, "messages": [{"role": "user", "content": self.prompt}], "max_tokens": MOST_ANSWER}
        return body | ({"user": self.customer} if self.customer else {})

    @property
    def reserved(self) -> tuple[int, int]:
        """The estimate: tokens of prompt and answer."""
        return token_estimates.prompt_tokens(json.dumps(self.body).encode()), MOST_ANSWER

    @property
    def accounts(self) -> list[str]:
        """That it counts towards."""
        found = [f"key {self.caller}", *([f"model {self.caller}"] if self.model == "chat" else [])]
        found += ["team"] if "team_id" in CALLERS[self.caller] else []
        return found + (["customer"] if self.customer else [])


def account_id(name: str, keys: dict[str, Key]) -> str:
    """The id of an account of `BUDGETS` and `Request.accounts`."""
    kind, _, whose = name.partition(" ")
    match kind:
        case "team":
            return team_account(TEAM["team_id"])
        case "customer":
            return customer_account(CUSTOMER["user_id"])
        case "model":
            return key_account(keys[whose].hash, "chat")
        case _:
            return key_account(keys[whose].hash)


def cost(tokens: Sequence[int]) -> int:
    """Nano-dollars of a prompt and an answer."""
    prompt, answer = tokens
    return COST * (prompt + 2 * answer)


@dataclass
class History:
    """What callers do, drawn from `rng`; everything that was asked is in `requests`."""

    them: Callers
    rng: random.Random
    keys: dict[str, Key] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    batches: list[str] = field(default_factory=list)

    async def prepare(self) -> None:
        await self.them.manage("/team/new", **TEAM)
        await self.them.manage("/customer/new", **CUSTOMER)
        for name, fields in CALLERS.items():
            self.keys[name] = await self.them.key(key_alias=name, **fields)

    async def run(self, count: int, concurrency: int, events: Mapping[int, Callable[[], Awaitable[None]]]) -> None:
        """`events` happen beside the request of that number."""
        drawn = iter([self._draw(number) for number in range(count)])
        async with asyncio.TaskGroup() as group:

            async def client() -> None:
                for request, pause in drawn:
                    if (event := events.get(request.number)) is not None:
                        group.create_task(_awaited(event))
                    await self._perform(request)
                    await asyncio.sleep(pause)

            for _ in range(concurrency):
                group.create_task(client())

    def _draw(self, number: int) -> tuple[Request, float]:
        rng = self.rng
        caller = rng.choice(list(CALLERS))
        how = rng.choices(list(_WAYS), weights=list(_WAYS.values()))[0]
        model = "chat"
        if how in ("plain", "stream") and rng.random() < 0.25:
            model = f"fault/{number}/{rng.choice(_FAULTS)}"
        customer = CUSTOMER["user_id"] if rng.random() < 0.1 else ""
        return Request(number, caller, how, model, customer, rng.randrange(3)), rng.uniform(0.0, 0.3)

    async def _perform(self, request: Request) -> None:
        request.sent = time.time()
        self.requests.append(request)
        try:
            await getattr(self, f"_{request.how}")(request)
        except aiohttp.ClientConnectorError:
            request.status = UNHEARD
        except (aiohttp.ClientError, ConnectionError) as error:
            request.status, request.detail = LOST, repr(error)

    async def _plain(self, request: Request) -> None:
        async with self._ask(request) as answer:
            await self._read(request, answer)

    async def _stream(self, request: Request) -> None:
        async with self._ask(request, stream=True) as answer:
            await self._read(request, answer)

    async def _hang_up(self, request: Request) -> None:
        """In the middle of a stream."""
        async with self._ask(request, stream=True) as answer:
            request.status = answer.status
            for _ in range(6):
                await answer.content.readline()
            answer.close()

    async def _give_up(self, request: Request) -> None:
        """Before there is any answer, as a rule."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05), self._ask(request) as answer:
                await self._read(request, answer)

    async def _background(self, request: Request) -> None:
        async with self._ask(request, headers={"Prefer": "respond-async"}) as answer:
            await self._read(request, answer)

    async def _cancelled(self, request: Request) -> None:
        async with self._ask(request, headers={"Prefer": "respond-async"}) as answer:
            accepted = await self._read(request, answer)
        if request.status == 202:
            await asyncio.sleep(0.1)  # a person's hesitation
            url = f"{self.them.url(request.api + 1)}/v1/jobs/{accepted['id']}"
            async with self.them.session.delete(url, headers=self.keys[request.caller].headers) as answer:
                await answer.read()

    async def _batch(self, request: Request) -> None:
        """Six lines; the request's own is the first."""
        lines = [request]
        for place in range(1, 6):
            each = Request(100_000 + 10 * request.number + place, request.caller, "line", "chat", sent=request.sent)
            lines.append(each)
        self.requests += lines[1:]
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", "".join(_line(each) for each in lines).encode(), filename="lines.jsonl")
        headers, url = self.keys[request.caller].headers, self.them.url(request.api)
        async with self.them.session.post(f"{url}/v1/files", data=form, headers=headers) as answer:
            file = await self._read(request, answer)
        if request.status == 200:
            body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            async with self.them.session.post(f"{url}/v1/batches", json=body, headers=headers) as answer:
                batch = await self._read(request, answer)
            if request.status == 200:
                self.batches.append(batch["id"])

    def _ask(self, request: Request, headers: dict[str, str] | None = None, **more: Any) -> Any:
        url = f"{self.them.url(request.api)}/v1/chat/completions"
        own = self.keys[request.caller].headers | (headers or {})
        return self.them.session.post(url, json={**request.body, **more}, headers=own)

    async def _read(self, request: Request, answer: aiohttp.ClientResponse) -> Any:
        request.status, text = answer.status, await answer.text()
        if answer.status >= 400:
            request.detail = text[:300]
        return json.loads(text) if answer.content_type == "application/json" else None


_FAULTS = ("fb-s03", "fb-s04", "fb-s13", "fb-f14-c", "fb-s08")
"""None that resets a connection: over a pooled one the request is sent again, within the same attempt."""
_WAYS = {
    "plain": 10,
    "stream": 6,
    "hang_up": 2,
    "give_up": 1,
    "background": 2,
    "cancelled": 2,
    "batch": 0.3,
}
"""How often callers do what."""


def _line(request: Request) -> str:
    line = {"custom_id": str(request.number), "method": "POST", "url": "/v1/chat/completions", "body": request.body}
    return json.dumps(line) + "\n"


async def _awaited(event: Callable[[], Awaitable[None]]) -> None:
    await event()
