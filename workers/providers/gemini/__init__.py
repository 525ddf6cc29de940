"""OpenAI's chat format on our side, Gemini's `generateContent` on the other (https://ai.google.dev/api)."""

from workers.providers.base import Adapter
from workers.providers.gemini.adapter import GeminiAdapter

GEMINI: Adapter = GeminiAdapter()
