"""Every operation of the OpenAPI document, called with what fits it and with what does not: whatever an administrator
sends, no answer is a server error, and every refusal is JSON that says why.

The cases are schemathesis's: the boundaries of each schema, and examples drawn from it, the same ones every time. Many
of them name things that exist, because a call about nothing ends at its first look-up.
"""

import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.config import GenerationConfig
from schemathesis.generation.modes import GenerationMode
from schemathesis.schemas import APIOperation

from api.app import pages
from broker.records import DeadLetter
from broker.store import database
from tests.conformance.queues import job as a_job
from tests.e2e.deployment import MASTER_KEY, Headrace, Servers, deployed
from tests.fakes.webhooks import SECRET

BOUNDARIES = 16  # cases of an operation, evenly from all that its schema has
EXAMPLES = 3  # cases of an operation that fit
PATIENCE = 60.0  # seconds for an answer to begin
STREAM = 15.0  # seconds after which a stream that has not ended is left

OVERLONG = b"Invalid HTTP request received."
"""Uvicorn's answer to a request line over 64 KiB, which no route ever sees."""

CONFIG = {
    "model_list": [
        {"model_name": "simulated", "litellm_params": {"model": "simulated/echo"}, "model_info": {"id": "configured"}}
    ],
    "general_settings": {"store_model_in_db": True},
}
WEBHOOKS = {"HEADRACE_WEBHOOK_SECRET": SECRET, "HEADRACE_WEBHOOK_ALLOW_PRIVATE": "true"}
NOBODY = "http://127.0.0.1:9/"
AUTHORIZED = {"authorization": f"Bearer {MASTER_KEY}"}
CHAT = {"model": "simulated", "messages": [{"role": "user", "content": "hello"}]}
SENSIBLE = {
    **CHAT, "models": ["simulated"], "litellm_params": {"model": "simulated/echo"},
    "timeout": 30,  # of a request that timed out at once, the api waits some seconds for its worker's word
    "start_date": "2026-01-01", "end_date": "2026-12-31", "member": {"role": "user", "user_id": "another-user"},
}  # fmt: skip
EXTREME = {"start_date": "0001-01-01", "end_date": "9999-12-31", "limit": 1, "page": 1}

document = schemathesis.openapi.from_dict(pages().openapi())
operations = {each.ok().label: each.ok() for each in document.get_all_operations()}


def destructive(label: str) -> bool:
    """Whether other operations may miss something after this one, or find a model of the name that a schema's boundary
    is: it comes last."""
    return any(word in label.lower() for word in ("delete", "regenerate", "cancel", "pause", "/model/"))


