"""`logprobsResult` -> OpenAI's `logprobs`."""

from typing import Any


def read_logprobs(candidate: dict[str, Any]) -> dict[str, Any] | None:
    """OpenAI's object for the tokens of a candidate; None when Gemini sent none."""
    result = candidate.get("logprobsResult")
    chosen = result.get("chosenCandidates") if isinstance(result, dict) else None
    if not isinstance(result, dict) or not isinstance(chosen, list):
        return None
    steps = result.get("topCandidates")
    steps = steps if isinstance(steps, list) else []
    content = []
    for at, token in enumerate(chosen):
        step = steps[at] if at < len(steps) and isinstance(steps[at], dict) else {}
        alternatives = step.get("candidates")
        top = [_entry(each) for each in alternatives] if isinstance(alternatives, list) else []
        content.append({**_entry(token), "top_logprobs": top})
    return {"content": content, "refusal": None}


def _entry(token: Any) -> dict[str, Any]:
    """Gemini leaves out a probability of 1, whose logarithm is 0."""
    token = token if isinstance(token, dict) else {}
    spelled = str(token.get("token") or "")
    value = token.get("logProbability")
    return {
        "token": spelled,
        "logprob": value if isinstance(value, int | float) else 0.0,
        "bytes": list(spelled.encode()),
    }
