"""OpenAI's `reasoning_effort` as Anthropic's thinking: a token budget on older models, an effort on newer ones.

https://platform.claude.com/docs/en/build-with-claude/thinking and .../effort
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.providers.anthropic.models import Model, NoThinking
from workers.providers.anthropic.unsupported import Unsupported

_LEAST_BUDGET = 1_024  # tokens; the vendor's minimum
_BUDGETS = {"minimal": 128, "low": 1_024, "medium": 2_048, "high": 4_096, "xhigh": 8_192, "max": 16_384}
"""LiteLLM's scale; a budget under the vendor's minimum is raised to it."""

ANSWER_TOKENS = 4_096
"""What is left for the answer when max_tokens does not exceed the thinking budget, as the vendor demands."""


@dataclass(frozen=True, slots=True)
class Thinking:
    config: dict[str, Any] | None = None
    """The value of `thinking`."""
    effort: str | None = None
    """The value of `output_config.effort`."""

    @property
    def on(self) -> bool:
        return self.config is not None and self.config.get("type") in ("enabled", "adaptive")

    @property
    def budget(self) -> int:
        """Tokens of `max_tokens` that go to thinking; 0 without a fixed budget."""
        budget = self.config.get("budget_tokens") if self.config else None
        return budget if isinstance(budget, int) else 0


def thinking(body: Mapping[str, Any], model: Model, unsupported: Unsupported, *, possible: bool) -> Thinking:
    """What `thinking` or, without it, `reasoning_effort` asks for.

    `possible` is False when the rest of the request rules thinking out (a forced tool, history without thinking): an
    effort is a wish and gives way, an explicit `thinking` is left for the vendor to judge.
    """
    if isinstance(body.get("thinking"), Mapping):
        return Thinking(config=dict(body["thinking"]))

    wish: Any = body.get("reasoning_effort")
    summary = None
    if isinstance(wish, Mapping):  # the Responses API's form
        wish, summary = wish.get("effort"), wish.get("summary")
    if wish is None:
        return Thinking()
    if wish in ("none", "disable"):
        return _none(model)
    if wish not in _BUDGETS or not model.thinks:
        known = f"must be none or one of {', '.join(_BUDGETS)}"
        unsupported.refuse("reasoning_effort", known if model.thinks else "this model cannot think")
        return Thinking()
    if model.adaptive_thinking:
        config = {"type": "adaptive", **({"display": "summarized"} if summary else {})}
        return Thinking(config if possible else None, _effort(wish, model))
    budget = max(_BUDGETS[wish], _LEAST_BUDGET)
    return Thinking({"type": "enabled", "budget_tokens": budget} if possible else None)


def _effort(wish: str, model: Model) -> str:
    if wish == "minimal":
        return "low"
    return wish if wish in model.efforts else "high"  # xhigh came with 4.7


def _none(model: Model) -> Thinking:
    match model.no_thinking:
        case NoThinking.OMIT:
            return Thinking()
        case NoThinking.IMPOSSIBLE:
            return Thinking(effort="low")
        case way:
            return Thinking(config={"type": way.value})
