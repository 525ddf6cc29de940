"""How many tokens a request may cost, from its size. Reservations, the fair order and marked estimates rest on it."""

import re

_CHARACTERS_PER_TOKEN = 4  # a common rule of thumb for English
_DEFAULT_OUTPUT = 1024  # tokens of an answer whose request sets no maximum
_INLINE_DATA = re.compile(rb'"data:[^"]{256,}"|"data"\s*:\s*"[^"]{256,}"')
_INLINE_TOKENS = 1000  # an image or document page, roughly, instead of its base64 text


def prompt_tokens(body: bytes) -> int:
    """An estimate of a request's input tokens, from its size; inline images count as `_INLINE_TOKENS` each."""
    if len(body) < 1024:
        return len(body) // _CHARACTERS_PER_TOKEN
    text, inlined = _INLINE_DATA.subn(b"", body)
    return len(text) // _CHARACTERS_PER_TOKEN + inlined * _INLINE_TOKENS


def output_tokens(characters: int) -> int:
    """An estimate of the tokens in so many characters of output."""
    return -(-characters // _CHARACTERS_PER_TOKEN)


def most_output(limit: int | None, choices: int | None) -> int:
    """The most tokens that a request with this `max_tokens` and `n` lets the model write."""
    return int(limit or _DEFAULT_OUTPUT) * int(choices or 1)
