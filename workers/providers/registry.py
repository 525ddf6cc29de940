"""Which adapter speaks to which provider."""

from functools import cache

from shared import providers
from shared.providers import (
    api_base_variable,
    api_key_variables,
    canonical,
    known,
    label,
    needs_key,
    provider_of,
)
from workers.providers.base import Adapter

__all__ = [
    "adapter",
    "api_base_variable",
    "api_key_variables",
    "canonical",
    "known",
    "label",
    "needs_key",
    "provider_of",
]


@cache
def adapter(provider: str) -> Adapter:
    """The adapter for a canonical provider name. Raises `KeyError` for any other.

    Adapters are imported when first asked for: most installations use two or three of them.
    """
    row = providers.provider(provider)
    match row.dialect:
        case "openai":
            from workers.providers.openai import OpenAI

            return OpenAI(row)
        case "mistral":
            from workers.providers.mistral import Mistral

            return Mistral(row)
        case "anthropic":
            from workers.providers.anthropic import ANTHROPIC

            return ANTHROPIC
        case "gemini":
            from workers.providers.gemini import GEMINI

            return GEMINI
        case "simulated":
            from workers.simulated import Simulated

            return Simulated(row)
        case dialect:
            raise ValueError(f"provider {provider!r} has no adapter: unknown dialect {dialect!r}")
