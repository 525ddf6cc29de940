"""What `headrace batch submit` is given: OpenAI's JSON lines, or a plain text file with a prompt on each line."""

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import orjson

CHAT = "/v1/chat/completions"
_ENCODING = "utf-8-sig"  # with or without a byte-order mark
_PIECE = 64 * 1024  # bytes
_LOOKED_AT = 1024 * 1024  # bytes, for the first line's url


def endpoint_of(path: Path) -> str:
    """The `url` of the first line that has one; chat when none in the beginning does. Raises `OSError`."""
    with path.open("rb") as file:
        beginning = file.read(_LOOKED_AT)
    for line in beginning.removeprefix(b"\xef\xbb\xbf").splitlines():
        try:
            url = orjson.loads(line)["url"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            continue
        if isinstance(url, str):
            return url
    return CHAT


def chat_lines(prompts: Iterable[str], model: str) -> Iterable[bytes]:
    """A chat request for each line that is not empty; `custom_id` is `line-` and its number."""
    for number, prompt in enumerate(prompts, start=1):
        text = prompt.strip()
        if text:
            body = {"model": model, "messages": [{"role": "user", "content": text}]}
            request = {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}
            yield orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE)


def count(path: Path) -> int:
    """How many prompts there are. Raises `OSError`, and `UnicodeDecodeError` for a file that is not UTF-8."""
    with path.open(encoding=_ENCODING) as prompts:
        return sum(1 for line in prompts if line.strip())


async def as_json_lines(path: Path, model: str) -> AsyncIterator[bytes]:
    """The file's prompts as a batch's lines, in pieces of about 64 KiB. Raises as `count` does."""
    piece = bytearray()
    with path.open(encoding=_ENCODING) as prompts:
        for line in chat_lines(prompts, model):
            piece += line
            if len(piece) >= _PIECE:
                yield bytes(piece)
                piece.clear()
    yield bytes(piece)
