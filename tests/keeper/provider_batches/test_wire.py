"""What the three batch APIs get, held against the vendors' published types, and what is made of their answers."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse
from anthropic.types.messages.batch_create_params import Request as AnthropicLine
from google.genai import batches as genai_batches
from google.genai import types as genai
from openai.types import Batch
from openai.types.batch_create_params import BatchCreateParams
from pydantic import TypeAdapter

from tests.fakes.batch_api import KEY, Anthropic, Gemini, OpenAI
from tests.fakes.batching import a_line
from tests.fakes.consigning import MODELS, World, world
from tests.providers import anthropic_types, gemini_wire
from tests.providers.openai_schema import check_object
from workers.provider_batches import registry
from workers.provider_batches.base import NOT_RUN, Result

ROWS = [
    a_line(number, body={"model": "m", "temperature": 0.5, "messages": [{"role": "system", "content": "Be brief."},
                                                                      {"role": "user", "content": f"ü {number}"}]})
    for number in range(10)
]  # fmt: skip


async def asked(it: World) -> dict[str, Any]:
    await it.submitted(rows=ROWS)
    return it.api.only.asked


async def test_openai_gets_a_file_of_requests_and_a_batch_of_it() -> None:
    async with world("openai") as it:
        body = await asked(it)

        TypeAdapter(BatchCreateParams).validate_python(body)
        assert body["metadata"] == {"headrace_batch": (await it.only()).id}
        lines = it.api.only.lines
        ids = {record.job.id for record in await it.backends.store.batches.consigned((await it.only()).id)}
        assert set(lines) == ids
        first = next(iter(lines.values()))
        assert (first["model"], first["max_tokens"], first["messages"][1]["content"]) == (MODELS["openai"], 10, "ü 0")


async def test_anthropic_gets_all_requests_at_once() -> None:
    async with world("anthropic") as it:
        body = await asked(it)

        assert set(body) == {"requests"}
        for line in body["requests"]:
            assert set(line) == set(AnthropicLine.__annotations__)
            assert len(line["custom_id"]) <= 64 and line["custom_id"].replace("-", "").isalnum()
            anthropic_types.check_request(line["params"])
        assert body["requests"][0]["params"]["system"] == [{"type": "text", "text": "Be brief."}]


async def test_betas_that_lines_need_are_asked_for_once() -> None:
    container = {"type": "code_execution_20250825", "name": "code_execution"}
    rows = [a_line(number, body={"model": "m", "tools": [container]}) for number in range(10)]
    async with world("anthropic", headers={"anthropic-beta": "mine"}) as it:
        await it.submitted(rows=rows)

        created = next(request for request in it.api.requests if request.method == "POST")
        assert sorted(created.headers["anthropic-beta"].split(",")) == ["code-execution-2025-08-25", "mine"]


async def test_gemini_gets_a_file_and_a_batch_of_it_for_the_model() -> None:
    async with world("gemini") as it:
        body = await asked(it)

        name = (await it.only()).id
        theirs = genai_batches._CreateBatchJobParameters_to_mldev(
            SimpleNamespace(vertexai=False),  # type: ignore[arg-type]  # all of a client that it looks at
            genai._CreateBatchJobParameters(
                model=None,
                src=genai.BatchJobSource(file_name=it.api.only.input_file),
                config=genai.CreateBatchJobConfig(display_name=name),
            ),
        )
        assert {"batch": {key: body[key] for key in body if key != "model"}} == {"batch": theirs["batch"]}
        assert body["model"] == MODELS["gemini"]
        for request in it.api.only.lines.values():
            gemini_wire.check_request(request)


async def test_the_key_travels_in_headers_only() -> None:
    for provider in MODELS:
        async with world(provider) as it:
            await it.submitted()
            it.api.finish()
            await it.round(after=75)

            assert all(KEY not in request.target and KEY.encode() not in request.body for request in it.api.requests)


# --- The fake provider answers as the real ones do ------------------------------------------------------------------


async def test_the_fake_batch_of_openai_is_one() -> None:
    async with world("openai") as it:
        await it.submitted()
        answer = OpenAI(it.api).batch(it.api.only)

        Batch.model_validate(answer)
        check_object("Batch", json.dumps(answer).encode())


async def test_the_fake_batch_and_results_of_anthropic_are_some() -> None:
    async with world("anthropic") as it:
        await it.submitted()
        it.api.errors = {1: (400, "no"), 2: (529, "busy")}
        it.api.finish("expired", answered=9)
        fake = Anthropic(it.api)

        batch = MessageBatch.model_validate(fake.batch(it.api.only))
        rows = [
            MessageBatchIndividualResponse.model_validate_json(row) for row in fake.content(it.api.only).splitlines()
        ]

        assert batch.processing_status == "ended"
        assert [row.result.type for row in rows[::-1]] == [
            "succeeded", "errored", "errored", *["succeeded"] * 6, *["expired"] * 3
        ]  # fmt: skip


async def test_the_fake_operation_of_gemini_is_one() -> None:
    async with world("gemini") as it:
        await it.submitted()
        it.api.finish()

        theirs = genai_batches._BatchJob_from_mldev(Gemini(it.api).operation(it.api.only))
        job = genai.BatchJob._from_response(response=theirs, kwargs={})

        assert job.state is genai.JobState.JOB_STATE_SUCCEEDED
        assert job.dest is not None and job.dest.file_name == "files/outb0"


# --- Reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", MODELS)
async def test_a_batch_is_told_from_results(provider: str) -> None:
    async with world(provider) as it:
        await it.submitted()
        api = registry.connect(it.upstream, it.catalog.deployments()[0])
        record = await it.only()
        running = await api.poll(record.remote_id)
        it.api.errors = {0: (400, "no")}
        it.api.finish("expired", answered=2)
        ended = await api.poll(record.remote_id)
        results = {result.custom_id: result async for result in api.results(record.remote_id, ended.files)}

        assert (running.finished, ended.finished) == (False, True)
        first, second, *others = [results.get(id, Result(id, NOT_RUN)) for id in it.api.only.lines]
        assert (first.status, b"no" in first.body, second.status) == (400, True, 200)
        assert {result.status for result in others} == {NOT_RUN}


@pytest.mark.parametrize(
    ("code", "status"), [(3, 400), (8, 429), (13, 500), (14, 503), (404, 404), (None, 500), (99, 500)]
)
async def test_geminis_codes_mean_statuses(code: int | None, status: int) -> None:
    async with world("gemini") as it:
        await it.submitted()
        it.api.finish(answered=1)
        api = registry.connect(it.upstream, it.catalog.deployments()[0])
        row = {"key": "k", "error": {"code": code, "message": "m"}}
        it.api.overridden_results = json.dumps(row).encode()

        (result,) = [each async for each in api.results("batches/b0", {"output": "files/outb0"})]

        assert (result.custom_id, result.status) == ("k", status)


async def test_lines_that_are_no_json_are_left_out_of_results() -> None:
    async with world("openai") as it:
        await it.submitted()
        it.api.finish()
        api = registry.connect(it.upstream, it.catalog.deployments()[0])
        it.api.overridden_results = b'not json\n\n[1]\n{"custom_id": "a", "response": null, "error": {"code": "x"}}'

        results = [each async for each in api.results("batch_0", {"output": "file:output:batch_0"})]

        assert results == [Result("a", NOT_RUN)]


async def test_results_are_fetched_from_the_configured_host_only() -> None:
    async with world("anthropic") as it:
        await it.submitted()
        it.api.finish()
        api = registry.connect(it.upstream, it.catalog.deployments()[0])
        elsewhere = {"output": "http://127.0.0.1:9/v1/messages/batches/msgbatch_0/results"}

        results = [each async for each in api.results("msgbatch_0", elsewhere)]

        assert len(results) == 12
