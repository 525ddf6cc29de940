"""Anthropic's token counts as our disjoint classes and as OpenAI's `usage`.

Anthropic's `input_tokens` leaves out what was read from or written to a cache; OpenAI's `prompt_tokens` contains it.
https://platform.claude.com/docs/en/build-with-claude/prompt-caching#tracking-cache-performance
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.jobs import Usage

_CHARACTERS_PER_TOKEN = 4  # a rule of thumb, for models that do not count their thinking


@dataclass(slots=True)
class UsageMeter:
    """Reads counts as they come. Each report is cumulative, and may leave out what did not change."""

    seen: bool = False
    thinking_characters: int = 0
    """Length of the visible thinking, from which reasoning tokens are estimated when the vendor does not count them."""
    _counts: dict[str, int] = field(default_factory=dict)
    _write_1h: int = 0
    _thinking_tokens: int | None = None
    _server_tools: dict[str, Any] | None = None
    _tier: str = ""

    def read(self, report: object) -> None:
        if not isinstance(report, Mapping):
            return
        self.seen = True
        for name in ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"):
            if (count := _count(report.get(name))) is not None:
                self._counts[name] = count
        by_age = report.get("cache_creation")
        if isinstance(by_age, Mapping) and (count := _count(by_age.get("ephemeral_1h_input_tokens"))) is not None:
            self._write_1h = count
        details = report.get("output_tokens_details")
        if isinstance(details, Mapping) and (count := _count(details.get("thinking_tokens"))) is not None:
            self._thinking_tokens = count
        tier = "fast" if report.get("speed") == "fast" else report.get("service_tier")
        if isinstance(tier, str):
            self._tier = "" if tier == "standard" else tier
        if isinstance(report.get("server_tool_use"), Mapping):
            self._server_tools = dict(report["server_tool_use"])

    @property
    def usage(self) -> Usage | None:
        """None until the vendor has reported anything."""
        if not self.seen:
            return None
        output = self._counts.get("output_tokens", 0)
        written = self._counts.get("cache_creation_input_tokens", 0)
        written_1h = min(self._write_1h, written)
        reasoning = self._thinking_tokens
        if reasoning is None:
            reasoning = self.thinking_characters // _CHARACTERS_PER_TOKEN
        return Usage(
            input=self._counts.get("input_tokens", 0),
            cache_read=self._counts.get("cache_read_input_tokens", 0),
            cache_write=written - written_1h,
            cache_write_1h=written_1h,
            output=output,
            reasoning=min(reasoning, output),
            tier=self._tier,
        )

    def to_openai(self) -> dict[str, Any]:
        """OpenAI's `usage`, with the cache's classes under the names that LiteLLM gave them."""
        usage = self.usage or Usage()
        written = usage.cache_write + usage.cache_write_1h
        answer: dict[str, Any] = {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.output,
            "total_tokens": usage.total,
            "prompt_tokens_details": {
                "cached_tokens": usage.cache_read,
                "text_tokens": usage.input,
                "cache_creation_tokens": written,
                "cache_creation_token_details": {
                    "ephemeral_5m_input_tokens": usage.cache_write,
                    "ephemeral_1h_input_tokens": usage.cache_write_1h,
                },
            },
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": usage.cache_read,
        }
        if self._server_tools:
            answer["server_tool_use"] = self._server_tools
        return answer


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
