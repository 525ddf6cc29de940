"""Thought signatures on their way through OpenAI's format (https://ai.google.dev/gemini-api/docs/thought-signatures).

Gemini 3 wants the signature of a function call back with the call. Most clients of OpenAI's format drop fields they do
not know, so it also rides in the call's id, which all of them return: `call_1__thought__<signature>`, as LiteLLM does.
"""

import base64
from typing import Any

SEPARATOR = "__thought__"
SKIP_VALIDATION = base64.b64encode(b"skip_thought_signature_validator").decode()
"""Google's word for a call that another model made."""


def with_signature(id: str, signature: str | None) -> str:
    return f"{id}{SEPARATOR}{signature}" if signature else id


def without_signature(id: str) -> str:
    return id.partition(SEPARATOR)[0]


def signature_of(call: dict[str, Any]) -> str | None:
    """The signature of a client's tool call: from its own field, or from its id."""
    for holder in (call, call.get("function")):
        fields = holder.get("provider_specific_fields") if isinstance(holder, dict) else None
        signature = fields.get("thought_signature") if isinstance(fields, dict) else None
        if isinstance(signature, str) and signature:
            return signature
    return str(call.get("id") or "").partition(SEPARATOR)[2] or None
