"""`finishReason` and `blockReason` -> OpenAI's finish reasons, and which endings are failures."""

from typing import Any

from workers.providers.gemini.errors import broken

_REASONS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "OTHER": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "NO_IMAGE": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "ESCALATION": "content_filter",
    "CONTINUATION": "length",
}
UNSPECIFIED = "FINISH_REASON_UNSPECIFIED"
"""The default of Google's enumeration, which JSON may leave out."""
_MALFORMED = (
    "MALFORMED_FUNCTION_CALL",
    "MALFORMED_RESPONSE",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "MISSING_THOUGHT_SIGNATURE",
    UNSPECIFIED,
)
"""The model failed, not the content: what came before may stand, nothing at all is worth another try."""


def finish_reason(native: str, *, tool_calls: bool) -> str:
    """OpenAI's word for a native finish reason. `tool_calls`: the candidate has called a function, in any chunk."""
    if native.startswith("IMAGE_"):
        return "content_filter"
    # A reason that is newer than this table ends an answer that arrived: "stop" loses nothing.
    reason = _REASONS.get(native, "stop")
    return "tool_calls" if reason == "stop" and tool_calls else reason


def refusal(candidate: dict[str, Any], native: str) -> str:
    """What to tell a client whose answer was withheld."""
    return str(candidate.get("finishMessage") or f"Gemini withheld the answer: {native}")


def prompt_block(answer: dict[str, Any]) -> tuple[str, str] | None:
    """Why the prompt was blocked, as Gemini's word and as a sentence; None when it was not."""
    feedback = answer.get("promptFeedback")
    reason = feedback.get("blockReason") if isinstance(feedback, dict) else None
    if not isinstance(feedback, dict) or not reason:
        return None
    return str(reason), str(feedback.get("blockReasonMessage") or f"Gemini blocked the prompt: {reason}")


def check_not_empty(candidate: dict[str, Any], native: str, *, may_be_empty: bool) -> None:
    """Raises `UpstreamBroken` for a candidate without any content whose ending is a failure in a success's clothes.

    `may_be_empty`: an empty text came, or the request had stop sequences, so that an answer may end before it begins.
    """
    if native in _MALFORMED:
        raise broken(f"Gemini answered nothing but {native}: {str(candidate.get('finishMessage') or '')[:500]}")
    if not may_be_empty and finish_reason(native, tool_calls=False) == "stop":
        raise broken(f"Gemini answered {native} without content")
