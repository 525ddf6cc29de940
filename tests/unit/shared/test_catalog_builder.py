"""From config.yaml to deployments."""

import random
from pathlib import Path

import pytest

from shared.catalog import Catalog, Deployment, Prices
from shared.catalog_builder import build_catalog
from shared.config import default_config, load
from shared.errors import ConfigError
from shared.prices import Terms, Tier

KEYS = {"OPENAI_API_KEY": "sk-openai", "ANTHROPIC_API_KEY": "sk-ant", "MISTRAL_API_KEY": "sk-mi"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def catalog_of(folder: Path, text: str, **environ: str) -> Catalog:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return build_catalog(load(path, {**KEYS, **environ}))


def entry(params: str, name: str = "m", more: str = "") -> str:
    return f"  - {{model_name: '{name}', litellm_params: {{{params}}}{more}}}\n"


def catalog_with(folder: Path, *entries: str, after: str = "", **environ: str) -> Catalog:
    return catalog_of(folder, "model_list:\n" + "".join(entries) + after, **environ)


def only(catalog: Catalog) -> Deployment:
    (deployment,) = catalog.deployments()
    return deployment


@pytest.mark.parametrize(
    ("params", "provider", "model"),
    [
        ("model: gpt-4o", "openai", "gpt-4o"),
        ("model: claude-3-5-sonnet-20240620", "anthropic", "claude-3-5-sonnet-20240620"),
        ("model: mistral-large-latest", "mistral", "mistral-large-latest"),
        ("model: mistral/mistral-large-latest", "mistral", "mistral-large-latest"),
        ("model: openrouter/openai/gpt-4o, api_key: k", "openrouter", "openai/gpt-4o"),
        ("model: together/meta/llama, api_key: k", "together_ai", "meta/llama"),
        ("model: meta/llama, custom_llm_provider: together_ai, api_key: k", "together_ai", "meta/llama"),
        ("model: openai/gpt-4o, custom_llm_provider: openai", "openai", "gpt-4o"),
        ("model: anything, mock_response: hi", "simulated", "anything"),
        ("model: openai/gpt-4o, mock_response: hi", "simulated", "gpt-4o"),
    ],
)
def test_the_provider_is_found_by_prefix_or_by_name(folder: Path, params: str, provider: str, model: str) -> None:
    deployment = only(catalog_with(folder, entry(params)))

    assert (deployment.provider, deployment.model) == (provider, model)


PLACE = "config.yaml: model_list[0].litellm_params"


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ("model: opneai/gpt-4o", f"{PLACE}.model: unknown provider 'opneai' in 'opneai/gpt-4o': did you mean 'openai'? "
         "for a server that speaks OpenAI's API write openai/<model> and api_base"),
        ("model: zzz", f"{PLACE}.model: no provider is known for 'zzz': write it with a prefix, e.g. openai/zzz"),
        ("model: x, custom_llm_provider: qqq", f"{PLACE}.custom_llm_provider: unknown provider 'qqq': for a server "
         "that speaks OpenAI's API write openai/<model> and api_base"),
        ("model: groq/llama", f"{PLACE}.api_key: no key for Groq: set GROQ_API_KEY, or add api_key"),
        ("model: hosted_vllm/llama", f"{PLACE}.api_base: Hosted vLLM has no address of its own: add api_base, or set "
         "HOSTED_VLLM_API_BASE"),
        ("model: gpt-4o, api_base: 'localhost:8000'", f"{PLACE}.api_base: expected an address: write e.g. "
         "http://localhost:8000/v1"),
        ("model: gpt-4o, litellm_credential_name: c", f"{PLACE}.litellm_credential_name: no credential 'c': add it to "
         "credential_list, or write api_key instead"),
        ("model: openai/*", f"{PLACE}.model: a star stands for a part of model_name, which has none: write e.g. "
         "model_name: openai/*"),
        ("model: mistral/mistral-small, provider_batch: auto", f"{PLACE}.provider_batch: no batch API is known for "
         "Mistral, only for anthropic, gemini, openai: leave it out"),
    ],
)  # fmt: skip
def test_an_entry_that_cannot_run_is_one_line_with_a_remedy(folder: Path, params: str, line: str) -> None:
    with pytest.raises(ConfigError) as raised:
        catalog_with(folder, entry(params))

    assert str(raised.value) == line


