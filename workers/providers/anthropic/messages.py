"""OpenAI's messages as Anthropic's: a system prompt, and turns of user and assistant that alternate.

https://platform.claude.com/docs/en/build-with-claude/working-with-messages
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from shared.errors import InvalidRequest
from workers.providers.anthropic.assistant import assistant_blocks
from workers.providers.anthropic.calls import CallIds
from workers.providers.anthropic.content import Block, blocks, mark
from workers.providers.anthropic.tools import Names

PLACEHOLDER = "."
"""Stands where Anthropic demands content and the client sent none; empty text is rejected."""

_SYSTEM = ("system", "developer")


@dataclass(slots=True)
class Turn:
    role: str
    content: list[Block] = field(default_factory=list)

    @property
    def uses_tools(self) -> bool:
        return any(block["type"] in ("tool_use", "tool_result") for block in self.content)

    def to_wire(self) -> dict[str, Any]:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Conversation:
    system: list[Block]
    turns: list[Turn]

    @property
    def uses_tools(self) -> bool:
        return any(turn.uses_tools for turn in self.turns)

    @property
    def continues_without_thinking(self) -> bool:
        """The last assistant turn called tools without thinking first. Token-budget thinking must not be on then: the
        vendor wants the turn's thinking blocks back, and an OpenAI client has none to give."""
        last = next((turn for turn in reversed(self.turns) if turn.role == "assistant"), None)
        return last is not None and last.uses_tools and last.content[0]["type"] not in ("thinking", "redacted_thinking")


def translate(messages: object, names: Names, *, system_messages: bool) -> Conversation:
    """`system_messages` says whether the model takes role system in the middle of a conversation."""
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages must be a list with at least one message", param="messages")
    numbered = [(f"messages[{index}]", _message(each, index)) for index, each in enumerate(messages)]
    leading = list(takewhile(lambda each: each[1]["role"] in _SYSTEM, numbered))

    system = [block for where, message in leading for block in _text(message, where)]
    turns = _merged(_turns(numbered[len(leading) :], names))
    return Conversation(system, _finished(_placed(turns, system_messages=system_messages)))


def _message(message: object, index: int) -> Mapping[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InvalidRequest(f"messages[{index}] must be an object with a role", param=f"messages[{index}]")
    return message


def _turns(messages: Iterable[tuple[str, Mapping[str, Any]]], names: Names) -> Iterable[Turn]:
    ids = CallIds()
    for where, message in messages:
        match message["role"]:
            case "user":
                yield Turn("user", _marked(blocks(message.get("content"), f"{where}.content"), message))
            case "assistant":
                yield Turn("assistant", _marked(assistant_blocks(message, where, ids, names), message))
            case "tool" | "function":
                if result := _tool_result(message, where, ids):
                    yield Turn("user", result)
            case role if role in _SYSTEM:
                if text := _text(message, where):
                    yield Turn("system", text)
            case role:
                raise InvalidRequest(f"{where}: unknown role {role!r}", param=f"{where}.role")


def _text(message: Mapping[str, Any], where: str) -> list[Block]:
    content = blocks(message.get("content"), f"{where}.content")
    if any(block["type"] != "text" for block in content):
        raise InvalidRequest(f"{where}: a system message holds text only", param=f"{where}.content")
    return _marked(content, message)


def _tool_result(message: Mapping[str, Any], where: str, ids: CallIds) -> list[Block]:
    wire_id = ids.answered(message, where)
    if wire_id is None:
        return []
    result: Block = {"type": "tool_result", "tool_use_id": wire_id}
    content = message.get("content")
    said = content if isinstance(content, str) else blocks(content, f"{where}.content")
    if said:
        result["content"] = said
    return [mark(result, message)]


def _merged(turns: Iterable[Turn]) -> list[Turn]:
    """Neighbours of one role become one turn, because the vendor expects the roles to alternate."""
    merged: list[Turn] = []
    for turn in turns:
        if merged and merged[-1].role == turn.role:
            merged[-1].content += turn.content
        else:
            merged.append(turn)
    return merged


def _placed(turns: list[Turn], *, system_messages: bool) -> list[Turn]:
    """System turns stay where the vendor allows them, after a user's turn and before none or an assistant's; any other
    is said by the user."""
    for index, turn in enumerate(turns):
        after_user = index > 0 and turns[index - 1].role == "user"
        before_user = index + 1 < len(turns) and turns[index + 1].role == "user"
        if turn.role == "system" and not (system_messages and after_user and not before_user):
            turn.role = "user"
    return _merged(turns)


def _finished(turns: list[Turn]) -> list[Turn]:
    """The turns with what the vendor demands of them: a user's first, none empty, tool results ahead of the rest."""
    if turns and turns[-1].role == "assistant" and not turns[-1].content:
        turns.pop()  # an empty prefill asks for nothing
    if not turns or turns[0].role != "user":
        turns.insert(0, Turn("user"))
    for turn in turns:
        turn.content.sort(key=lambda block: block["type"] != "tool_result")
        if not turn.content:
            turn.content.append({"type": "text", "text": PLACEHOLDER})
    last = turns[-1]
    if last.role == "assistant" and last.content[-1]["type"] == "text":
        last.content[-1]["text"] = last.content[-1]["text"].rstrip()  # a prefill may not end in white space
    return turns


def _marked(content: list[Block], message: Mapping[str, Any]) -> list[Block]:
    """A marker on the message is one on its last block; thinking cannot carry one."""
    if content and content[-1]["type"] not in ("thinking", "redacted_thinking"):
        mark(content[-1], message)
    return content
