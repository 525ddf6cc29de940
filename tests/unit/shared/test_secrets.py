"""What is sealed, read back: our own, and what LiteLLM 1.109.1 wrote in both of its formats."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.secrets import GCM, Sealer, Unsealable, seems_sealed

SALT = "sk-salt-1234"
WRITTEN_BY_LITELLM = [
    ("sk-upstream-secret", "fDBAV4EDBBg8e4BA1jXS8PMvG60XmrlDKo-Mdlcx2EAgavLOhwW3B0cugq4CPNBBHJxSpvBWwOvwQQ=="),
    ("", "tSM04QLpkJbtTgJVXeFB7zV9QqA3Z9-hs36kBnDvoNNZn_CIT34hDQ=="),
    ("é\n", "D2ClqV-hCGWPP3Q3OAGE8d3vX3klKzgZ6qWeHOX20PrXAPGq7oz8yIuYsQ=="),
    ("sk-upstream-secret", "v2:gcm:NESle78w4bNHFa6jTJnimKNVJQtRPsu_CFgSl55qBPDAVtdR_EPTr_S8mf6JRw=="),
    ("", "v2:gcm:ZTVhwKcY3e5AnQDx8JwpuISZ0PA2kUAQYLI4Rw=="),
    ("é\n", "v2:gcm:tEmX90ZARlFZf65DUvCnzBaJl157owJk_P-7y5E7-Q=="),
]


@pytest.mark.parametrize(("text", "sealed"), WRITTEN_BY_LITELLM)
def test_what_litellm_sealed_is_read(text: str, sealed: str) -> None:
    assert Sealer(SALT).unseal(sealed) == text


@pytest.mark.parametrize(("text", "sealed"), WRITTEN_BY_LITELLM[:3])
def test_what_litellm_sealed_before_it_used_base64url_is_read(text: str, sealed: str) -> None:
    plain_base64 = sealed.replace("-", "+").replace("_", "/")

    assert Sealer(SALT).unseal(plain_base64) == text


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_sealed_text_comes_back(text: str) -> None:
    sealed = Sealer(SALT).seal(text)

    assert sealed.startswith(GCM)
    assert Sealer(SALT).unseal(sealed) == text


def test_a_text_is_never_sealed_the_same_way_twice() -> None:
    sealer = Sealer(SALT)

    assert sealer.seal("secret") != sealer.seal("secret")


def test_every_text_of_a_value_is_sealed_and_its_shape_stays() -> None:
    sealer = Sealer(SALT)
    value = {"api_key": "sk-1", "rpm": 7, "extra_headers": {"x-token": "t"}, "stop": ["a", None, True]}

    sealed = sealer.seal_all(value)

    assert sealed["rpm"] == 7
    assert all(
        seems_sealed(each) for each in (sealed["api_key"], sealed["extra_headers"]["x-token"], sealed["stop"][0])
    )
    assert sealer.unseal_all(sealed) == value


@pytest.mark.parametrize("sealed", [sealed for _, sealed in WRITTEN_BY_LITELLM])
def test_another_salt_key_opens_nothing(sealed: str) -> None:
    with pytest.raises(Unsealable):
        Sealer("sk-another").unseal(sealed)


@pytest.mark.parametrize("sealed", ["", "openai/gpt-4o", "v2:gcm:", "v2:gcm:AAAA", "v2:gcm:ä", "A" * 80, "*" * 80])
def test_what_nobody_sealed_is_refused(sealed: str) -> None:
    with pytest.raises(Unsealable):
        Sealer(SALT).unseal(sealed)


def test_a_changed_byte_is_noticed() -> None:
    sealed = Sealer(SALT).seal("secret")
    changed = sealed[:20] + ("A" if sealed[20] != "A" else "B") + sealed[21:]

    with pytest.raises(Unsealable):
        Sealer(SALT).unseal(changed)


@pytest.mark.parametrize(
    ("text", "sealed"),
    [
        *((sealed, True) for _, sealed in WRITTEN_BY_LITELLM),
        ("openai/gpt-4o", False),
        ("https://api.openai.com/v1", False),
        ("sk-short", False),
        ("", False),
        ("os.environ/OPENAI_API_KEY", False),
    ],
)
def test_sealed_text_is_told_from_plain_text_by_its_form(text: str, sealed: bool) -> None:
    assert seems_sealed(text) is sealed


def test_a_sealer_does_not_show_its_key() -> None:
    assert SALT not in repr(Sealer(SALT))