def test_aliases_in_a_cycle_name_the_file(folder: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        catalog_of(folder, "router_settings: {model_group_alias: {a: b, b: a}}")

    assert str(raised.value) == (
        "config.yaml: router_settings.model_group_alias.a: aliases in a cycle (a -> b -> a): "
        "let one of them name a model_name"
    )


@pytest.mark.parametrize(
    ("params", "environ", "key", "base"),
    [
        ("model: gpt-4o", {}, "sk-openai", ""),
        ("model: gpt-4o, api_key: own", {}, "own", ""),
        ("model: gpt-4o, api_key: ''", {}, "sk-openai", ""),
        ("model: gemini/g", {"GOOGLE_API_KEY": "g"}, "g", ""),
        ("model: gpt-4o", {"OPENAI_API_BASE": "http://env/v1/"}, "sk-openai", "http://env/v1"),
        ("model: gpt-4o, api_base: http://own/v1", {"OPENAI_API_BASE": "http://env/v1"}, "sk-openai", "http://own/v1"),
        ("model: gpt-4o, base_url: http://own/v1", {}, "sk-openai", "http://own/v1"),
        ("model: ollama/llama3", {"OLLAMA_API_BASE": "http://gpu:11434"}, "", "http://gpu:11434"),
        ("model: gpt-4o", {"LITELLM_API_BASE": "http://proxy", "LITELLM_API_KEY": "sk-1234"}, "sk-openai", ""),
        ("model: gpt-4o, mock_response: hi", {"OPENAI_API_BASE": "http://env/v1"}, "", ""),
    ],
)
def test_key_and_address_come_from_the_entry_then_from_the_environment(
    folder: Path, params: str, environ: dict[str, str], key: str, base: str
) -> None:
    deployment = only(catalog_with(folder, entry(params), **environ))

    assert (deployment.api_key, deployment.api_base) == (key, base)


@pytest.mark.parametrize(
    ("params", "on", "discount"),
    [
        ("model: gpt-4o", False, None),
        ("model: gpt-4o, provider_batch: auto", True, None),
        ("model: gpt-4o, provider_batch: off", False, None),
        ("model: mistral/mistral-small, provider_batch: 'off'", False, None),
        ("model: gpt-4o, provider_batch: auto, provider_batch_discount: 0.25", True, 0.25),
    ],
)
def test_a_providers_batch_api_is_used_when_the_entry_says_so(
    folder: Path, params: str, on: bool, discount: float | None
) -> None:
    deployment = only(catalog_with(folder, entry(params)))

    assert (deployment.provider_batch, deployment.provider_batch_discount) == (on, discount)
    assert deployment.params == {}


@pytest.mark.parametrize("value", ["provider_batch: always", "provider_batch: on", "provider_batch_discount: 1.5"])
def test_a_batch_setting_that_means_nothing_is_refused(folder: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=value.partition(":")[0]):
        catalog_with(folder, entry(f"model: gpt-4o, {value}"))


def test_a_named_credential_gives_key_and_address(folder: Path) -> None:
    after = "credential_list:\n  - credential_name: c\n    credential_values: {api_key: k, api_base: 'http://c/v1'}\n"

    deployment = only(catalog_with(folder, entry("model: gpt-4o, litellm_credential_name: c"), after=after))

    assert (deployment.api_key, deployment.api_base) == ("k", "http://c/v1")


def test_everything_of_an_entry_reaches_its_deployment(folder: Path) -> None:
    params = (
        "model: gpt-4o, rpm: 60, tpm: 1000, max_parallel_requests: 4, weight: 3, order: 2, timeout: 9, "
        "stream_timeout: 2, num_retries: 1, cooldown_time: 7, drop_params: true, additional_drop_params: [n], "
        "headers: {a: b}, extra_headers: {c: d}, temperature: 0.5, extra_body: {top_k: 5}, "
        "input_cost_per_token: 0.000001"
    )
    info = ", model_info: {id: mine, mode: chat, output_cost_per_token: 2e-6}"

    deployment = only(catalog_with(folder, entry(params, more=info)))

    assert (deployment.id, deployment.rpm, deployment.tpm, deployment.max_parallel_requests) == ("mine", 60, 1000, 4)
    assert (deployment.weight, deployment.order, deployment.num_retries, deployment.cooldown_time) == (3, 2, 1, 7)
    assert (deployment.timeout, deployment.stream_timeout) == (9, 2)
    assert (deployment.drop_params, deployment.additional_drop_params) == (True, ("n",))
    assert deployment.headers == {"a": "b", "c": "d"}
    assert deployment.params == {"temperature": 0.5, "extra_body": {"top_k": 5}}
    assert deployment.prices == Prices(input=1e-6, output=2e-6)
    assert deployment.info["mode"] == "chat"


def test_costs_of_longer_prompts_are_tiers(folder: Path) -> None:
    params = "model: gpt-4o, input_cost_per_token: 1e-6, input_cost_per_token_above_200k_tokens: 2e-6"
    info = ", model_info: {output_cost_per_token_above_200k_tokens: 4e-6, input_cost_per_token_above_128k_tokens: 3e-6}"

    prices = only(catalog_with(folder, entry(params, more=info))).prices

    assert prices.above == (Tier(128_000, input=3e-6), Tier(200_000, input=2e-6, output=4e-6))


@pytest.mark.parametrize(
    ("settings", "terms"),
    [
        ("", Terms()),
        ("cost_discount_config: {openai: 0.05, gemini: 0.5}", Terms(discount=0.05)),
        ("cost_margin_config: {global: 0.1}", Terms(margin=0.1)),
        (
            "cost_margin_config: {global: 0.1, openai: {percentage: 0.2, fixed_amount: 0.01}}",
            Terms(margin=0.2, fee=0.01),
        ),
        ("cost_margin_config: {gemini: 0.1}", Terms()),
    ],
)
def test_discounts_and_margins_are_those_of_the_provider(folder: Path, settings: str, terms: Terms) -> None:
    after = f"litellm_settings: {{{settings}}}"

    assert only(catalog_with(folder, entry("model: gpt-4o"), after=after)).terms == terms


def test_mock_response_is_what_the_simulated_provider_replies(folder: Path) -> None:
    deployment = only(catalog_with(folder, entry("model: gpt-4o, mock_response: It is cold.")))

    assert deployment.params["simulated"] == {"reply": "It is cold."}


@pytest.mark.parametrize(
    ("params", "after", "timeout"),
    [
        ("", "", 600),
        ("", "litellm_settings: {request_timeout: 30}", 30),
        ("", "litellm_settings: {request_timeout: 30}\nrouter_settings: {timeout: 20}", 20),
        (", timeout: 10", "router_settings: {timeout: 20}", 10),
    ],
)
def test_the_timeout_is_the_nearest_one(folder: Path, params: str, after: str, timeout: float) -> None:
    assert only(catalog_with(folder, entry("model: gpt-4o" + params), after=after)).timeout == timeout


def test_general_defaults_reach_every_deployment(folder: Path) -> None:
    after = (
        "litellm_settings: {drop_params: true}\n"
        "router_settings: {stream_timeout: 4, default_max_parallel_requests: 8}\n"
    )

    catalog = catalog_with(folder, entry("model: gpt-4o"), entry("model: o3, drop_params: false", "n"), after=after)

    assert [each.drop_params for each in catalog.deployments()] == [True, False]
    assert {(each.stream_timeout, each.max_parallel_requests) for each in catalog.deployments()} == {(4, 8)}


@pytest.mark.parametrize(
    ("first", "second", "weights"),
    [
        ("", "", [1, 1]),
        ("weight: 3", "", [3, 1]),
        ("weight: 3, rpm: 10", "rpm: 90", [3, 1]),
        ("rpm: 10, tpm: 5", "rpm: 90, tpm: 7", [10, 90]),
        ("rpm: 10", "", [10, 10]),
        ("tpm: 5", "tpm: 7", [5, 7]),
    ],
)
def test_weight_is_the_first_present_of_weight_rpm_and_tpm(
    folder: Path, first: str, second: str, weights: list[float]
) -> None:
    catalog = catalog_with(
        folder, entry(f"model: gpt-4o, api_key: a, {first}"), entry(f"model: gpt-4o, api_key: b, {second}")
    )

    assert [each.weight for each in catalog.deployments()] == weights


def test_deployments_of_one_bucket_have_the_smaller_limits(folder: Path) -> None:
    catalog = catalog_with(
        folder,
        entry("model: gpt-4o, rpm: 100, tpm: 5", "a"),
        entry("model: openai/gpt-4o, rpm: 60", "b"),
        entry("model: gpt-4o, rpm: 999, api_key: another", "c"),
    )

    a, b, c = catalog.deployments()
    assert (a.rpm, a.tpm, b.rpm, b.tpm) == (60, 5, 60, 5)
    assert (c.rpm, c.tpm) == (999, None)


def test_a_wildcard_keeps_to_the_limits_of_an_entry_for_the_same_model(folder: Path) -> None:
    catalog = catalog_with(folder, entry("model: gpt-4o, rpm: 60", "a"), entry("model: openai/*, rpm: 100", "openai/*"))

    assert catalog.group("openai/gpt-4o")[0].rpm == 60
    assert catalog.group("openai/o3")[0].rpm == 100


def test_fingerprints_tell_keys_addresses_and_models_apart_and_hide_the_key(folder: Path) -> None:
    catalog = catalog_with(
        folder,
        entry("model: gpt-4o", "a"),
        entry("model: o3", "b"),
        entry("model: gpt-4o, api_key: other", "c"),
        entry("model: gpt-4o, api_base: 'http://x/v1'", "d"),
    )

    a, b, c, d = catalog.deployments()
    assert a.credential == b.credential
    assert len({a.credential, c.credential, d.credential}) == 3
    assert len({each.bucket for each in (a, b, c, d)}) == 4
    assert "sk-openai" not in repr(catalog.deployments()) + a.credential


def test_ids_do_not_depend_on_the_environment(folder: Path) -> None:
    text = "model: gpt-4o, api_key: os.environ/K"

    here, there = (only(catalog_with(folder, entry(text), K=key)).id for key in ("one", "two"))

    assert here == there


def test_the_same_entry_twice_is_two_deployments(folder: Path) -> None:
    ids = [each.id for each in catalog_with(folder, entry("model: gpt-4o"), entry("model: gpt-4o")).deployments()]

    assert len(ids) == 2
    assert ids[1] == f"{ids[0]}-2"


def test_a_chosen_id_may_be_given_once(folder: Path) -> None:
    info = ", model_info: {id: mine}"

    with pytest.raises(ConfigError) as raised:
        catalog_with(folder, entry("model: gpt-4o", more=info), entry("model: o3", more=info))

    assert str(raised.value) == (
        "config.yaml: model_list[1].model_info.id: 'mine' is also the id of model_list[0]: give each its own"
    )


def test_a_list_of_organizations_is_a_deployment_each(folder: Path) -> None:
    catalog = catalog_with(folder, entry("model: gpt-4o, organization: [org-1, org-2]"))

    first, second = catalog.deployments()
    assert [each.headers["OpenAI-Organization"] for each in (first, second)] == ["org-1", "org-2"]
    assert first.id != second.id
    assert first.bucket != second.bucket


def test_a_lone_star_serves_every_provider_with_a_key(folder: Path) -> None:
    catalog = catalog_with(folder, entry("model: '*'", "*"))

    route = [catalog.group(name)[0] for name in ("gpt-4o", "mistral/mistral-tiny", "anthropic/claude-x")]

    assert [(each.provider, each.model, each.api_key) for each in route] == [
        ("openai", "gpt-4o", "sk-openai"),
        ("mistral", "mistral-tiny", "sk-mi"),
        ("anthropic", "claude-x", "sk-ant"),
    ]
    assert [catalog.deployment(each.id) for each in route] == route
    assert catalog.resolve("groq/llama") is None
    assert catalog.resolve("nonsense") is None


def test_a_lone_star_with_a_key_of_its_own_goes_to_one_server_only(folder: Path) -> None:
    catalog = catalog_with(folder, entry("model: '*', api_key: mine, api_base: 'http://own/v1'", "*"))

    (deployment,) = catalog.group("anthropic/claude-x")
    assert (deployment.provider, deployment.model, deployment.api_base) == (
        "openai",
        "anthropic/claude-x",
        "http://own/v1",
    )


def test_router_settings_win_over_litellm_settings(folder: Path) -> None:
    catalog = catalog_of(
        folder,
        "litellm_settings: {num_retries: 5, cooldown_time: 50, fallbacks: [{a: [x]}, {b: [y]}]}\n"
        "router_settings: {num_retries: 1, fallbacks: [{a: [z]}], retry_after: 2}\n",
    )

    routing = catalog.routing
    assert (routing.num_retries, routing.cooldown_time, routing.retry_after) == (1, 50, 2)
    assert (routing.allowed_fails, routing.max_fallbacks) == (3, 5)
    assert routing.fallbacks == {"a": ("z",), "b": ("y",)}


def test_names_that_lead_nowhere_are_warnings(folder: Path) -> None:
    after = "router_settings: {model_group_alias: {a: gone}, fallbacks: [{m: [lost]}], default_fallbacks: [m]}"

    catalog = catalog_with(folder, entry("model: gpt-4o"), after=after)

    assert catalog.warnings == ("model_group_alias.a: no model_name 'gone'", "fallbacks.m: no model_name 'lost'")


def test_without_a_file_bare_names_work_for_providers_with_a_key() -> None:
    catalog = build_catalog(default_config(KEYS))

    assert catalog.models() == ["simulated", "anthropic/*", "mistral/*", "openai/*"]
    assert catalog.plan("gpt-4o", rng=random.Random(1))[0].provider == "openai"
    assert catalog.plan("simulated", rng=random.Random(1))[0].provider == "simulated"
    assert catalog.providers() == ["anthropic", "mistral", "openai", "simulated"]
