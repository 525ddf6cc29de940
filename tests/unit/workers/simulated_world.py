"""The simulated model, read as the worker reads a real upstream, in a time of its own."""

import random
from typing import Any

import orjson

from shared.catalog import Deployment
from tests.fakes.clock import FakeClock
from tests.providers.openai_schema import check_chunk, check_completion
from workers.providers import registry
from workers.providers.base import Call, Chunk
from workers.simulated import Model, SimulatedResponse
from workers.sse import SseDecoder

SIMULATED = registry.adapter("simulated")
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class World:
    """A model whose time passes only when it sleeps."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.model = Model(self.clock, sleep=self._sleep, rng=random.Random(1))
        self.slept: list[float] = []

    async def _sleep(self, seconds: float) -> None:
        if seconds:
            self.slept.append(seconds)
        self.clock.advance(seconds)

    def respond(self, made: Call) -> SimulatedResponse:
        return self.model.respond(SIMULATED.request(made))

    async def complete(self, made: Call) -> dict[str, Any]:
        response = self.respond(made)
        body = await response.read()
        if response.status != 200:
            raise SIMULATED.error(response.status, response.headers, body)
        done = SIMULATED.completion(made, body)
        check_completion(done.body)
        answer: dict[str, Any] = orjson.loads(done.body)
        return answer

    async def stream(self, made: Call) -> list[Chunk]:
        sse, decoder = SseDecoder(), SIMULATED.decoder(made)
        chunks = [
            each
            async for data in self.respond(made).iter_bytes()
            for event in sse.feed(data)
            for each in decoder.feed(event)
        ]
        assert decoder.done
        chunks += decoder.close()
        for each in chunks:
            if each.data:
                check_chunk(each.data)
        return chunks


def call(model: str = "echo", params: dict[str, Any] | None = None, key: str = "", **body: Any) -> Call:
    to = Deployment(id="d", group="g", provider="simulated", model=model, api_key=key, params=params or {})
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello, wörld  again\n"}]
    merged = {"model": "alias", "messages": messages} | (params or {}) | body
    return Call(body=merged, deployment=to, id="chatcmpl-own", created=1, client_headers={})


def text(answer: dict[str, Any], index: int = 0) -> Any:
    return answer["choices"][index]["message"]["content"]


def streamed(chunks: list[Chunk], index: int = 0) -> str:
    choices = [choice for each in chunks if each.data for choice in orjson.loads(each.data)["choices"]]
    return "".join(each["delta"].get("content") or "" for each in choices if each["index"] == index)
