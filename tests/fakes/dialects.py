"""What real providers send, in their own words: one class for each wire format. No I/O.

OpenAI: https://platform.openai.com/docs/api-reference/chat
Anthropic: https://docs.anthropic.com/en/api/messages-streaming
Gemini: https://ai.google.dev/api/generate-content
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_CREATED = 1_767_268_800

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, without its dialect."""

    model: str
    stream: bool
    turns: tuple[tuple[str, str], ...]
    """(role, text) of each message, system prompts included."""
    tools: tuple[Json, ...] = ()
    """{name, parameters}: JSON schemas as OpenAI has them."""
    forced_tool: bool = False
    thinks: bool = False
    include_usage: bool = True


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer, before it is put into a dialect."""

    model: str
    words: tuple[str, ...]
    """Deltas; together they are the text, or the tool's arguments when `tool` is set."""
    prompt_tokens: int
    """All of them, cached ones included."""
    tool: str = ""
    thinking: tuple[str, ...] = ()
    include_usage: bool = True
    cache_read: int = 0
    cache_write: int = 0
    finish: str = "stop"
    """OpenAI's word for it."""

    @property
    def text(self) -> str:
        return "".join(self.words)

    @property
    def output_tokens(self) -> int:
        return len(self.words) + len(self.thinking)


@dataclass(frozen=True, slots=True)
class Script:
    """An answer in a dialect. Each item of a sequence is one server-sent event, blank line included."""

    prelude: tuple[bytes, ...]
    words: tuple[bytes, ...]
    finish: tuple[bytes, ...]
    terminator: tuple[bytes, ...]
    body: Json
    usage: tuple[bytes, ...] = ()

    @property
    def events(self) -> tuple[bytes, ...]:
        return self.prelude + self.words + self.finish + self.usage + self.terminator


class Dialect(Protocol):
    def ask(self, path: str, body: Json) -> Ask: ...

    def script(self, reply: Reply) -> Script: ...

    def error(self, status: int, kind: str, code: str | None, message: str, param: str | None = None) -> Json: ...

    def error_event(self, kind: str, message: str) -> bytes:
        """An error in the middle of a stream."""
        ...

    def broken_event(self) -> bytes:
        """An event whose JSON breaks off."""
        ...


def event(payload: Json, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(payload, ensure_ascii=False)}\n\n".encode()


def text_of(content: Any) -> str:
    """The text of a message, whether a string or parts."""
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content or [] if isinstance(part, dict))


