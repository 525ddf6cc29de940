"""Every operation of the OpenAPI document, called with what fits it and with what does not: whatever an administrator
sends, no answer is a server error, and every refusal is JSON.

The cases are schemathesis's: the boundaries of each schema, and examples drawn from it. Half of them name things that are
there, because a call about nothing ends at its first look-up.
"""

import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
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
from tests.e2e.deployment import MASTER_KEY, Headrace, Servers, deployed

BOUNDARIES = 60  # cases of an operation, evenly from all that its schema has
EXAMPLES = 8  # cases that fit, of an operation
PATIENCE = 5.0  # seconds that an answer is read, if it is a stream that has not ended by then

OVERLONG = b"Invalid HTTP request received."
"""Uvicorn's answer to a request line over 64 KiB, which no route ever sees."""

CONFIG = {
    "model_list": [
        {"model_name": "simulated", "litellm_params": {"model": "simulated/echo"}, "model_info": {"id": "configured"}}
    ],
    "general_settings": {"store_model_in_db": True},
}
CHAT = {"model": "simulated", "messages": [{"role": "user", "content": "hello"}]}
AUTHORIZED = {"authorization": f"Bearer {MASTER_KEY}"}

document = schemathesis.openapi.from_dict(pages().openapi())
operations = {each.ok().label: each.ok() for each in document.get_all_operations()}


def destructive(label: str) -> bool:
    """Whether what other operations name may be gone after this one: it comes last."""
    return any(word in label.lower() for word in ("delete", "regenerate", "cancel", "pause"))


@dataclass
class Client:
    """Of one api, in which one of everything exists."""

    url: str
    session: requests.Session
    known: dict[str, Any]
    """Values of parameters and fields, by name."""

    def send(self, case: schemathesis.Case) -> tuple[int, str, bytes]:
        """Status, media type, and as much of the body as comes in time."""
        arguments = case.as_transport_kwargs(base_url=self.url, headers=AUTHORIZED)
        until = time.monotonic() + PATIENCE
        with self.session.request(**arguments, stream=True, timeout=PATIENCE) as answer:
            body = b""
            for piece in answer.iter_content(65536):
                body += piece
                if time.monotonic() > until:
                    break
            return answer.status_code, answer.headers.get("content-type", ""), body

    def furnish(self, case: schemathesis.Case) -> None:
        """Name what is there, wherever the case names something."""
        for place in (case.path_parameters, case.query, case.body):
            if isinstance(place, dict):
                place.update({name: self.known[name] for name in place if name in self.known})

    def post(self, path: str, **arguments: Any) -> Any:
        answer = self.session.post(self.url + path, timeout=PATIENCE, **{"headers": AUTHORIZED, **arguments})
        assert answer.ok, answer.text
        return answer.json()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def headrace(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Headrace]:
    folder = tmp_path_factory.mktemp("openapi")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    async with deployed(path, Servers(), folder) as running:
        yield running


@pytest.fixture(scope="module")
def client(headrace: Headrace) -> Iterator[Client]:
    with requests.Session() as session:
        client = Client(headrace.url, session, {})
        client.known = {
            "model": "simulated",
            "models": ["simulated"],
            "messages": CHAT["messages"],
            "litellm_params": {"model": "simulated/echo"},
            "start_date": "2026-01-01",
            "end_date": "2026-12-31",
        } | one_of_everything(client)
        yield client


def one_of_everything(client: Client) -> dict[str, Any]:
    client.post("/budget/new", json={"budget_id": "a-budget", "max_budget": 5})
    client.post("/user/new", json={"user_id": "a-user", "auto_create_key": False})
    client.post("/team/new", json={"team_id": "a-team", "members_with_roles": [{"user_id": "a-user", "role": "user"}]})
    client.post("/customer/new", json={"user_id": "a-user"})
    client.post("/model/new", json={
        "model_name": "stored", "litellm_params": {"model": "simulated/echo"}, "model_info": {"id": "a-model"},
    })  # fmt: skip
    key = client.post("/key/generate", json={"user_id": "a-user", "team_id": "a-team", "key_alias": "a-key"})["key"]
    job = client.post("/v1/chat/completions", json=CHAT, headers=AUTHORIZED | {"prefer": "respond-async"})["id"]
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    upload = {"file": ("lines.jsonl", json.dumps(line).encode())}
    file = client.post("/v1/files", files=upload, data={"purpose": "batch"})["id"]
    order = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = client.post("/v1/batches", json=order)["id"]
    return {
        "budget_id": "a-budget", "budgets": ["a-budget"], "user_id": "a-user", "user_ids": ["a-user"],
        "team_id": "a-team", "team_ids": ["a-team"], "end_user_id": "a-user", "model_id": "a-model", "id": "a-model",
        "model_info": {"id": "a-model"}, "litellm_model_id": "a-model", "key": key, "keys": [key], "job_id": job,
        "file_id": file, "batch_id": batch, "lane": "simulated.interactive", **order,
    }  # fmt: skip


@pytest.mark.parametrize("label", sorted(operations, key=lambda label: (destructive(label), label)))
def test_no_answer_is_a_server_error(client: Client, label: str) -> None:
    operation = operations[label]

    for number, case in enumerate(boundaries(operation)):
        if number % 2:
            client.furnish(case)
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
        client.furnish(case)
        check(client, case)

    check_drawn()


def boundaries(operation: APIOperation) -> list[schemathesis.Case]:
    """Of each parameter and field: the least, the longest, none, one too many, a wrong type, and so on."""
    cases = document.iter_coverage_cases(
        operation, generation_modes=list(GenerationMode), generation_config=GenerationConfig()
    )
    found = [case for case in cases if case.method == operation.method.upper()]
    return found[:: max(1, len(found) // BOUNDARIES)]


def check(client: Client, case: schemathesis.Case) -> None:
    status, kind, body = client.send(case)
    COUNT[status] = COUNT.get(status, 0) + 1
    shown = f"{case.as_curl_command()}\n{status} {body[:500]!r}"

    assert status < 500, shown
    if status >= 400 and body != OVERLONG:
        assert kind == "application/json", shown
        assert {"error", "detail"} & json.loads(body).keys(), shown


COUNT = {}
