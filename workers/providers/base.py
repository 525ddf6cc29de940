"""What an adapter is: OpenAI's chat format on our side, a vendor's format on the other."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from shared.catalog import Deployment
from shared.errors import UpstreamError
from shared.jobs import Usage
from shared.values import value


@value(frozen=True, slots=True)
class Call:
    """One attempt, as an adapter sees it."""

    body: dict[str, Any]
    """The client's chat request with the deployment's defaults merged in and broker-only fields (`timeout`,
    `fallbacks`, `metadata.tags`, `num_retries`, `mock_response` ...) taken out. An adapter must not change it."""
    deployment: Deployment
    id: str
    """`chatcmpl-...`: the answer's id when the vendor gives none."""
    created: int
    """Unix seconds for the answer's `created` when the vendor gives none."""
    client_headers: Mapping[str, str]
    """Headers of the client that concern vendors, lower-case: `anthropic-beta`."""

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def include_usage(self) -> bool:
        """Whether the client asked for the usage chunk (`stream_options.include_usage`)."""
        options = self.body.get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage"))


@value(frozen=True, slots=True)
class UpstreamRequest:
    url: str
    headers: dict[str, str]
    """Including authentication and content type."""
    body: bytes


@value(frozen=True, slots=True)
class Completion:
    """A whole answer."""

    body: bytes
    """OpenAI's `chat.completion` as JSON."""
    usage: Usage | None
    """None when the vendor sent none; the caller estimates and marks it."""
    model: str
    """The model that the vendor says answered."""
    id: str
    """The answer's `id`, as the client sees it."""


@value(frozen=True, slots=True)
class Chunk:
    """One `chat.completion.chunk` as JSON, or a mere note on the stream when `data` is empty."""

    data: bytes
    content: bool = False
    """It carries what the client is waiting for: text, a tool call, reasoning, audio or a refusal. The role, a ping and
    a lifecycle frame are not content; nothing is committed to the client before the first content or finish."""
    finish: bool = False
    """It carries the finish_reason of the (last) choice."""
    usage: Usage | None = None
    """Cumulative usage so far, when this event carried any; the last one wins."""
    text: int = 0
    """Characters of output in it, to estimate usage when the vendor sends none."""


@value(frozen=True, slots=True)
class ServerSentEvent:
    event: str
    """`message` when the stream names none."""
    data: bytes


class StreamDecoder(Protocol):
    """Turns one upstream stream into OpenAI chunks. It yields chunks, and raises the right `UpstreamError` for an error
    event in the stream; malformed JSON in one event is skipped if the stream goes on and ends well.

    It leaves out the usage chunk (`choices: []`) unless `call.include_usage`, and then yields exactly one, last. It
    never yields `[DONE]`: the relay ends the stream. Content after the finish is dropped. Every chunk has the same id,
    model and created; the role is on the first delta only."""

    def feed(self, event: ServerSentEvent) -> Iterable[Chunk]: ...

    @property
    def done(self) -> bool:
        """The dialect's terminator has been seen (`[DONE]`, `message_stop`); nothing more is of interest."""
        ...

    def close(self) -> Iterable[Chunk]:
        """The connection ended. Yields what is still due (the usage chunk). Raises `UpstreamBroken` when the answer is
        not complete as its dialect ends: no finish reason was seen."""
        ...


class Adapter(Protocol):
    """A wire format. Instances are stateless and shared."""

    def request(self, call: Call) -> UpstreamRequest:
        """Raises `UnsupportedParameter` or `InvalidRequest` for what has no counterpart (see `drop_params`)."""
        ...

    def completion(self, call: Call, body: bytes) -> Completion:
        """Translate a whole answer of status 200. Raises `UpstreamBroken` when it is not one (HTML, empty, `null`, an
        error object; an error object raises the error it describes)."""
        ...

    def decoder(self, call: Call) -> StreamDecoder: ...

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        """The error that an answer with a status of 400 and over describes. Classify by status first, read the
        message only when the status is silent. `retry_after` is set by the caller from the headers; an adapter sets
        it only from the body (Gemini's RetryInfo). Messages carry the vendor's text, at most 2,000 characters."""
        ...
