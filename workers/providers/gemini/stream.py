"""`streamGenerateContent` -> OpenAI's chunks. Each event is a `GenerateContentResponse` with what is new."""

from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.jobs import Usage
from workers.providers.base import Call, Chunk, ServerSentEvent
from workers.providers.gemini import finish, grounding
from workers.providers.gemini.errors import broken, error_object, from_object
from workers.providers.gemini.logprobs import read_logprobs
from workers.providers.gemini.parts import Reply, parts_of, read_parts
from workers.providers.gemini.response import Answer, Candidate, candidates_of, index_of, message_fields
from workers.providers.gemini.usage import openai_usage, read_usage


@dataclass(slots=True)
class _Choice:
    """What has been said of one candidate so far."""

    begun: bool = False
    """Its first delta, which has the role, is out."""
    content: bool = False
    spoke: bool = False
    """It had a part, if only an empty text."""
    calls: int = 0
    text: list[str] = field(default_factory=list)
    """Kept for the citations, which come last and count from the text's beginning."""
    finished: bool = False


class GeminiDecoder:
    """A `StreamDecoder`. Gemini has no terminator: the connection's end ends the stream, and a finish reason for each
    candidate, or a blocked prompt, makes it whole."""

    done = False

    def __init__(self, call: Call) -> None:
        self._call = call
        self._choices: dict[int, _Choice] = {}
        self._head: dict[str, Any] | None = None
        self._metadata: dict[str, Any] | None = None
        self._grounded = False
        self._prompt_blocked = False

    def feed(self, event: ServerSentEvent) -> list[Chunk]:
        try:
            answer = orjson.loads(event.data)
        except orjson.JSONDecodeError:
            return []
        if (error := error_object(answer)) is not None:
            raise from_object(error)
        if not isinstance(answer, dict):
            return []
        chunk = self._chunk(answer)
        return [chunk] if chunk.data or chunk.usage else []

    def close(self) -> list[Chunk]:
        if not self._choices or not all(choice.finished for choice in self._choices.values()):
            raise broken("Gemini's stream ended without a finish reason")
        if self._metadata is None or not self._call.include_usage:
            return []
        usage = read_usage(self._metadata, grounded=self._grounded)
        body = {**self._heading({}), "choices": [], "usage": openai_usage(self._metadata, usage)}
        return [Chunk(orjson.dumps(body), usage=usage)]

    def _chunk(self, answer: Answer) -> Chunk:
        heading = self._heading(answer)
        candidates = candidates_of(answer)
        deltas = [self._advance(candidate, index_of(candidate, at)) for at, candidate in enumerate(candidates)]
        if not candidates and not self._choices and (blocked := finish.prompt_block(answer)):
            deltas.append(self._blocked(*blocked))
        usage = self._usage(answer, candidates)

        choices = [choice for choice, _ in deltas if choice is not None]
        if not choices:
            return Chunk(b"", usage=usage)
        body = {**heading, "choices": choices, **grounding.extra_fields(candidates)}
        return Chunk(
            orjson.dumps(body),
            content=any(reply.content or choice["delta"].get("refusal") for choice, reply in deltas if choice),
            finish=self._finished and any(choice["finish_reason"] for choice in choices),
            usage=usage,
            text=sum(reply.characters for _, reply in deltas),
        )

    def _heading(self, answer: Answer) -> dict[str, Any]:
        """The fields that every chunk shares, as the first event has them."""
        if self._head is None:
            self._head = {
                "id": str(answer.get("responseId") or self._call.id),
                "object": "chat.completion.chunk",
                "created": self._call.created,
                "model": str(answer.get("modelVersion") or self._call.deployment.model),
            }
        return self._head

    def _usage(self, answer: Answer, candidates: list[Candidate]) -> Usage | None:
        """Cumulative, so the last one holds."""
        self._grounded = self._grounded or any(map(grounding.is_grounded, candidates))
        if not isinstance(metadata := answer.get("usageMetadata"), dict):
            return None
        self._metadata = metadata
        return read_usage(metadata, grounded=self._grounded, asked_tier=self._call.body.get("service_tier"))

    def _advance(self, candidate: Candidate, index: int) -> tuple[dict[str, Any] | None, Reply]:
        """The chunk's choice for what is new of a candidate, or None when that says nothing."""
        state = self._choices.setdefault(index, _Choice())
        if state.finished:
            return None, Reply()
        reply = read_parts(parts_of(candidate), self._call, index, state.calls)
        state.content = state.content or reply.content
        state.spoke = state.spoke or bool(parts_of(candidate))
        state.text += reply.text
        delta = _delta(self._call, reply, state)
        if cited := grounding.annotations(candidate, "".join(state.text)):
            delta["annotations"] = cited
        state.calls += len(reply.tool_calls)

        native = str(candidate.get("finishReason") or "")
        logprobs = read_logprobs(candidate)
        if not (delta or native or logprobs or grounding.extra_fields([candidate])):
            return None, reply
        choice = _opened(state, index, delta)
        if logprobs:
            choice["logprobs"] = logprobs
        if native:
            self._finish(candidate, native, state, choice)
        return choice, reply

    def _finish(self, candidate: Candidate, native: str, state: _Choice, choice: dict[str, Any]) -> None:
        state.finished = True
        if self._finished and not any(each.content for each in self._choices.values()):
            may_be_empty = state.spoke or bool(self._call.body.get("stop"))
            finish.check_not_empty(candidate, native, may_be_empty=may_be_empty)
        reason = finish.finish_reason(native, tool_calls=state.calls > 0)
        if reason == "content_filter" and not state.content:
            choice["delta"]["refusal"] = finish.refusal(candidate, native)
        choice["finish_reason"] = reason
        choice["provider_specific_fields"] = {"native_finish_reason": native}

    def _blocked(self, native: str, sentence: str) -> tuple[dict[str, Any], Reply]:
        self._prompt_blocked = True
        state = self._choices[0] = _Choice(finished=True)
        choice = _opened(state, 0, {"refusal": sentence})
        choice["finish_reason"] = "content_filter"
        choice["provider_specific_fields"] = {"native_finish_reason": native}
        return choice, Reply()

    @property
    def _finished(self) -> bool:
        """Every candidate that was asked for, or that came unasked, has its finish reason."""
        wanted = self._call.body.get("n")
        ended = sum(choice.finished for choice in self._choices.values())
        wanted = max(len(self._choices), wanted if isinstance(wanted, int) else 1)
        return self._prompt_blocked or ended >= wanted


def _opened(state: _Choice, index: int, delta: dict[str, Any]) -> dict[str, Any]:
    """A choice; the first one of a candidate says whose words they are."""
    if not state.begun:
        state.begun = True
        delta = {"role": "assistant", "content": "", **delta}
    return {"index": index, "delta": delta, "finish_reason": None, "logprobs": None}


def _delta(call: Call, reply: Reply, state: _Choice) -> dict[str, Any]:
    delta = message_fields(call, reply)
    if reply.text:
        delta["content"] = "".join(reply.text)
    if reply.tool_calls:
        delta["tool_calls"] = [{"index": state.calls + at, **each} for at, each in enumerate(reply.tool_calls)]
    return delta
