"""The official OpenAI client through Headrace to every provider, in both profiles."""

import base64
import json

import openai
import pytest
from openai import AsyncOpenAI

from tests.e2e.deployment import MASTER_KEY, Headrace
from tests.fakes.upstream import ANSWER, FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

VENDORS = ["gpt", "claude", "gemini", "mistral"]
COMPATIBLE = ["groq", "deepseek", "together_ai", "fireworks_ai", "openrouter", "xai", "hosted_vllm"]
QUESTION = [{"role": "user", "content": "What is a headrace?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.mark.parametrize("model", VENDORS + COMPATIBLE)
async def test_an_answer_arrives_whole(client: AsyncOpenAI, model: str) -> None:
    answer = await client.chat.completions.create(model=model, messages=QUESTION)

    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("model", VENDORS + COMPATIBLE)
async def test_a_stream_arrives_in_pieces_and_whole(client: AsyncOpenAI, model: str) -> None:
    stream = await client.chat.completions.create(model=model, messages=QUESTION, stream=True)

    chunks = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices].count("stop") == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices for chunk in chunks), "the usage chunk comes only when it is asked for"
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize("model", VENDORS)
async def test_a_stream_ends_with_usage_when_asked_for(client: AsyncOpenAI, model: str) -> None:
    stream = await client.chat.completions.create(
        model=model, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )

    chunks = [chunk async for chunk in stream]

    assert [bool(chunk.usage) for chunk in chunks[:-1]] == [False] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


@pytest.mark.parametrize("model", VENDORS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_called_and_its_result_goes_back(client: AsyncOpenAI, model: str, stream: bool) -> None:
    asked = [{"role": "user", "content": "Use the tool for the weather in Paris."}]

    if stream:
        arguments, name, call_id, finish = "", "", "", None
        async for chunk in await client.chat.completions.create(
            model=model, messages=asked, tools=[WEATHER], stream=True
        ):
            finish = chunk.choices[0].finish_reason or finish
            for call in chunk.choices[0].delta.tool_calls or []:
                name += call.function.name or ""
                call_id = call.id or call_id
                arguments += call.function.arguments or ""
    else:
        choice = (await client.chat.completions.create(model=model, messages=asked, tools=[WEATHER])).choices[0]
        call = choice.message.tool_calls[0]
        name, call_id, arguments, finish = call.function.name, call.id, call.function.arguments, choice.finish_reason
    called = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    answer = await client.chat.completions.create(
        model=model,
        messages=[
            *asked,
            {"role": "assistant", "content": None, "tool_calls": [called]},
            {"role": "tool", "tool_call_id": call_id, "content": '{"celsius": 21}'},
        ],
        tools=[WEATHER],
    )

    assert (name, finish) == ("get_weather", "tool_calls")
    assert json.loads(arguments) == {"city": "Paris"}
    assert answer.choices[0].message.content == ANSWER


@pytest.mark.parametrize("model", VENDORS)
async def test_an_image_reaches_the_provider_in_its_own_words(
    client: AsyncOpenAI, upstream: FakeUpstream, model: str
) -> None:
    pixel = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 40).decode()
    parts = [
        {"type": "text", "text": "What is in this image?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{pixel}"}},
    ]

    await client.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}])

    assert pixel in json.dumps(upstream.requests[-1].body)


async def test_a_body_beyond_the_claim_check_arrives_whole(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    prompt = "x" * (2 * 1024 * 1024)

    answer = await client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": prompt}])

    assert answer.choices[0].message.content == ANSWER
    assert upstream.requests[-1].body["messages"][0]["content"] == prompt


async def test_an_answer_says_where_it_came_from(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    response = await client.chat.completions.with_raw_response.create(model="priced", messages=QUESTION)

    headers = response.headers
    usage = response.parse().usage
    cost = usage.prompt_tokens * 1e-6 + usage.completion_tokens * 2e-6
    assert headers["x-headrace-job-id"] == upstream.requests[-1].job_id
    assert float(headers["x-headrace-queue-wait-ms"]) >= 0
    assert float(headers["x-headrace-upstream-ms"]) > 0
    assert headers["x-litellm-model-group"] == "priced"
    assert headers["x-litellm-model-id"]
    assert headers["x-litellm-model-api-base"].startswith(upstream.url)
    assert headers["x-litellm-attempted-retries"] == "0"
    assert float(headers["x-litellm-response-cost"]) == pytest.approx(cost, abs=1e-12)


async def test_the_simulated_model_answers_without_any_provider(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    answer = await client.chat.completions.create(model="simulated", messages=[{"role": "user", "content": "echo me"}])

    assert answer.choices[0].message.content == "echo me"
    assert upstream.requests == []


@pytest.mark.parametrize(
    "path", ["/chat/completions", "/engines/gpt/chat/completions", "/openai/deployments/gpt/chat/completions"]
)
async def test_the_old_paths_work(headrace: Headrace, upstream: FakeUpstream, path: str) -> None:
    raw = AsyncOpenAI(base_url=headrace.url, api_key=MASTER_KEY)

    answer = await raw.post(path, cast_to=object, body={"model": "gpt", "messages": QUESTION})

    assert answer["choices"][0]["message"]["content"] == ANSWER  # type: ignore[index]
    await raw.close()


async def test_azures_client_works(headrace: Headrace) -> None:
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=headrace.url, api_key=MASTER_KEY, api_version="2024-10-21"
    ) as azure:
        answer = await azure.chat.completions.create(model="gpt", messages=QUESTION)

    assert answer.choices[0].message.content == ANSWER


async def test_models_are_listed_one_by_one_and_all(client: AsyncOpenAI) -> None:
    listed = [model.id async for model in client.models.list()]
    one = await client.models.retrieve("gpt")

    assert {"gpt", "claude", "gemini", "mistral", "simulated"} <= set(listed)
    assert one.id == "gpt"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nothing")
