"""Which header carries the key, whose key it is, and that a wrong one stays a secret."""

import hmac
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise

import pytest
from starlette.datastructures import Headers

from api import auth
from api.auth import Authenticator, Principal, hashed
from broker.account_records import Entry, Kind, Resolved
from broker.events.memory import MemoryEventLog
from broker.policies import PolicyCache
from broker.records import KeyRecord
from shared.errors import InvalidKey, NotAuthenticated
from tests.fakes.clock import FakeClock

KEY = "sk-master"
MASTER = Principal(sha256(KEY.encode()).hexdigest(), admin=True, role="proxy_admin")


class Keys:
    """A store with these virtual keys, all of the user `u`."""

    def __init__(self, *records: KeyRecord, role: str = "") -> None:
        self.records = {record.hash: record for record in records}
        self.user = Entry(Kind.USER, "u", fields={"user_role": role} if role else {})

    async def resolve(self, key_hash: str) -> Resolved | None:
        record = self.records.get(key_hash)
        return Resolved(record, user=self.user) if record else None


def authenticator(master_key: str | None, keys: Keys | None = None, key_header: str = "") -> Authenticator:
    master = hashed(master_key) if master_key else ""
    policies = PolicyCache(keys or Keys(), None, FakeClock(), MemoryEventLog(), master=master)  # type: ignore[arg-type]  # reads keys
    return Authenticator(master_key, policies, key_header)


async def caller(**headers: str) -> Principal:
    given = Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return await authenticator(KEY).principal(given)


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
async def test_a_key_is_found_wherever_clients_put_it(headers: dict[str, str]) -> None:
    assert await caller(**headers) == MASTER


ORDER = ("x_litellm_api_key", "authorization", "api_key", "x_api_key", "x_goog_api_key", "ocp_apim_subscription_key")


@pytest.mark.parametrize(("first", "second"), [*pairwise(ORDER)])
async def test_the_first_header_in_litellms_order_decides(first: str, second: str) -> None:
    assert await caller(**{first: f"Bearer {KEY}", second: "Bearer sk-other"}) == MASTER
    with pytest.raises(InvalidKey):
        await caller(**{first: "Bearer sk-other", second: f"Bearer {KEY}"})


@pytest.mark.parametrize("headers", [{}, {"authorization": ""}, {"authorization": "Bearer "}, {"authorization": KEY}])
async def test_without_a_key_nobody_is_known(headers: dict[str, str]) -> None:
    with pytest.raises(NotAuthenticated, match="No api key"):
        await caller(**headers)


async def test_an_unknown_key_is_invalid() -> None:
    with pytest.raises(InvalidKey) as caught:
        await caller(authorization="Bearer sk-somebody-elses-secret")

    assert "somebody" not in caught.value.message


@pytest.mark.parametrize(
    ("key", "shown"), [("short", "****"), ("a-long-secret-of-another-vendor", "a-lo****ndor"), ("x" * 11, "****")]
)
async def test_a_key_of_another_kind_is_masked(key: str, shown: str) -> None:
    with pytest.raises(NotAuthenticated) as caught:
        await caller(authorization=f"Bearer {key}")

    assert f"Received={shown}," in caught.value.message
    assert key not in caught.value.message


@pytest.mark.parametrize("key", ["", "sk-m", "sk-master ", "sk-mastes", "SK-MASTER", KEY + "x"])
async def test_almost_the_key_is_not_the_key(key: str) -> None:
    if key.strip() == KEY:
        assert await caller(authorization=f"Bearer {key}") == MASTER
        return
    with pytest.raises((InvalidKey, NotAuthenticated)):
        await caller(authorization=f"Bearer {key}")


async def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    constant_time = hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return constant_time(one, other)

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    with pytest.raises(InvalidKey):
        await caller(authorization="Bearer sk-a")

    assert compared == [(64, 64)]


async def test_a_key_of_strange_bytes_is_only_wrong() -> None:
    with pytest.raises(InvalidKey):
        await caller(authorization="Bearer sk-\xff\x80")


def test_without_a_master_key_anybody_may_come_and_do_everything() -> None:
    anybody = authenticator(None).known(Headers({}))

    assert anybody is not None
    assert (anybody.key, anybody.admin) == ("", True)


def test_the_master_key_is_not_kept() -> None:
    assert KEY not in repr(vars(authenticator(KEY)))


async def test_one_more_header_may_carry_the_key_and_goes_before_all_others() -> None:
    it = authenticator(KEY, key_header="x-my-key")

    for value in (KEY, f"Bearer {KEY}"):
        headers = {"x-my-key": value, "x-litellm-api-key": "sk-other"}
        assert await it.principal(headers) == MASTER
    assert await it.principal({"authorization": f"Bearer {KEY}"}) == MASTER


# Virtual keys

VIRTUAL = "sk-virtual"
HEADERS = {"authorization": f"Bearer {VIRTUAL}"}
RECORD = KeyRecord(
    hashed(VIRTUAL), "sk-...tual", user="u", team="t", max_queue_wait=3.0,
    fields={"tags": ["nightly"], "models": ["gpt-4o"]},
)  # fmt: skip


async def test_a_virtual_key_is_known_without_waiting_once_it_was_looked_up() -> None:
    it = authenticator(KEY, Keys(RECORD))

    assert it.known(HEADERS) is None
    principal = await it.principal(HEADERS)

    assert principal == Principal(RECORD.hash, team="t", user="u", max_queue_wait=3.0, role="internal_user")
    assert (principal.tags, principal.access) == (("nightly",), principal.policy.access)
    assert it.known(HEADERS) is principal
    assert principal.scope == RECORD.hash


async def test_a_key_that_was_changed_is_another_principal() -> None:
    keys = Keys(RECORD)
    it = authenticator(KEY, keys)
    await it.principal(HEADERS)
    keys.records[RECORD.hash] = replace(RECORD, team="other")

    it.keys.forget(f"key:{RECORD.hash}")

    assert it.known(HEADERS) is None
    assert (await it.principal(HEADERS)).team == "other"


@pytest.mark.parametrize(
    ("role", "admin"), [("proxy_admin", True), ("proxy_admin_viewer", False), ("internal_user", False)]
)
async def test_personal_keys_of_administrators_are_administrators(role: str, admin: bool) -> None:
    personal = replace(RECORD, team="")

    principal = await authenticator(KEY, Keys(personal, role=role)).principal(HEADERS)

    assert (principal.role, principal.admin) == (role, admin)


async def test_principals_that_are_remembered_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_MOST_PRINCIPALS", 2)
    names = [f"sk-{number}" for number in range(5)]
    it = authenticator(KEY, Keys(*(replace(RECORD, hash=hashed(name)) for name in names)))

    for name in names:
        await it.principal({"authorization": f"Bearer {name}"})

    assert len(it._principals) <= 2


def test_an_administrator_sees_everybodys_things_and_others_their_own() -> None:
    assert (MASTER.scope, Principal("k").scope) == (None, "k")
