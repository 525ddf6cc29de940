"""What providers' answers cost, whole and streamed, against amounts worked out by hand from the vendors' price pages.

Prices are written here, so that a new price list is not a failing test: what is tested is the way from an answer's
counts to nano-dollars, with the classes, tiers and discounts that vendors have.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import orjson
import pytest
from genai_prices.types import ModelPrice, Tier, TieredPrices

from shared import pricing
from shared.catalog import Deployment, Prices
from shared.jobs import Usage
from shared.pricing import PriceBook
from workers.providers import registry
from workers.providers.base import Call
from workers.sse import SseDecoder

LISTED = Prices()
"""No prices of the config's own."""


def mtok(dollars: str) -> Decimal:
    return Decimal(dollars)


def tiers(base: str, start: int, above: str) -> TieredPrices:
    return TieredPrices(base=mtok(base), tiers=[Tier(start=start, price=mtok(above))])


GPT = ModelPrice(input_mtok=mtok("2.50"), cache_read_mtok=mtok("0.25"), output_mtok=mtok("15"))
GPT_LONG = ModelPrice(
    input_mtok=tiers("2.50", 272_000, "5"),
    cache_read_mtok=tiers("0.25", 272_000, "0.50"),
    output_mtok=tiers("15", 272_000, "22.50"),
)
GPT_FLEX = ModelPrice(input_mtok=mtok("1.25"), cache_read_mtok=mtok("0.125"), output_mtok=mtok("7.50"))
GPT_PRIORITY = ModelPrice(input_mtok=mtok("5"), cache_read_mtok=mtok("0.50"), output_mtok=mtok("30"))
SONNET = ModelPrice(
    input_mtok=tiers("3", 200_000, "6"),
    cache_read_mtok=tiers("0.30", 200_000, "0.60"),
    cache_write_mtok=tiers("3.75", 200_000, "7.50"),
    cache_write_1h_mtok=tiers("6", 200_000, "12"),
    output_mtok=tiers("15", 200_000, "22.50"),
)
FLASH = ModelPrice(input_mtok=mtok("0.30"), cache_read_mtok=mtok("0.03"), output_mtok=mtok("2.50"))
PRO = ModelPrice(
    input_mtok=tiers("1.25", 128_000, "2.50"),
    cache_read_mtok=tiers("0.3125", 128_000, "0.625"),
    output_mtok=tiers("5", 128_000, "10"),
)
MISTRAL = ModelPrice(input_mtok=mtok("2"), output_mtok=mtok("6"))
REASONER = ModelPrice(input_mtok=mtok("1"), output_mtok=mtok("4"), output_reasoning_mtok=mtok("8"))


@dataclass(frozen=True)
class Case:
    provider: str
    price: ModelPrice
    usage: dict[str, Any]
    """As the vendor sends it."""
    dollars: str
    tier: str = ""
    tiered: dict[str, ModelPrice] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    """Of the request's body."""
    own: Prices = LISTED


