"""`messages` -> `contents` and `systemInstruction`: turns that alternate between user and model."""

from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import orjson

from shared.errors import InvalidRequest
from workers.providers.gemini.media import inline, media_part
from workers.providers.gemini.model import Model
from workers.providers.gemini.signatures import SKIP_VALIDATION, signature_of, without_signature

_BLANK = " "  # a turn must have a part, and a text part must not be empty
_MEDIA = ("image_url", "input_audio", "file", "video_url")
_SERVER_PARTS = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse")

Part = dict[str, Any]
Content = dict[str, Any]
Message = dict[str, Any]


def to_contents(messages: Any, model: Model) -> tuple[list[Content], Content | None]:
    """The conversation and its system instruction. Raises `InvalidRequest` for what Gemini has no part for."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InvalidRequest("messages must be a list of objects", param="messages")
    conversation = _Conversation(model)
    for is_result, run in groupby(messages, key=lambda message: message.get("role") in ("tool", "function")):
        if is_result:
            conversation.add_results(list(run))
        else:
            for message in run:
                conversation.add(message)
    return conversation.finished(), conversation.instruction()


@dataclass(slots=True)
class _Conversation:
    model: Model
    contents: list[Content] = field(default_factory=list)
    system: list[Part] = field(default_factory=list)
    calls: dict[str, str] = field(default_factory=dict)
    """Ids of the function calls so far -> names, in the order of the calls."""

    def add(self, message: Message) -> None:
        match message.get("role"):
            case "system" | "developer":
                self.system += _texts(message.get("content"))
            case "user":
                self._append("user", _parts(message.get("content"), self.model))
            case "assistant":
                self._append("model", self._answer(message))
            case role:
                raise InvalidRequest(f"unknown role {role!r} in messages", param="messages")

    def add_results(self, messages: list[Message]) -> None:
        """The results of one turn's calls: in the order of the calls, because before Gemini 3 nothing else pairs them
        when a function was called twice."""
        order = {id: at for at, id in enumerate(self.calls)}
        messages = sorted(messages, key=lambda message: order.get(_call_id(message), len(order)))
        responses: list[Part] = []
        beside: list[Part] = []
        for message in messages:
            response, media = self._result(message)
            if media and self.model.generation_3:
                response["functionResponse"]["parts"] = media
            else:
                beside += media
            responses.append(response)
        self._append("user", responses + beside)

    def instruction(self) -> Content | None:
        return {"parts": self.system} if self.system else None

    def finished(self) -> list[Content]:
        # A conversation begins with the user: a model's turn, or nothing at all, is answered with 400.
        if not self.contents or self.contents[0]["role"] == "model":
            self.contents.insert(0, {"role": "user", "parts": []})
        for content in self.contents:
            parts = content["parts"]
            if content["role"] == "user" and not any("text" in each or "functionResponse" in each for each in parts):
                parts.append({"text": _BLANK})
        return self.contents

    def _append(self, role: str, parts: list[Part]) -> None:
        if role == "model" and not parts:
            return  # an empty answer is no turn
        if self.contents and self.contents[-1]["role"] == role:
            self.contents[-1]["parts"] += parts
        else:
            self.contents.append({"role": role, "parts": parts})

    def _answer(self, message: Message) -> list[Part]:
        text = _parts(message.get("content"), self.model)
        signatures = _own_fields(message).get("thought_signatures")
        if text and isinstance(signatures, list) and signatures:
            text[-1]["thoughtSignature"] = signatures[0]
        return [*_thoughts(message), *_server_parts(message), *text, *_images(message), *self._calls(message)]

    def _calls(self, message: Message) -> list[Part]:
        calls = message.get("tool_calls") or []
        if isinstance(legacy := message.get("function_call"), dict):
            calls = [{"function": legacy}]
        if not isinstance(calls, list):
            raise InvalidRequest("tool_calls must be a list", param="messages")
        parts = [self._call(call) for call in calls]
        if parts and self.model.generation_3 and not any("thoughtSignature" in part for part in parts):
            # Gemini 3 refuses a turn whose first call is not signed, and other models' histories have no signatures.
            parts[0]["thoughtSignature"] = SKIP_VALIDATION
        return parts

    def _call(self, call: Any) -> Part:
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str):
            raise InvalidRequest("a tool call in messages has no function name", param="messages")
        id = without_signature(str(call.get("id") or ""))
        self.calls.pop(id or name, None)  # an id used again counts from its last call
        self.calls[id or name] = name
        part: Part = {"functionCall": {"name": name, "args": _arguments(function.get("arguments"))}}
        if id and self.model.generation_3:
            part["functionCall"]["id"] = id
        if signature := signature_of(call):
            part["thoughtSignature"] = signature
        return part

    def _result(self, message: Message) -> tuple[Part, list[Part]]:
        """The `functionResponse` for a tool's message, and the media in it."""
        id = _call_id(message)
        name = self.calls.get(id)
        if name is None:
            raise InvalidRequest(f"the tool message for {id!r} follows no call with that id", param="messages")
        parts = _parts(message.get("content"), self.model)
        text = "".join(part["text"] for part in parts if "text" in part)
        parsed = _json_object(text)
        response: Part = {"name": name, "response": {"content": text} if parsed is None else parsed}
        if self.model.generation_3 and message.get("tool_call_id"):
            response["id"] = id
        return {"functionResponse": response}, [part for part in parts if "text" not in part]