@dataclass
class Client:
    """Of an api in which there is one of everything."""

    url: str
    session: requests.Session
    known: dict[str, Any] = field(default_factory=dict)
    """Values of parameters and fields, by name."""

    def send(self, case: schemathesis.Case) -> tuple[int, str, bytes]:
        """Status, media type, and as much of the body as comes in time."""
        arguments = case.as_transport_kwargs(base_url=self.url, headers=AUTHORIZED)
        until = time.monotonic() + STREAM
        with self.session.request(**arguments, stream=True, timeout=PATIENCE) as answer:
            body = b""
            for piece in answer.iter_content(65536):
                body += piece
                if time.monotonic() > until:
                    break
            return answer.status_code, answer.headers.get("content-type", ""), body

    def furnish(self, case: schemathesis.Case, *more: dict[str, Any]) -> None:
        """Name what there is, wherever the case names something."""
        for values in (SENSIBLE, self.known, *more):
            for place in (case.path_parameters, case.query, case.body):
                if isinstance(place, dict):
                    place.update({name: values[name] for name in place if name in values})

    def post(self, path: str, headers: dict[str, str] = AUTHORIZED, **arguments: Any) -> Any:
        answer = self.session.post(self.url + path, headers=headers, timeout=PATIENCE, **arguments)
        assert answer.ok, answer.text
        return answer.json()

    def first_of(self, path: str) -> str:
        """The id of the first thing on this list, as soon as there is one."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if data := self.session.get(self.url + path, headers=AUTHORIZED, timeout=PATIENCE).json()["data"]:
                return str(data[0]["id"])
            time.sleep(0.05)
        raise AssertionError(f"nothing at {path}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def headrace(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Headrace]:
    folder = tmp_path_factory.mktemp("openapi")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    async with deployed(path, Servers(), folder, extra=WEBHOOKS) as running:
        await bury(folder)
        yield running


async def bury(folder: Path) -> None:
    """A dead letter: only a job that crashes its workers makes one."""
    job = a_job("a-dead-job", provider="simulated")
    letter = DeadLetter(
        job.id, job.provider, "crashed 3 workers", job.headers(), json.dumps(CHAT).encode(), time.time()
    )
    async with database.connect(f"sqlite:///{folder}/headrace.db") as store:
        await store.dead_letters.add([letter])


@pytest.fixture(scope="module")
def client(headrace: Headrace) -> Iterator[Client]:
    with requests.Session() as session:
        client = Client(headrace.url, session)
        client.known = people(client) | work(client)
        yield client


def people(client: Client) -> dict[str, Any]:
    """And their budgets, keys and models."""
    model = {"model_name": "stored", "litellm_params": {"model": "simulated/echo"}, "model_info": {"id": "a-model"}}
    client.post("/budget/new", json={"budget_id": "a-budget", "max_budget": 5})
    client.post("/user/new", json={"user_id": "a-user", "auto_create_key": False})
    client.post("/team/new", json={"team_id": "a-team", "members_with_roles": [{"user_id": "a-user", "role": "user"}]})
    client.post("/customer/new", json={"user_id": "a-user"})
    client.post("/model/new", json=model)
    key = client.post("/key/generate", json={"user_id": "a-user", "team_id": "a-team", "key_alias": "a-key"})["key"]
    return {
        "budget_id": "a-budget", "budgets": ["a-budget"], "user_id": "a-user", "user_ids": ["a-user"],
        "team_id": "a-team", "team_ids": ["a-team"], "end_user_id": "a-user", "model_id": "a-model",
        "model_info": {"id": "a-model"}, "litellm_model_id": "a-model", "id": "a-model", "key": key, "keys": [key],
    }  # fmt: skip


def work(client: Client) -> dict[str, Any]:
    """A job, a file, a batch, and a webhook that nobody takes."""
    later = AUTHORIZED | {"prefer": "respond-async", "x-headrace-webhook": NOBODY}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    upload = {"file": ("lines.jsonl", json.dumps(line).encode())}
    job = client.post("/v1/chat/completions", json=CHAT, headers=later)["id"]
    file = client.post("/v1/files", files=upload, data={"purpose": "batch"})["id"]
    order = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = client.post("/v1/batches", json=order)["id"]
    delivery = client.first_of("/v1/webhooks/deliveries")
    return {
        **order, "job_id": job, "file_id": file, "batch_id": batch, "lane": "simulated.interactive",
        "delivery_id": delivery,
    }  # fmt: skip


@pytest.mark.parametrize("label", sorted(operations, key=lambda label: (destructive(label), label)))
def test_no_answer_is_a_server_error(client: Client, label: str) -> None:
    operation = operations[label]
    more = {"job_id": "a-dead-job"} if "/dead/" in label else {}

    for number, case in enumerate(boundaries(operation)):
        if number % 2:
            client.furnish(case, more, EXTREME if number % 4 == 3 else {})
        check(client, case)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def check_drawn(case: schemathesis.Case) -> None:
        client.furnish(case, more)
        check(client, case)

    check_drawn()


def boundaries(operation: APIOperation) -> list[schemathesis.Case]:
    """Of each parameter and field: the least, the longest, none, one too many, a wrong type, and so on."""
    cases = document.iter_coverage_cases(
        operation, generation_modes=list(GenerationMode), generation_config=GenerationConfig()
    )
    found = [case for case in cases if case.method == operation.method.upper()]  # not those that no route takes
    return found[:: max(1, len(found) // BOUNDARIES)]


def check(client: Client, case: schemathesis.Case) -> None:
    status, kind, body = client.send(case)

    assert status < 500, f"{case.as_curl_command()}\n{status} {body[:500]!r}"
    if status >= 400 and body != OVERLONG:
        assert kind == "application/json", f"{case.as_curl_command()}\n{status} {kind} {body[:500]!r}"
        assert {"error", "detail"} & json.loads(body).keys(), f"{case.as_curl_command()}\n{status} {body[:500]!r}"
