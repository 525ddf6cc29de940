"""Estimates of tokens, from sizes."""

import pytest

from shared import token_estimates


def test_an_inlined_image_counts_as_an_image_and_not_as_its_text() -> None:
    image = b'"data:image/png;base64,' + b"A" * 400_000 + b'"'

    assert token_estimates.prompt_tokens(b"x" * 4000 + image) == 2000


def test_bare_base64_in_a_data_field_counts_as_one_document() -> None:
    audio = b'{"data": "' + b"A" * 400_000 + b'", "format": "wav"}'

    assert token_estimates.prompt_tokens(audio) < 1100


@pytest.mark.parametrize(("characters", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2)])
def test_output_is_estimated_from_its_length_rounded_up(characters: int, tokens: int) -> None:
    assert token_estimates.output_tokens(characters) == tokens