def _call_id(message: Message) -> str:
    """Which call a result answers: by id, or by name for the `function` role of old."""
    return without_signature(str(message.get("tool_call_id") or message.get("name") or ""))


def _parts(content: Any, model: Model) -> list[Part]:
    """The parts of a message's content; empty text is left out, for Gemini refuses it."""
    if isinstance(content, list):
        parts = [_part(each, model) for each in content]
        return [part for part in parts if part.get("text") != ""]
    if content is not None and not isinstance(content, str):
        raise InvalidRequest("a message's content must be a string or a list of parts", param="messages")
    return [{"text": content}] if content else []


def _part(part: Any, model: Model) -> Part:
    if isinstance(part, str):
        return {"text": part}
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _MEDIA:
        return media_part(part, model)
    text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, dict) else None
    if kind not in ("text", "refusal") or not isinstance(text, str):
        raise InvalidRequest(f"Gemini cannot take a content part of type {kind!r}", param="messages")
    return {"text": text}


def _texts(content: Any) -> list[Part]:
    """A system message's parts: text only."""
    pieces = content if isinstance(content, list) else [content or ""]
    texts = [each.get("text") if isinstance(each, dict) else each for each in pieces]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("a system message may hold text only", param="messages")
    return [{"text": text} for text in texts if text]


def _thoughts(message: Message) -> list[Part]:
    """What the model thought before it answered; `thinking_blocks` keep the signatures that `reasoning_content` loses.

    Redacted blocks are Anthropic's and say nothing to Gemini."""
    blocks = message.get("thinking_blocks")
    if not isinstance(blocks, list) or not blocks:
        blocks = [{"thinking": message.get("reasoning_content")}]
    parts: list[Part] = []
    for block in blocks:
        if isinstance(block, dict) and isinstance(text := block.get("thinking"), str) and text:
            signature = block.get("signature")
            parts.append({"text": text, "thought": True} | ({"thoughtSignature": signature} if signature else {}))
    return parts


def _server_parts(message: Message) -> list[Part]:
    """Parts of tools that ran at Google, which a later turn needs back as they came."""
    parts = _own_fields(message).get("server_parts")
    kept = [each for each in parts if isinstance(each, dict)] if isinstance(parts, list) else []
    return [each for each in kept if any(key in each for key in _SERVER_PARTS)]


def _images(message: Message) -> list[Part]:
    """Images that the model drew, so that the next turn can change them."""
    images = message.get("images")
    urls = [each["image_url"].get("url") for each in images or [] if _has_url(each)] if isinstance(images, list) else []
    return [inline(url) for url in urls if isinstance(url, str) and url.startswith("data:")]


def _has_url(image: Any) -> bool:
    return isinstance(image, dict) and isinstance(image.get("image_url"), dict)


def _own_fields(message: Message) -> dict[str, Any]:
    fields = message.get("provider_specific_fields")
    return fields if isinstance(fields, dict) else {}


def _arguments(arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, dict):
        return arguments
    if not arguments:
        return {}
    parsed = _json_object(str(arguments))
    if parsed is None:
        raise InvalidRequest("the arguments of a tool call in messages are not a JSON object", param="messages")
    return parsed


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None
