"""Grounding, citations and safety ratings -> OpenAI's annotations and LiteLLM's extra fields."""

from typing import Any

_FIELDS = {
    "groundingMetadata": "vertex_ai_grounding_metadata",
    "urlContextMetadata": "vertex_ai_url_context_metadata",
    "safetyRatings": "vertex_ai_safety_results",
    "citationMetadata": "vertex_ai_citation_metadata",
}


def extra_fields(candidates: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Fields beside `choices`, under the names that LiteLLM's users read: one entry a candidate that has it."""
    found = {ours: [each[native] for each in candidates if each.get(native)] for native, ours in _FIELDS.items()}
    return {name: values for name, values in found.items() if values}


def is_grounded(candidate: dict[str, Any]) -> bool:
    return bool(candidate.get("groundingMetadata"))


def annotations(candidate: dict[str, Any], text: str) -> list[dict[str, Any]]:
    """A `url_citation` for each source of each supported segment of `text`."""
    metadata = candidate.get("groundingMetadata")
    if not isinstance(metadata, dict):
        return []
    sources = [_source(chunk) for chunk in _objects(metadata.get("groundingChunks"))]
    encoded = text.encode()
    cited: list[dict[str, Any]] = []
    for support in _objects(metadata.get("groundingSupports")):
        segment = support.get("segment")
        segment = segment if isinstance(segment, dict) else {}
        start, end = _at(encoded, segment.get("startIndex")), _at(encoded, segment.get("endIndex"))
        indices = support.get("groundingChunkIndices")
        for index in indices if isinstance(indices, list) else []:
            source = sources[index] if isinstance(index, int) and 0 <= index < len(sources) else None
            if source:
                citation = {"start_index": start, "end_index": end, **source}
                cited.append({"type": "url_citation", "url_citation": citation})
    return cited


def _source(chunk: dict[str, Any]) -> dict[str, str] | None:
    for kind in ("web", "maps", "retrievedContext"):
        source = chunk.get(kind)
        if isinstance(source, dict) and isinstance(url := source.get("uri"), str) and url:
            return {"url": url, "title": str(source.get("title") or url)}
    return None


def _at(encoded: bytes, offset: Any) -> int:
    """Gemini counts bytes of UTF-8 and leaves out a zero; OpenAI counts characters."""
    return len(encoded[: offset if isinstance(offset, int) and offset > 0 else 0].decode(errors="ignore"))


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each if isinstance(each, dict) else {} for each in value] if isinstance(value, list) else []
