"""Claude behind OpenAI's chat format: https://platform.claude.com/docs/en/api/messages."""

from collections.abc import Mapping

from shared.errors import UpstreamError
from workers.providers.anthropic.errors import from_response
from workers.providers.anthropic.request import build
from workers.providers.anthropic.response import completion
from workers.providers.anthropic.stream import AnthropicStream
from workers.providers.base import Adapter, Call, Completion, StreamDecoder, UpstreamRequest


class AnthropicAdapter:
    """An `Adapter`."""

    def request(self, call: Call) -> UpstreamRequest:
        return build(call)

    def completion(self, call: Call, body: bytes) -> Completion:
        return completion(call, body)

    def decoder(self, call: Call) -> StreamDecoder:
        return AnthropicStream(call)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        return from_response(status, body)


ANTHROPIC: Adapter = AnthropicAdapter()