def openai_usage(prompt: int, output: int, *, cached: int = 0, reasoning: int = 0, written: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def anthropic_usage(
    fresh: int, output: int, *, read: int = 0, write_5m: int = 0, write_1h: int = 0, **more: Any
) -> Any:
    return {
        "input_tokens": fresh,
        "output_tokens": output,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": write_5m + write_1h,
        "cache_creation": {"ephemeral_5m_input_tokens": write_5m, "ephemeral_1h_input_tokens": write_1h},
        "service_tier": "standard",
    } | more


def gemini_usage(prompt: int, output: int, *, cached: int = 0, thoughts: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "promptTokenCount": prompt,
        "candidatesTokenCount": output,
        "cachedContentTokenCount": cached,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": prompt + output + thoughts,
    } | more


CASES = {
    # 1,000 x $2.50 + 200 x $15 a million: 0.0025 + 0.003
    "OpenAI, plain": Case("openai", GPT, openai_usage(1_000, 200), "0.0055"),
    # 400 of the 1,000 are cached: 600 x 2.50 + 400 x 0.25 + 200 x 15: 0.0015 + 0.0001 + 0.003
    "OpenAI, cached input is not billed twice": Case("openai", GPT, openai_usage(1_000, 200, cached=400), "0.0046"),
    # Reasoning is a part of the 900 output tokens, at the output's price: 0.00025 + 0.0135
    "OpenAI, a reasoning model": Case("openai", GPT, openai_usage(100, 900, reasoning=800), "0.01375"),
    # 100 x $1 + 100 x $4 + 800 x $8
    "a price for reasoning of its own": Case("openai", REASONER, openai_usage(100, 900, reasoning=800), "0.0069"),
    # Exactly at the threshold the base price holds: 272,000 x 2.50 + 10 x 15: 0.68 + 0.00015
    "OpenAI, the last prompt of the lower tier": Case("openai", GPT_LONG, openai_usage(272_000, 10), "0.68015"),
    # One more, and every token is dearer: 272,001 x 5 + 10 x 22.50: 1.360005 + 0.000225
    "OpenAI, the first prompt of the upper tier": Case("openai", GPT_LONG, openai_usage(272_001, 10), "1.36023"),
    # 1,000 x 1.25 + 200 x 7.50
    "OpenAI, flex": Case("openai", GPT, openai_usage(1_000, 200), "0.00275", "flex", {"flex": GPT_FLEX}),
    # 600 x 5 + 400 x 0.50 + 200 x 30
    "OpenAI, priority": Case(
        "openai", GPT, openai_usage(1_000, 200, cached=400), "0.0092", "priority", {"priority": GPT_PRIORITY}
    ),
    # Asked for and not given: the answer says `default`, and so does the bill.
    "OpenAI, priority not granted": Case(
        "openai",
        GPT,
        openai_usage(1_000, 200),
        "0.0055",
        "default",
        {"priority": GPT_PRIORITY},
        {"service_tier": "priority"},
    ),
    # 1,000 x 3 + 20,000 x 0.30 + 3,000 x 3.75 + 400 x 6 + 500 x 15: 0.003 + 0.006 + 0.01125 + 0.0024 + 0.0075
    "Anthropic, cache writes for 5 minutes and for an hour": Case(
        "anthropic", SONNET, anthropic_usage(1_000, 500, read=20_000, write_5m=3_000, write_1h=400), "0.03015"
    ),
    # The prompt is all input together: 100,000 + 90,000 + 10,001 is over 200,000:
    # 100,000 x 6 + 90,000 x 0.60 + 10,001 x 7.50 + 10 x 22.50: 0.6 + 0.054 + 0.0750075 + 0.000225
    "Anthropic, above 200k tokens": Case(
        "anthropic", SONNET, anthropic_usage(100_000, 10, read=90_000, write_5m=10_001), "0.7292325"
    ),
    "Anthropic, batch": Case(
        "anthropic",
        SONNET,
        anthropic_usage(1_000, 100, service_tier="batch"),
        "0.00225",
        "",
        # half of 1,000 x 3 + 100 x 15
        {"batch": ModelPrice(input_mtok=mtok("1.50"), output_mtok=mtok("7.50"))},
    ),
    # 700 x 0.30 + 300 x 0.03 + (100 + 400 thoughts) x 2.50: 0.00021 + 0.000009 + 0.00125
    "Gemini, an implicit cache and thoughts": Case(
        "gemini", FLASH, gemini_usage(1_000, 100, cached=300, thoughts=400), "0.001469"
    ),
    # 128,001 x 2.50 + 10 x 10: 0.3200025 + 0.0001
    "Gemini, above 128k tokens": Case("gemini", PRO, gemini_usage(128_001, 10), "0.3201025"),
    # 128,000 x 1.25 + 10 x 5: 0.16 + 0.00005
    "Gemini, up to 128k tokens": Case("gemini", PRO, gemini_usage(128_000, 10), "0.16005"),
    "Gemini, flex": Case(
        "gemini",
        FLASH,
        gemini_usage(1_000, 100, trafficType="ON_DEMAND_FLEX"),
        "0.000275",
        "",
        # half of 1,000 x 0.30 + 100 x 2.50
        {"flex": ModelPrice(input_mtok=mtok("0.15"), output_mtok=mtok("1.25"))},
        {"service_tier": "flex"},
    ),
    # 1,000 x 2 + 10 x 6
    "Mistral": Case("mistral", MISTRAL, openai_usage(1_000, 10), "0.00206"),
    # The config's own prices, a token: 1,000 x 0.000001 + 200 x 0.000002, and cached input at the input's price
    "prices of the config": Case(
        "openai", GPT, openai_usage(1_000, 200, cached=400), "0.0014", own=Prices(input=1e-6, output=2e-6)
    ),
    # One token of the cheapest: 0.00000003, which only nano-dollars can tell
    "a single cached token": Case("gemini", FLASH, gemini_usage(1, 0, cached=1), "0.00000003"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    chosen = CASES[request.param]

    def listed(provider: object, model: object, service_tier: str | None, minute: int) -> ModelPrice:
        return chosen.tiered.get(service_tier or "", chosen.price)

    monkeypatch.setattr(pricing, "_look_up", lambda *_: (None, None))
    monkeypatch.setattr(pricing, "_prices", listed)
    return chosen


def test_a_whole_answer_costs_what_its_counts_say(case: Case) -> None:
    made = _call(case)
    answer = _WHOLE[case.provider](case)

    usage = registry.adapter(case.provider).completion(made, orjson.dumps(answer)).usage

    assert usage is not None
    assert _dollars(made.deployment, usage) == Decimal(case.dollars)


def test_a_streamed_answer_costs_the_same(case: Case) -> None:
    made = _call(case, stream=True)

    usage = None
    decoder, sse = registry.adapter(case.provider).decoder(made), SseDecoder(limit=1024 * 1024)
    for event in sse.feed(b"".join(_STREAMED[case.provider](case))):
        for chunk in decoder.feed(event):
            usage = chunk.usage or usage
    for chunk in decoder.close():
        usage = chunk.usage or usage

    assert usage is not None
    assert _dollars(made.deployment, usage) == Decimal(case.dollars)


def _dollars(deployment: Deployment, usage: Usage) -> Decimal:
    book = PriceBook()  # a new one: it remembers prices by model, and here all models are one
    return Decimal(book.cost(deployment, usage, service_tier=usage.tier)) / 10**9


def _call(case: Case, **body: Any) -> Call:
    deployment = Deployment("d", "g", case.provider, "model", api_key="sk-test", prices=case.own)
    messages = [{"role": "user", "content": "Hello"}]
    return Call({"model": "g", "messages": messages, **case.asked, **body}, deployment, "chatcmpl-own", 1, {})


def _openai(case: Case) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hello."}
    choices = [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}]
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
    return answer | {"usage": case.usage} | ({"service_tier": case.tier} if case.tier else {})


def _openai_stream(case: Case) -> Iterator[bytes]:
    head: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    head |= {"service_tier": case.tier} if case.tier else {}
    delta = {"role": "assistant", "content": "Hello."}
    yield _data(head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield _data(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    yield _data(head | {"choices": [], "usage": case.usage})
    yield b"data: [DONE]\n\n"


def _anthropic(case: Case) -> dict[str, Any]:
    content = [{"type": "text", "text": "Hello."}]
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": content}
    return message | {"stop_reason": "end_turn", "stop_sequence": None, "usage": case.usage}


def _anthropic_stream(case: Case) -> Iterator[bytes]:
    begun = _anthropic(case) | {"content": [], "stop_reason": None, "usage": case.usage | {"output_tokens": 1}}
    text = {"type": "text", "text": ""}
    ended = {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}}
    for event in (
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": text},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello."}},
        {"type": "content_block_stop", "index": 0},
        ended | {"usage": {"output_tokens": case.usage["output_tokens"]}},
        {"type": "message_stop"},
    ):
        yield b"event: " + event["type"].encode() + b"\n" + _data(event)


def _gemini(case: Case) -> dict[str, Any]:
    content = {"role": "model", "parts": [{"text": "Hello."}]}
    candidates = [{"index": 0, "content": content, "finishReason": "STOP"}]
    return {"candidates": candidates, "usageMetadata": case.usage, "modelVersion": "m", "responseId": "r"}


def _gemini_stream(case: Case) -> Iterator[bytes]:
    first = _gemini(case)
    first["candidates"][0].pop("finishReason")
    first["usageMetadata"] = case.usage | {"candidatesTokenCount": 0}
    yield _data(first)
    yield _data(_gemini(case))


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


_WHOLE = {"openai": _openai, "mistral": _openai, "anthropic": _anthropic, "gemini": _gemini}
_STREAMED = {
    "openai": _openai_stream,
    "mistral": _openai_stream,
    "anthropic": _anthropic_stream,
    "gemini": _gemini_stream,
}
