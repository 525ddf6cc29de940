"""Images, audio, video and documents of a chat -> `inlineData` and `fileData` parts. Nothing is downloaded here."""

import base64
import mimetypes
import re
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from shared.errors import InvalidRequest
from workers.providers.gemini.model import Model
from workers.providers.gemini.naming import camel_keys

_FILES_API = re.compile(r"https://generativelanguage\.googleapis\.com/[^?#]*files/")
_FILE_NAME = re.compile(r"files/[a-z0-9-]+")
_FILES_BASE = "https://generativelanguage.googleapis.com/v1beta/"
_DATA_URL = re.compile(r"data:(?P<type>[^;,]*)(?P<parameters>[^,]*),(?P<data>.*)", re.DOTALL)
_DEFAULT_TYPES = {"image_url": "image/jpeg", "video_url": "video/mp4", "file": "application/pdf"}
_AUDIO_TYPES = {"pcm16": "audio/L16"}  # else the format's name is the subtype: audio/wav, audio/mp3
_RESOLUTIONS = {
    "low": "MEDIA_RESOLUTION_LOW",
    "medium": "MEDIA_RESOLUTION_MEDIUM",
    "high": "MEDIA_RESOLUTION_HIGH",
    "ultra": "MEDIA_RESOLUTION_ULTRA_HIGH",
    "ultra_high": "MEDIA_RESOLUTION_ULTRA_HIGH",
}

Part = dict[str, Any]


def media_part(part: dict[str, Any], model: Model) -> Part:
    """The Gemini part for an OpenAI part of type image_url, video_url, input_audio or file. Raises `InvalidRequest`."""
    kind = part["type"]
    source = part.get(kind)
    if isinstance(source, str):
        source = {"url": source}
    if not isinstance(source, dict):
        raise InvalidRequest(f"a content part of type {kind} needs a {kind} object", param="messages")

    translated = _audio(source) if kind == "input_audio" else _referenced(kind, source)
    if level := resolution(part):
        translated |= {"mediaResolution": {"level": level}} if model.generation_3 else {}
    metadata = part.get("video_metadata") or source.get("video_metadata")
    if isinstance(metadata, dict):
        translated["videoMetadata"] = camel_keys(metadata)
    return translated


def resolution(part: Any) -> str | None:
    """The media resolution that a part's `detail` asks for; None for `auto` and for parts without one."""
    kind = part.get("type") if isinstance(part, dict) else None
    source = part.get(kind) if isinstance(kind, str) else None
    detail = source.get("detail") if isinstance(source, dict) else None
    return _RESOLUTIONS.get(detail) if isinstance(detail, str) else None


def inline(data_url: str, mime_type: str | None = None) -> Part:
    """The `inlineData` part for a `data:` URL; `mime_type` overrides the URL's own."""
    found = _DATA_URL.fullmatch(data_url)
    if found is None:
        raise InvalidRequest("a data: URL must read data:<type>;base64,<data>", param="messages")
    data = found["data"]
    if ";base64" not in found["parameters"].lower():
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    return {"inlineData": {"mimeType": mime_type or found["type"] or "text/plain", "data": data}}


def _audio(source: dict[str, Any]) -> Part:
    """`input_audio` carries bare base64 and a format."""
    data = source.get("data") or source.get("url")
    if not isinstance(data, str):
        raise InvalidRequest("input_audio.data must be base64", param="messages")
    name = str(source.get("format") or "wav")
    mime_type = name if "/" in name else _AUDIO_TYPES.get(name, f"audio/{name}")
    if data.startswith("data:"):
        return inline(data, mime_type if source.get("format") else None)
    return {"inlineData": {"mimeType": mime_type, "data": data}}


def _referenced(kind: str, source: dict[str, Any]) -> Part:
    mime_type = source.get("format") if isinstance(source.get("format"), str) else None
    url = source.get("url") or source.get("file_data") or source.get("file_id")
    if not isinstance(url, str):
        raise InvalidRequest(f"a content part of type {kind} names no data", param="messages")

    if url.startswith("data:"):
        return inline(url, mime_type)
    if url.startswith("http://"):
        raise InvalidRequest("Gemini fetches https only: send an https: or a data: URL", param="messages")
    if _FILE_NAME.fullmatch(url):
        url = _FILES_BASE + url
    if _FILES_API.match(url):
        # The API knows the type of what was uploaded to it.
        return {"fileData": {"fileUri": url} | ({"mimeType": mime_type} if mime_type else {})}
    if url.startswith(("https://", "gs://")):
        mime_type = mime_type or _guessed(urlsplit(url).path) or _DEFAULT_TYPES[kind]
        return {"fileData": {"mimeType": mime_type, "fileUri": url}}
    if kind == "file" and isinstance(source.get("file_data"), str):
        named = _guessed(str(source.get("filename") or ""))
        return {"inlineData": {"mimeType": mime_type or named or _DEFAULT_TYPES[kind], "data": url}}
    raise InvalidRequest(
        f"Gemini cannot read the {kind} {url[:80]!r}: send a data:, https: or gs: URL, or a files/... name",
        param="messages",
    )


def _guessed(path: str) -> str | None:
    return mimetypes.guess_type(path)[0]
