"""Ids of tool calls: Anthropic wants them unique in a conversation and made of `[a-zA-Z0-9_-]`."""

from collections.abc import Mapping
from typing import Any

from shared.errors import InvalidRequest
from workers.providers.anthropic.tools import safe

SERVER_CALL = "srvtoolu_"
"""Prefix of a call that Anthropic made and answered itself; a client's answer to one means nothing."""

_ID_LIMIT = 256  # characters; the vendor's own have about 30


class CallIds:
    """Hands out wire ids as calls appear, and remembers which calls the current turn made and has answered.

    Some models reuse an id in every turn (`call_0`), so an id means the latest call of that name.
    """

    def __init__(self) -> None:
        self._wire: dict[str, str] = {}
        self._used: set[str] = set()
        self._turn: set[str] = set()
        self._answered: set[str] = set()

    def new_turn(self) -> None:
        self._turn.clear()

    def called(self, original: str) -> str | None:
        """The wire id of a new call; None when this turn has made it already."""
        if original in self._turn:
            return None
        self._turn.add(original)
        wire = safe(original, _ID_LIMIT)
        number = 2
        while wire in self._used:
            suffix = f"_{number}"
            wire = safe(original, _ID_LIMIT - len(suffix)) + suffix
            number += 1
        self._used.add(wire)
        self._wire[original] = wire
        return wire

    def answered(self, message: Mapping[str, Any], where: str) -> str | None:
        """The wire id that a tool message answers; None when it has its answer, or needs none from a client."""
        legacy = message["role"] == "function"
        original: object = legacy_id(message.get("name")) if legacy else message.get("tool_call_id")
        if not isinstance(original, str) or not original:
            raise InvalidRequest(f"{where} needs a tool_call_id", param=f"{where}.tool_call_id")
        if original.startswith(SERVER_CALL):
            return None
        wire = self._wire.get(original) or safe(original, _ID_LIMIT)  # an orphan: let the vendor's error speak
        if wire in self._answered:
            return None
        self._answered.add(wire)
        return wire


def legacy_id(name: object) -> str:
    """The id of a `function_call`, which has none of its own."""
    return f"function_{name}"