class OpenAI:
    """Chat completions, which Mistral and every compatible vendor speak too."""

    def ask(self, path: str, body: Json) -> Ask:
        options = body.get("stream_options") or {}
        choice = body.get("tool_choice")
        return Ask(
            model=body.get("model", ""),
            stream=bool(body.get("stream")),
            turns=tuple((turn["role"], text_of(turn.get("content"))) for turn in body.get("messages", [])),
            tools=tuple(tool["function"] for tool in body.get("tools") or [] if "function" in tool),
            forced_tool=isinstance(choice, dict) or choice in ("required", "any"),
            thinks=body.get("reasoning_effort") not in (None, "none"),
            include_usage=bool(options.get("include_usage")),
        )

    def script(self, reply: Reply) -> Script:
        usage = self._usage(reply)
        finish = "tool_calls" if reply.tool else reply.finish
        words: list[Json]
        prelude: list[Json] = [
            {"role": "assistant", "content": ""},
            *({"reasoning_content": each} for each in reply.thinking),
        ]
        if reply.tool:
            call = {"index": 0, "id": "call_fake1", "type": "function"}
            prelude.append({"tool_calls": [{**call, "function": {"name": reply.tool, "arguments": ""}}]})
            words = [{"tool_calls": [{"index": 0, "function": {"arguments": each}}]} for each in reply.words]
        else:
            words = [{"content": each} for each in reply.words]
        return Script(
            prelude=tuple(event(self.chunk(reply, delta)) for delta in prelude),
            words=tuple(event(self.chunk(reply, delta)) for delta in words),
            finish=(event(self.chunk(reply, {}, finish)),),
            usage=(event({**self.chunk(reply, {}), "choices": [], "usage": usage}),) if reply.include_usage else (),
            terminator=(b"data: [DONE]\n\n",),
            body={
                "id": "chatcmpl-fake",
                "object": "chat.completion",
                "created": _CREATED,
                "model": reply.model,
                "choices": [{"index": 0, "message": self._message(reply), "logprobs": None, "finish_reason": finish}],
                "usage": usage,
                "system_fingerprint": "fp_fake",
            },
        )

    def chunk(self, reply: Reply, delta: Json, finish: str | None = None) -> Json:
        return {
            "id": "chatcmpl-fake",
            "object": "chat.completion.chunk",
            "created": _CREATED,
            "model": reply.model,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        }

    def error(self, status: int, kind: str, code: str | None, message: str, param: str | None = None) -> Json:
        return {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def error_event(self, kind: str, message: str) -> bytes:
        return event(self.error(200, kind, None, message))

    def broken_event(self) -> bytes:
        return b'data: {"id":"chatcmpl-fake","object":"chat.completion.chunk","choices":[{"delta":{"content":\n\n'

    def _message(self, reply: Reply) -> Json:
        message: Json = {"role": "assistant", "content": reply.text, "refusal": None}
        if reply.thinking:
            message["reasoning_content"] = "".join(reply.thinking)
        if reply.tool:
            function = {"name": reply.tool, "arguments": reply.text}
            message |= {
                "content": None,
                "tool_calls": [{"id": "call_fake1", "type": "function", "function": function}],
            }
        return message

    def _usage(self, reply: Reply) -> Json:
        return {
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.output_tokens,
            "total_tokens": reply.prompt_tokens + reply.output_tokens,
            "prompt_tokens_details": {"cached_tokens": reply.cache_read, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": len(reply.thinking), "audio_tokens": 0},
        }


class Anthropic:
    """Messages."""

    _STOPS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}  # noqa: RUF012 (a constant)

    def ask(self, path: str, body: Json) -> Ask:
        system = text_of(body.get("system"))
        turns = [(turn["role"], text_of(turn.get("content"))) for turn in body.get("messages", [])]
        return Ask(
            model=body.get("model", ""),
            stream=bool(body.get("stream")),
            turns=(*((("system", system),) if system else ()), *turns),
            tools=tuple(
                {"name": tool["name"], "parameters": tool["input_schema"]}
                for tool in body.get("tools") or []
                if "input_schema" in tool
            ),
            forced_tool=(body.get("tool_choice") or {}).get("type") in ("any", "tool"),
            thinks=(body.get("thinking") or {}).get("type") in ("enabled", "adaptive"),
        )

    def script(self, reply: Reply) -> Script:
        usage = self._usage(reply)
        stop = "tool_use" if reply.tool else self._STOPS[reply.finish]
        start = {**self._message(reply), "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
        delta = {"stop_reason": stop, "stop_sequence": None}
        prelude: list[Json] = [
            {"type": "message_start", "message": start},
            {"type": "ping"},
            *(self._thinking_events(reply) if reply.thinking else ()),
        ]
        index = 1 if reply.thinking else 0
        block: Json = {"type": "text", "text": ""}
        if reply.tool:
            block = {"type": "tool_use", "id": "toolu_fake1", "name": reply.tool, "input": {}}
        prelude.append({"type": "content_block_start", "index": index, "content_block": block})
        words = [
            {"type": "input_json_delta", "partial_json": each} if reply.tool else {"type": "text_delta", "text": each}
            for each in reply.words
        ]
        finish: list[Json] = [
            {"type": "content_block_stop", "index": index},
            {"type": "message_delta", "delta": delta, "usage": {"output_tokens": reply.output_tokens}},
        ]
        return Script(
            prelude=tuple(event(each, each["type"]) for each in prelude),
            words=tuple(_named({"type": "content_block_delta", "index": index, "delta": word}) for word in words),
            finish=tuple(_named(each) for each in finish),
            terminator=(_named({"type": "message_stop"}),),
            body={**self._message(reply), "stop_reason": stop, "usage": usage},
        )

    def error(self, status: int, kind: str, code: str | None, message: str, param: str | None = None) -> Json:
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_fake"}

    def error_event(self, kind: str, message: str) -> bytes:
        return _named({"type": "error", "error": {"type": kind, "message": message}})

    def broken_event(self) -> bytes:
        return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"text":\n\n'

    def _thinking_events(self, reply: Reply) -> list[Json]:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        deltas = [{"type": "thinking_delta", "thinking": each} for each in reply.thinking]
        deltas.append({"type": "signature_delta", "signature": "c2lnbmF0dXJl"})
        return [
            {"type": "content_block_start", "index": 0, "content_block": block},
            *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": 0},
        ]

    def _message(self, reply: Reply) -> Json:
        content: list[Json] = []
        if reply.thinking:
            thinking = "".join(reply.thinking)
            content.append({"type": "thinking", "thinking": thinking, "signature": "c2lnbmF0dXJl"})
        if reply.tool:
            call = {"type": "tool_use", "id": "toolu_fake1", "name": reply.tool, "input": json.loads(reply.text)}
            content.append(call)
        else:
            content.append({"type": "text", "text": reply.text})
        return {
            "id": "msg_fake",
            "type": "message",
            "role": "assistant",
            "model": reply.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _usage(self, reply: Reply) -> Json:
        return {
            "input_tokens": reply.prompt_tokens - reply.cache_read - reply.cache_write,
            "cache_creation_input_tokens": reply.cache_write,
            "cache_read_input_tokens": reply.cache_read,
            "output_tokens": reply.output_tokens,
            "service_tier": "standard",
        }


class Gemini:
    """generateContent and streamGenerateContent?alt=sse. A stream ends with its last chunk: there is no sentinel."""

    _REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}  # noqa: RUF012 (a constant)

    def ask(self, path: str, body: Json) -> Ask:
        model, _, action = path.rpartition("/")[2].partition(":")
        system = (body.get("system_instruction") or body.get("systemInstruction") or {}).get("parts")
        turns = [(turn.get("role", "user"), text_of(turn.get("parts"))) for turn in body.get("contents", [])]
        config = body.get("generationConfig") or body.get("generation_config") or {}
        calling = body.get("tool_config") or body.get("toolConfig") or {}
        mode = (calling.get("function_calling_config") or calling.get("functionCallingConfig") or {}).get("mode")
        return Ask(
            model=model,
            stream=action == "streamGenerateContent",
            turns=(*((("system", text_of(system)),) if system else ()), *turns),
            tools=tuple(
                {"name": each["name"], "parameters": each.get("parameters") or {}}
                for tool in body.get("tools") or []
                for each in tool.get("function_declarations") or tool.get("functionDeclarations") or []
            ),
            forced_tool=mode == "ANY",
            thinks=bool((config.get("thinkingConfig") or config.get("thinking_config") or {}).get("includeThoughts")),
        )

    def script(self, reply: Reply) -> Script:
        thoughts = [{"text": each, "thought": True} for each in reply.thinking]
        said: list[Json] = [{"text": each} for each in reply.words]
        whole: Json = {"text": reply.text}
        if reply.tool:
            whole = {"functionCall": {"name": reply.tool, "args": json.loads(reply.text)}}
            said = [whole]  # Gemini sends a call in one piece
        last = self._chunk(reply, [{"text": ""}], self._REASONS[reply.finish])
        return Script(
            prelude=tuple(event(self._chunk(reply, [part])) for part in thoughts),
            words=tuple(event(self._chunk(reply, [part])) for part in said),
            finish=(event(last),),
            terminator=(),
            body=self._chunk(reply, [*thoughts, whole], self._REASONS[reply.finish]),
        )

    def error(self, status: int, kind: str, code: str | None, message: str, param: str | None = None) -> Json:
        names = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
        name = names.get(status, "UNAVAILABLE" if status == 503 else "INTERNAL")
        error: Json = {"code": status, "message": message, "status": name}
        if code == "content_policy_violation":
            error["details"] = [{"reason": "SAFETY"}]
        return {"error": error}

    def error_event(self, kind: str, message: str) -> bytes:
        return event(self.error(503, kind, None, message))

    def broken_event(self) -> bytes:
        return b'data: {"candidates":[{"content":{"role":"model","parts":[{"text":\n\n'

    def _chunk(self, reply: Reply, parts: Sequence[Json], finish: str | None = None) -> Json:
        candidate: Json = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
        usage: Json = {"promptTokenCount": reply.prompt_tokens, "totalTokenCount": reply.prompt_tokens}
        if finish:
            candidate["finishReason"] = finish
            usage["candidatesTokenCount"] = len(reply.words)
            usage["totalTokenCount"] += reply.output_tokens
            if reply.thinking:
                usage["thoughtsTokenCount"] = len(reply.thinking)
        if reply.cache_read:
            usage["cachedContentTokenCount"] = reply.cache_read
        return {
            "candidates": [candidate],
            "usageMetadata": usage,
            "modelVersion": reply.model,
            "responseId": "resp_fake",
        }


def _named(payload: Json) -> bytes:
    """Anthropic names each event after its payload's type."""
    return event(payload, payload["type"])
