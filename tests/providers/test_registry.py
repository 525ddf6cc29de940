"""The table of providers, and the adapter behind each row."""

from urllib.parse import urlsplit

import pytest

from shared import providers
from workers.providers import registry

_ALL = sorted(providers.known())


@pytest.mark.parametrize("name", _ALL)
def test_every_provider_has_an_adapter(name: str) -> None:
    adapter = registry.adapter(name)

    assert all(callable(getattr(adapter, method)) for method in ("request", "completion", "decoder", "error"))
    assert registry.adapter(name) is adapter


def test_an_unknown_provider_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        registry.adapter("nobody")


@pytest.mark.parametrize("name", _ALL)
def test_every_row_is_complete(name: str) -> None:
    row = providers.provider(name)

    assert row.label
    assert row.keys or not row.needs_key
    assert not row.base or urlsplit(row.base).scheme
    assert not row.base.endswith("/") or name == "simulated"
    assert row.base or not row.needs_key, "a provider with an address of its own for every customer needs no key"


def test_no_name_belongs_to_two_providers() -> None:
    names = [each for name in _ALL for each in (name, *providers.provider(name).aliases)]

    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("openai", "openai"),
        ("OpenAI", "openai"),
        ("together", "together_ai"),
        ("together_ai", "together_ai"),
        ("fireworks", "fireworks_ai"),
        ("vllm", "hosted_vllm"),
        ("ollama_chat", "ollama"),
        ("custom_openai", "openai_like"),
        ("nobody", None),
        ("", None),
    ],
)
def test_aliases_lead_to_the_provider(name: str, canonical: str | None) -> None:
    assert providers.canonical(name) == canonical


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o", "openai"),
        ("gpt-3.5-turbo", "openai"),
        ("chatgpt-4o-latest", "openai"),
        ("o1", "openai"),
        ("o3-mini", "openai"),
        ("o4-mini", "openai"),
        ("claude-sonnet-4-5", "anthropic"),
        ("gemini-2.5-flash", "gemini"),
        ("mistral-large-latest", "mistral"),
        ("ministral-8b-latest", "mistral"),
        ("codestral-latest", "mistral"),
        ("pixtral-12b", "mistral"),
        ("magistral-medium-latest", "mistral"),
        ("devstral-small-latest", "mistral"),
        ("open-mistral-nemo", "mistral"),
        ("open-mixtral-8x22b", "mistral"),
        ("deepseek-chat", "deepseek"),
        ("grok-4", "xai"),
        ("sonar-pro", "perplexity"),
        ("o1x", None),
        ("llama-3.3-70b", None),
        ("", None),
    ],
)
def test_a_bare_model_name_leads_to_its_provider(model: str, provider: str | None) -> None:
    assert providers.provider_of(model) == provider


def test_what_the_configuration_asks_of_a_row() -> None:
    assert registry.api_key_variables("gemini") == ("GEMINI_API_KEY", "GOOGLE_API_KEY")
    assert registry.api_base_variable("groq") == "GROQ_API_BASE"
    assert registry.label("deepseek") == "DeepSeek"
    assert registry.needs_key("openai")
    assert not registry.needs_key("ollama")
    assert providers.default_base("mistral") == "https://api.mistral.ai/v1"
