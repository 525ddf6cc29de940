"""`reasoning_effort` and `thinking` -> `thinkingConfig` (https://ai.google.dev/gemini-api/docs/thinking).

Gemini 2.5 and earlier budget tokens; Gemini 3 and later name a level.
"""

from typing import Any

from shared.errors import InvalidRequest
from workers.providers.gemini.model import Model

_BUDGETS = {"low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
_OFF = ("none", "disable")
_EFFORTS = (*_OFF, "minimal", *_BUDGETS)
_PRO_MINIMUM = 128  # 2.5 Pro cannot stop thinking: a budget of 0 is a 400


def from_effort(model: Model, effort: Any) -> dict[str, Any]:
    """The `thinkingConfig` for OpenAI's `reasoning_effort`, a word or `{"effort": word}`; empty for the default."""
    word = effort.get("effort") if isinstance(effort, dict) else effort
    if word in (None, "default", "auto"):
        return {}
    if word not in _EFFORTS:
        raise InvalidRequest(
            f"unknown reasoning_effort {word!r}: expected one of {', '.join(_EFFORTS)}", param="reasoning_effort"
        )

    thinks = word not in _OFF
    if model.generation_3:
        return {"thinkingLevel": _level(model, word), "includeThoughts": thinks}
    return {"thinkingBudget": _budget(model, word), "includeThoughts": thinks}


def from_thinking(model: Model, thinking: Any) -> dict[str, Any]:
    """The `thinkingConfig` for Anthropic's `thinking`: `{"type": "enabled", "budget_tokens": n}` and kin."""
    if not isinstance(thinking, dict):
        raise InvalidRequest("thinking must be an object", param="thinking")
    budget = thinking.get("budget_tokens")
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int)):
        raise InvalidRequest("thinking.budget_tokens must be an integer", param="thinking")
    if thinking.get("type") == "disabled" or budget == 0:
        return from_effort(model, "none")
    if budget is None:
        return {"includeThoughts": True}
    if model.generation_3:
        return from_effort(model, _effort_of(budget))
    return {"thinkingBudget": budget, "includeThoughts": True}


def _level(model: Model, effort: str) -> str:
    if effort in (*_OFF, "minimal"):
        return "minimal" if model.flash else "low"  # Pro has no level below low
    return effort if effort in ("low", "medium") else "high"


def _budget(model: Model, effort: str) -> int:
    if effort in _OFF:
        return _PRO_MINIMUM if model.pro and model.version >= (2, 5) else 0
    if effort == "minimal":
        if model.pro:
            return _PRO_MINIMUM
        return 512 if model.flash_lite else 1  # the smallest that each class accepts
    return _BUDGETS[effort]


def _effort_of(budget: int) -> str:
    """The effort whose budget is the smallest that is not below `budget`; -1, Gemini's automatic, is high."""
    if budget < 0:
        return "high"
    return next((effort for effort, limit in _BUDGETS.items() if budget <= limit), "high")
