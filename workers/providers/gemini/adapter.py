"""Google AI Studio's Gemini API behind the `Adapter` contract."""

from collections.abc import Mapping

from shared.errors import UpstreamError
from workers.providers.base import Call, Completion, StreamDecoder, UpstreamRequest
from workers.providers.gemini.errors import from_answer
from workers.providers.gemini.request import to_request
from workers.providers.gemini.response import to_completion
from workers.providers.gemini.stream import GeminiDecoder


class GeminiAdapter:
    def request(self, call: Call) -> UpstreamRequest:
        return to_request(call)

    def completion(self, call: Call, body: bytes) -> Completion:
        return to_completion(call, body)

    def decoder(self, call: Call) -> StreamDecoder:
        return GeminiDecoder(call)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        return from_answer(status, body)
