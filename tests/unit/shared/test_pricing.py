"""Costs against amounts worked out by hand from the vendors' price pages."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.catalog import Deployment, Prices
from shared.jobs import Usage
from shared.prices import Terms, Tier
from shared.pricing import PriceBook

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)  # a price list without surprises: no change is due on that day


PUBLIC_PRICES = Prices()


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook()


def a_deployment(name: str, prices: Prices = PUBLIC_PRICES, **info: Any) -> Deployment:
    provider, _, model = name.partition("/")
    return Deployment(id="d1", group="group", provider=provider, model=model, prices=prices, info=info)


def nanodollars(dollars: str) -> int:
    amount = Decimal(dollars) * 10**9
    assert amount == int(amount)
    return int(amount)


# --- The public price list ------------------------------------------------------------------------------------------

SONNET = Usage(input=1_000, cache_read=20_000, cache_write=3_000, cache_write_1h=400, output=500)

PUBLIC = {
    # $2.50 input, $1.25 cached, $10 output a million tokens: 0.0025 + 0.000625 + 0.002
    "gpt-4o with cached tokens": (
        "openai/gpt-4o",
        Usage(input=1_000, cache_read=500, output=200),
        "0.005125",
    ),
    # $0.15, $0.075, $0.60: 0.00000015 + 0.000000075 + 0.0000006, not a whole number of micro-dollars
    "one token of each class of gpt-4o-mini": (
        "openai/gpt-4o-mini",
        Usage(input=1, cache_read=1, output=1),
        "0.000000825",
    ),
    # $3 input, $0.30 cache read, $3.75 written for 5 minutes, $6 written for an hour, $15 output:
    # 0.003 + 0.006 + 0.01125 + 0.0024 + 0.0075
    "Claude with both kinds of cache writes": ("anthropic/claude-sonnet-4-0", SONNET, "0.03015"),
    # $0.30 input, $0.03 cached, $2.50 output, thoughts included: 0.0003 + 0.00006 + 0.00125
    "Gemini with an implicit cache and thoughts": (
        "gemini/gemini-2.5-flash",
        Usage(input=1_000, cache_read=2_000, output=500, reasoning=400),
        "0.00161",
    ),
    # $1.25 input, $0.125 cached, $10 output up to 200,000 tokens of prompt: 0.2375 + 0.00125 + 0.01
    "a prompt of exactly 200,000 tokens": (
        "gemini/gemini-2.5-pro",
        Usage(input=190_000, cache_read=10_000, output=1_000),
        "0.24875",
    ),
    # $2.50, $0.25, $15 for every token of a longer one: 0.4750025 + 0.0025 + 0.015
    "a prompt of 200,001 tokens": (
        "gemini/gemini-2.5-pro",
        Usage(input=190_001, cache_read=10_000, output=1_000),
        "0.4925025",
    ),
    # $6 input, $0.60, $7.50, $12, $22.50 above 200,000: 0.6 + 0.06 + 0.0075 + 0.012 + 0.00225
    "a long prompt that is mostly cached": (
        "anthropic/claude-sonnet-4-5",
        Usage(input=100_000, cache_read=100_000, cache_write=1_000, cache_write_1h=1_000, output=100),
        "0.68175",
    ),
    # $2 input, $8 output, $3 reasoning: 0.00002 + 0.0004 + 0.0003
    "reasoning with a price of its own": (
        "perplexity/sonar-deep-research",
        Usage(input=10, output=150, reasoning=100),
        "0.00072",
    ),
    # $3 input, $15 output, $14 for 1,000 requests: 0.00003 + 0.00015 + 0.014
    "a fee for the request": ("perplexity/sonar-pro", Usage(input=10, output=10), "0.01418"),
    # $0.20 input and output; the list has no cache price
    "cached tokens without a price of their own": (
        "fireworks_ai/accounts/fireworks/models/llama-v3p1-8b-instruct",
        Usage(input=1_000, cache_read=1_000, output=1_000),
        "0.0006",
    ),
    # $0.02 input
    "embeddings": ("openai/text-embedding-3-small", Usage(input=1_000), "0.00002"),
    "no tokens": ("perplexity/sonar-pro", Usage(), "0"),
}


@pytest.mark.parametrize(("name", "usage", "dollars"), PUBLIC.values(), ids=PUBLIC)
def test_costs_follow_the_public_price_list_to_the_nanodollar(
    book: PriceBook, name: str, usage: Usage, dollars: str
) -> None:
    assert book.cost(a_deployment(name), usage, when=NOON) == nanodollars(dollars)


def test_half_a_nanodollar_is_rounded_up(book: PriceBook) -> None:
    # $0.0375 a million tokens is 37.5 nano-dollars a token.
    assert book.cost(a_deployment("x/y", Prices(input=0.0375e-6)), Usage(input=1)) == 38
    assert book.cost(a_deployment("x/y", Prices(input=0.0375e-6)), Usage(input=2)) == 75


@pytest.mark.parametrize(
    ("tier", "dollars"),
    [
        (None, "0.01125"),  # $1.25 + $10
        ("default", "0.01125"),
        ("auto", "0.01125"),
        ("no such tier", "0.01125"),
        ("flex", "0.005625"),  # half
        ("priority", "0.0225"),  # double
        ("batch", "0.005625"),  # half
    ],
)
def test_the_service_tier_chooses_the_price(book: PriceBook, tier: str | None, dollars: str) -> None:
    usage = Usage(input=1_000, output=1_000)

    assert book.cost(a_deployment("openai/gpt-5"), usage, service_tier=tier, when=NOON) == nanodollars(dollars)


@pytest.mark.parametrize(
    ("when", "dollars"),
    [
        (datetime(2026, 1, 2, 16, 29, tzinfo=UTC), "0.27"),
        (datetime(2026, 1, 2, 16, 30, tzinfo=UTC), "0.135"),
        (datetime(2026, 1, 2, 16, 30), "0.135"),  # naive means UTC
        (datetime(2026, 1, 2, 17, 30, tzinfo=timezone(timedelta(hours=2))), "0.27"),
        (datetime(2026, 1, 2, 0, 29, 59, tzinfo=UTC), "0.135"),
        (datetime(2026, 1, 2, 0, 30, tzinfo=UTC), "0.27"),
    ],
)
def test_the_time_of_day_chooses_the_price(book: PriceBook, when: datetime, dollars: str) -> None:
    deployment = a_deployment("deepseek/deepseek-chat")

    assert book.cost(deployment, Usage(input=1_000_000), when=when) == nanodollars(dollars)


def test_a_price_changes_on_its_date(book: PriceBook) -> None:
    prompt = Usage(input=1_000_000)

    before = book.cost(a_deployment("openai/o3"), prompt, when=datetime(2025, 6, 9, 23, 59, tzinfo=UTC))
    after = book.cost(a_deployment("openai/o3"), prompt, when=datetime(2025, 6, 10, tzinfo=UTC))

    assert (before, after) == (nanodollars("10"), nanodollars("2"))


# --- Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "openai/gpt-4o",
        "azure/gpt-4o",
        "anthropic/claude-sonnet-4-5-20250929",
        "gemini/gemini-2.5-pro",
        "vertex_ai/gemini-2.5-pro",
        "mistral/mistral-large-latest",
        "groq/llama-3.3-70b-versatile",
        "deepseek/deepseek-chat",
        "together_ai/meta-llama/Llama-3.3-70B-Instruct-Turbo",
        "fireworks_ai/accounts/fireworks/models/llama-v3p1-8b-instruct",
        "openrouter/openai/gpt-4o",
        "xai/grok-4",
        "perplexity/sonar",
        "cerebras/llama3.1-8b",
        "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0",
        "cohere_chat/command-r",
    ],
)
def test_our_names_of_providers_are_found_in_the_price_list(book: PriceBook, name: str) -> None:
    assert book.known(a_deployment(name))
    assert book.cost(a_deployment(name), Usage(input=1_000, output=1_000)) > 0


@pytest.mark.parametrize("name", ["openai/no-such-model", "hosted_vllm/gpt-4o", "ollama/llama3", "my-openai/gpt-4o"])
def test_a_model_without_a_price_costs_nothing_and_is_not_known(book: PriceBook, name: str) -> None:
    assert book.cost(a_deployment(name), Usage(input=10**6, output=10**6)) == 0
    assert not book.known(a_deployment(name))


@pytest.mark.parametrize(
    ("name", "base_model"),
    [
        ("azure/my-own-name", "gpt-4o"),
        ("azure/my-own-name", "azure/gpt-4o"),
        ("hosted_vllm/my-own-name", "openai/gpt-4o"),
        ("hosted_vllm/my-own-name", "gpt-4o"),
        ("openrouter/my-own-name", "openai/gpt-4o"),
        ("openai/gpt-4o-mini", "gpt-4o"),
    ],
)
def test_base_model_names_the_model_whose_price_holds(book: PriceBook, name: str, base_model: str) -> None:
    deployment = a_deployment(name, base_model=base_model)

    assert book.cost(deployment, Usage(input=1_000), when=NOON) == nanodollars("0.0025")


def test_the_simulated_model_is_known_to_be_free(book: PriceBook) -> None:
    assert book.cost(a_deployment("simulated/gpt-4o"), Usage(input=10**6, output=10**6)) == 0
    assert book.known(a_deployment("simulated/gpt-4o"))


def test_the_simulated_model_may_have_costs_of_its_own(book: PriceBook) -> None:
    deployment = a_deployment("simulated/gpt-4o", Prices(input=1e-6, output=2e-6))

    assert book.cost(deployment, Usage(input=1_000, output=1_000)) == nanodollars("0.003")


# --- Custom costs ---------------------------------------------------------------------------------------------------

ONE_OF_EACH = {
    "input": Usage(input=1),
    "cache_read": Usage(cache_read=1),
    "cache_write": Usage(cache_write=1),
    "cache_write_1h": Usage(cache_write_1h=1),
    "output": Usage(output=1),
    "reasoning": Usage(output=1, reasoning=1),
}

# In nano-dollars a token. The list says for claude-sonnet-4-0: 3000, 300, 3750, 6000, 15000, 15000.
CUSTOM = [
    (Prices(), (3_000, 300, 3_750, 6_000, 15_000, 15_000)),
    (Prices(input=1e-6), (1_000, 1_000, 1_000, 1_000, 15_000, 15_000)),
    (Prices(output=2e-6), (3_000, 300, 3_750, 6_000, 2_000, 2_000)),
    (Prices(input=1e-6, cache_read=1e-7), (1_000, 100, 1_000, 1_000, 15_000, 15_000)),
    (Prices(cache_read=1e-7), (3_000, 100, 3_750, 6_000, 15_000, 15_000)),
    (Prices(cache_write=4e-6), (3_000, 300, 4_000, 4_000, 15_000, 15_000)),
    (Prices(cache_write_1h=4e-6), (3_000, 300, 3_750, 4_000, 15_000, 15_000)),
    (Prices(output=2e-6, reasoning=5e-6), (3_000, 300, 3_750, 6_000, 2_000, 5_000)),
    (Prices(input=0.0, output=0.0), (0, 0, 0, 0, 0, 0)),
]


@pytest.mark.parametrize(("prices", "expected"), CUSTOM)
def test_a_custom_cost_replaces_its_class_and_those_within_it(
    book: PriceBook, prices: Prices, expected: tuple[int, ...]
) -> None:
    deployment = a_deployment("anthropic/claude-sonnet-4-0", prices)

    assert tuple(book.cost(deployment, usage) for usage in ONE_OF_EACH.values()) == expected


TIERED = Prices(
    input=1e-6, output=4e-6, cache_read=1e-7,
    above=(Tier(128_000, input=2e-6), Tier(200_000, input=3e-6, output=9e-6, cache_read=5e-7)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        # The tier is that of the whole prompt, and holds for all tokens: 0.128 + 0.0004
        (Usage(input=128_000, output=100), "0.1284"),
        # 0.256002 + 0.0004: what a tier does not name stays
        (Usage(input=128_001, output=100), "0.256402"),
        # 100,000 of them cached: 0.2 + 0.01 + 0.0004
        (Usage(input=100_000, cache_read=100_000, output=100), "0.2104"),
        # 0.300003 + 0.05 + 0.0009
        (Usage(input=100_001, cache_read=100_000, output=100), "0.350903"),
    ],
)
def test_custom_costs_may_have_tiers(book: PriceBook, usage: Usage, dollars: str) -> None:
    assert book.cost(a_deployment("gemini/gemini-2.5-pro", TIERED), usage) == nanodollars(dollars)


def test_a_custom_tier_stands_beside_those_of_the_list(book: PriceBook) -> None:
    deployment = a_deployment("gemini/gemini-2.5-pro", Prices(above=(Tier(300_000, input=5e-6),)))

    # $2.50 is the list's input above 200,000 tokens, $15 its output
    assert book.cost(deployment, Usage(input=300_000, output=1_000), when=NOON) == nanodollars("0.765")
    assert book.cost(deployment, Usage(input=300_001, output=1_000), when=NOON) == nanodollars("1.515005")


# --- Discounts and margins ------------------------------------------------------------------------------------------

ONE_CENT = Usage(input=10_000)  # at $1 a million tokens


@pytest.mark.parametrize(
    ("terms", "dollars"),
    [
        (Terms(), "0.01"),
        (Terms(discount=0.05), "0.0095"),
        (Terms(margin=0.1), "0.011"),
        (Terms(fee=0.0005), "0.0105"),
        # the margin is on what the discount leaves: 0.01 * 0.95 * 1.08 + 0.0005
        (Terms(discount=0.05, margin=0.08, fee=0.0005), "0.01076"),
        (Terms(discount=1.0), "0"),
    ],
)
def test_a_discount_comes_off_and_a_margin_on(book: PriceBook, terms: Terms, dollars: str) -> None:
    deployment = replace(a_deployment("x/y", Prices(input=1e-6)), terms=terms)

    assert book.cost(deployment, ONE_CENT) == nanodollars(dollars)


def test_an_attempt_without_tokens_has_no_fee(book: PriceBook) -> None:
    assert book.cost(replace(a_deployment("x/y"), terms=Terms(fee=1.0)), Usage()) == 0


def test_the_fee_of_a_batch_line_is_not_halved(book: PriceBook) -> None:
    deployment = replace(a_deployment("x/y", Prices(input=1e-6)), terms=Terms(margin=0.1, fee=0.001))

    # 0.01 * 0.5 * 1.1 + 0.001
    assert book.batch_cost(deployment, ONE_CENT) == nanodollars("0.0065")


def test_a_custom_cost_holds_above_a_tier_too(book: PriceBook) -> None:
    deployment = a_deployment("gemini/gemini-2.5-pro", Prices(input=1e-6))

    # $1 for the custom input, $15 for the list's output above 200,000 tokens
    assert book.cost(deployment, Usage(input=300_000, output=1_000), when=NOON) == nanodollars("0.315")


def test_a_deployment_with_custom_costs_is_known(book: PriceBook) -> None:
    assert book.known(a_deployment("openai/no-such-model", Prices(output=0.0)))


def test_custom_costs_know_no_fee_for_the_request(book: PriceBook) -> None:
    deployment = a_deployment("perplexity/sonar-pro", Prices(input=1e-6, output=1e-6))

    assert book.cost(deployment, Usage(input=1, output=1)) == 2_000


# --- Providers' own batch APIs --------------------------------------------------------------------------------------

BATCH = [
    # live: $2.50 and $10 a million, $0.0035; OpenAI's list has batches at half of that
    ("the price list's own", "openai/gpt-4o", PUBLIC_PRICES, None, "0.00175"),
    # live: $2 and $6 a million, $0.0026; the list has no prices for Mistral's batches
    ("half, where the list has none", "mistral/mistral-large-2411", PUBLIC_PRICES, None, "0.0013"),
    ("half of the config's prices", "openai/gpt-4o", Prices(input=2e-6, output=1e-5), None, "0.0015"),
    ("half of prices of which the config has one", "openai/gpt-4o", Prices(input=2e-6), None, "0.0015"),
    ("the config's discount", "openai/gpt-4o", PUBLIC_PRICES, 0.2, "0.0028"),
    ("no discount", "openai/gpt-4o", PUBLIC_PRICES, 0.0, "0.0035"),
    ("free", "openai/gpt-4o", PUBLIC_PRICES, 1.0, "0"),
]


@pytest.mark.parametrize(
    ("model", "prices", "discount", "dollars"), [case[1:] for case in BATCH], ids=[case[0] for case in BATCH]
)
def test_a_batch_at_the_provider_costs(
    book: PriceBook, model: str, prices: Prices, discount: float | None, dollars: str
) -> None:
    deployment = replace(a_deployment(model, prices), provider_batch_discount=discount)

    assert book.batch_cost(deployment, Usage(input=1_000, output=100), when=NOON) == nanodollars(dollars)


# --- Every token once -----------------------------------------------------------------------------------------------

tokens = st.integers(0, 30_000)


@given(st.builds(Usage, tokens, tokens, tokens, tokens, tokens, tokens))
def test_every_token_is_priced_exactly_once(book: PriceBook, usage: Usage) -> None:
    deployment = a_deployment("x/y", Prices(**{each.name: 1e-9 for each in fields(Prices) if each.name != "above"}))

    assert book.cost(deployment, usage) == usage.total


@given(st.builds(Usage, tokens, tokens, tokens, tokens, tokens, tokens))
def test_the_library_itself_comes_to_the_same_amount(book: PriceBook, usage: Usage) -> None:
    import genai_prices

    theirs = genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=usage.prompt,
            cache_read_tokens=usage.cache_read,
            cache_write_tokens=usage.cache_write + usage.cache_write_1h,
            cache_write_1h_tokens=usage.cache_write_1h,
            output_tokens=usage.output,
        ),
        "claude-sonnet-4-5",
        provider_id="anthropic",
        genai_request_timestamp=NOON,
    )

    assert (
        abs(book.cost(a_deployment("anthropic/claude-sonnet-4-5"), usage, when=NOON) - theirs.total_price * 10**9) < 1
    )
