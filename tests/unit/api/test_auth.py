"""Which header carries the key, whose key it is, and that a wrong one stays a secret."""

import hmac
from hashlib import sha256
from itertools import pairwise

import pytest
from starlette.datastructures import Headers

from api import auth
from api.auth import ANYONE, Authenticator, Principal
from shared.errors import InvalidKey, NotAuthenticated

KEY = "sk-master"
MASTER = Principal(sha256(KEY.encode()).hexdigest(), admin=True)


def caller(**headers: str) -> Principal:
    return Authenticator(KEY).principal(Headers({name.replace("_", "-"): value for name, value in headers.items()}))


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer   {KEY} "},
        {"x_litellm_api_key": KEY},
        {"x_litellm_api_key": f"Bearer {KEY}"},
        {"api_key": KEY},
        {"x_api_key": KEY},
        {"x_goog_api_key": KEY},
        {"ocp_apim_subscription_key": KEY},
    ],
)
def test_a_key_is_found_wherever_clients_put_it(headers: dict[str, str]) -> None:
    assert caller(**headers) == MASTER


ORDER = ("x_litellm_api_key", "authorization", "api_key", "x_api_key", "x_goog_api_key", "ocp_apim_subscription_key")


@pytest.mark.parametrize(("first", "second"), [*pairwise(ORDER)])
def test_the_first_header_in_litellms_order_decides(first: str, second: str) -> None:
    assert caller(**{first: f"Bearer {KEY}", second: "Bearer sk-other"}) == MASTER
    with pytest.raises(InvalidKey):
        caller(**{first: "Bearer sk-other", second: f"Bearer {KEY}"})


@pytest.mark.parametrize("headers", [{}, {"authorization": ""}, {"authorization": "Bearer "}, {"authorization": KEY}])
def test_without_a_key_nobody_is_known(headers: dict[str, str]) -> None:
    with pytest.raises(NotAuthenticated, match="No api key"):
        caller(**headers)


def test_an_unknown_key_is_invalid() -> None:
    with pytest.raises(InvalidKey) as caught:
        caller(authorization="Bearer sk-somebody-elses-secret")

    assert "somebody" not in caught.value.message


@pytest.mark.parametrize(
    ("key", "shown"), [("short", "****"), ("a-long-secret-of-another-vendor", "a-lo****ndor"), ("x" * 11, "****")]
)
def test_a_key_of_another_kind_is_masked(key: str, shown: str) -> None:
    with pytest.raises(NotAuthenticated) as caught:
        caller(authorization=f"Bearer {key}")

    assert f"Received={shown}," in caught.value.message
    assert key not in caught.value.message


@pytest.mark.parametrize("key", ["", "sk-m", "sk-master ", "sk-mastes", "SK-MASTER", KEY + "x"])
def test_almost_the_key_is_not_the_key(key: str) -> None:
    if key.strip() == KEY:
        assert caller(authorization=f"Bearer {key}") == MASTER
        return
    with pytest.raises((InvalidKey, NotAuthenticated)):
        caller(authorization=f"Bearer {key}")


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    constant_time = hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return constant_time(one, other)

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    with pytest.raises(InvalidKey):
        caller(authorization="Bearer sk-a")

    assert compared == [(64, 64)]


def test_a_key_of_strange_bytes_is_only_wrong() -> None:
    with pytest.raises(InvalidKey):
        caller(authorization="Bearer sk-\xff\x80")


def test_without_a_master_key_anybody_may_come() -> None:
    assert Authenticator(None).principal(Headers({})) is ANYONE


def test_the_master_key_is_not_kept() -> None:
    assert KEY not in repr(vars(Authenticator(KEY)))
