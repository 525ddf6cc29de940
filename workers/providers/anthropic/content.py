"""One part of an OpenAI message as one Anthropic content block.

https://platform.claude.com/docs/en/build-with-claude/vision and .../pdf-support
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from shared.errors import InvalidRequest

Block = dict[str, Any]
"""An Anthropic content block."""

_DATA_URL = re.compile(r"data:(?P<media>[^;,]*)(?:;[^;,]+)*?;base64,", re.IGNORECASE)
_NATIVE = ("document", "search_result", "image", "tool_reference")
"""Blocks of Anthropic's own that a client may put among OpenAI's parts."""
_FILE_DOCUMENTS = ("application/pdf", "text/plain")
_MEDIA_ALIASES = {"image/jpg": "image/jpeg"}  # common, and rejected


def blocks(content: object, where: str) -> list[Block]:
    """The blocks of a message's content; empty text is left out, because Anthropic rejects it.

    `where` names the content in errors: `messages[3].content`.
    """
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    if not isinstance(content, list):
        raise InvalidRequest(f"{where} must be a string or a list of parts", param=where)
    found = (_block(part, f"{where}[{index}]") for index, part in enumerate(content))
    return [block for block in found if block is not None]


def mark(block: Block, owner: Mapping[str, Any]) -> Block:
    """`block`, with the cache marker that `owner` carries."""
    if isinstance(owner.get("cache_control"), Mapping):
        block["cache_control"] = owner["cache_control"]
    return block


def needs_files_api(block: Mapping[str, Any]) -> bool:
    source = block.get("source")
    return block.get("type") == "container_upload" or (isinstance(source, Mapping) and source.get("type") == "file")


def _block(part: object, where: str) -> Block | None:
    if not isinstance(part, Mapping):
        raise InvalidRequest(f"{where} must be an object with a type, not {type(part).__name__}", param=where)
    match part.get("type"):
        case "text":
            text = part.get("text")
            return mark({"type": "text", "text": text}, part) if isinstance(text, str) and text.strip() else None
        case "refusal":
            text = part.get("refusal")
            return {"type": "text", "text": text} if isinstance(text, str) and text.strip() else None
        case "image_url":
            return mark(_image(part.get("image_url"), where), part)
        case "file":
            return mark(_file(part.get("file"), where), part)
        case kind if kind in _NATIVE:
            return dict(part)
        case kind:
            raise InvalidRequest(f"{where}: Anthropic has no counterpart for a part of type {kind!r}", param=where)


def _image(image: object, where: str) -> Block:
    if isinstance(image, str):
        image = {"url": image}
    if not isinstance(image, Mapping) or not isinstance(image.get("url"), str):
        raise InvalidRequest(f"{where}.image_url needs a url", param=where)
    media = image.get("format")
    url: str = image["url"]
    if url.startswith("data:"):
        return _inline(url, media, where)
    block = "document" if media == "application/pdf" else "image"
    return {"type": block, "source": {"type": "url", "url": _https(url, where)}}


def _file(file: object, where: str) -> Block:
    if not isinstance(file, Mapping):
        raise InvalidRequest(f"{where}.file must be an object", param=where)
    media = file.get("format")
    if isinstance(data := file.get("file_data"), str):
        return _inline(data, media, where)
    file_id = file.get("file_id")
    if not isinstance(file_id, str) or not file_id:
        raise InvalidRequest(f"{where}.file needs file_data or file_id", param=where)
    if "://" in file_id:
        return {"type": "document", "source": {"type": "url", "url": _https(file_id, where)}}
    if media in _FILE_DOCUMENTS:
        return {"type": "document", "source": {"type": "file", "file_id": file_id}}
    if isinstance(media, str) and media.startswith("image/"):
        return {"type": "image", "source": {"type": "file", "file_id": file_id}}
    return {"type": "container_upload", "file_id": file_id}


def _inline(data: str, media: object, where: str) -> Block:
    """A block that carries its bytes; without a `data:` prefix or a format they are taken for a PDF, as OpenAI does."""
    prefix = _DATA_URL.match(data)
    if data.startswith("data:") and prefix is None:
        raise InvalidRequest(f"{where}: a data: URL must be base64", param=where)
    if prefix is not None:
        media = media or prefix["media"].lower()
        data = data[prefix.end() :]
    media = _MEDIA_ALIASES.get(str(media), media) or "application/pdf"
    if media == "text/plain":
        return {"type": "document", "source": {"type": "text", "media_type": media, "data": _text(data, where)}}
    block = "image" if str(media).startswith("image/") else "document"
    return {"type": block, "source": {"type": "base64", "media_type": media, "data": data}}


def _text(data: str, where: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"{where}: text/plain data must be base64 of UTF-8", param=where) from exc


def _https(url: str, where: str) -> str:
    if not url.startswith("https://"):
        scheme = url.partition(":")[0][:20]
        raise InvalidRequest(
            f"{where}: Anthropic fetches https URLs only, not {scheme}: send https or a data: URL", param=where
        )
    return url
