"""Which header carries the key, whose key it is, and that a wrong one stays a secret."""

import hmac
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise

import pytest
from starlette.datastructures import Headers

from api import auth
from api.auth import ANYONE, Authenticator, KeyCache, Principal, hashed
from broker.records import KeyRecord
from shared.errors import InvalidKey, NotAuthenticated, Unavailable
from tests.fakes.clock import FakeClock

KEY = "sk-master"
MASTER = Principal(sha256(KEY.encode()).hexdigest(), admin=True)


class Keys:
    """A store with these virtual keys, which can be away."""

    def __init__(self, *records: KeyRecord) -> None:
        self.records = {record.hash: record for record in records}
        self.asked = 0
        self.away = False

    async def get(self, key_hash: str) -> KeyRecord | None:
        self.asked += 1
        if self.away:
            raise Unavailable("the database is away")
        return self.records.get(key_hash)


def authenticator(master_key: str | None, keys: Keys | None = None, clock: FakeClock | None = None) -> Authenticator:
    return Authenticator(master_key, KeyCache(keys or Keys(), clock or FakeClock()))  # type: ignore[arg-type]  # reads


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


def test_without_a_master_key_anybody_may_come() -> None:
    assert authenticator(None).known(Headers({})) is ANYONE


def test_the_master_key_is_not_kept() -> None:
    assert KEY not in repr(vars(authenticator(KEY)))


# Virtual keys

VIRTUAL = "sk-virtual"
HEADERS = {"authorization": f"Bearer {VIRTUAL}"}
RECORD = KeyRecord(hashed(VIRTUAL), "sk-...tual", user="u", team="t", max_queue_wait=3.0)


async def test_a_virtual_key_is_looked_up_once_and_then_known_without_waiting() -> None:
    keys = Keys(RECORD)
    it = authenticator(KEY, keys)

    assert it.known(HEADERS) is None
    principal = await it.principal(HEADERS)

    assert principal == Principal(RECORD.hash, team="t", user="u", max_queue_wait=3.0)
    assert it.known(HEADERS) is principal
    assert (keys.asked, principal.scope) == (1, RECORD.hash)


async def test_a_key_is_believed_for_a_minute() -> None:
    keys, clock = Keys(RECORD), FakeClock()
    it = authenticator(KEY, keys, clock)
    await it.principal(HEADERS)
    keys.records.clear()

    clock.advance(59)
    assert it.known(HEADERS) is not None
    clock.advance(2)

    assert it.known(HEADERS) is None
    with pytest.raises(InvalidKey):
        await it.principal(HEADERS)


async def test_an_unknown_key_does_not_bother_the_store_each_time() -> None:
    keys, clock = Keys(), FakeClock()
    it = authenticator(KEY, keys, clock)

    for _ in range(3):
        with pytest.raises(InvalidKey):
            await it.principal(HEADERS)
    assert keys.asked == 1
    keys.records[RECORD.hash] = RECORD
    clock.advance(6)

    assert (await it.principal(HEADERS)).user == "u"


async def test_while_the_store_is_away_known_keys_go_on_and_unknown_ones_wait_for_it() -> None:
    keys, clock = Keys(RECORD), FakeClock()
    it = authenticator(KEY, keys, clock)
    await it.principal(HEADERS)
    keys.away = True
    clock.advance(3600)

    assert (await it.principal(HEADERS)).user == "u"
    assert it.known(HEADERS) is not None, "and the store is left alone for a while"
    with pytest.raises(Unavailable):
        await it.principal({"authorization": "Bearer sk-unknown"})


@pytest.mark.parametrize("record", [replace(RECORD, blocked=True), replace(RECORD, expires_at=FakeClock().now())])
async def test_a_key_that_is_blocked_or_expired_is_refused(record: KeyRecord) -> None:
    it = authenticator(KEY, Keys(record))

    for _ in range(2):
        with pytest.raises(InvalidKey):
            await it.principal(HEADERS)


async def test_a_key_expires_while_it_is_remembered() -> None:
    clock = FakeClock()
    it = authenticator(KEY, Keys(replace(RECORD, expires_at=clock.now() + 10)), clock)
    await it.principal(HEADERS)

    clock.advance(10)

    with pytest.raises(InvalidKey):
        it.known(HEADERS)


async def test_a_key_that_was_forgotten_is_looked_up_again() -> None:
    keys = Keys(RECORD)
    it = authenticator(KEY, keys)
    await it.principal(HEADERS)

    it.keys.forget(RECORD.hash)

    assert it.known(HEADERS) is None


async def test_guessing_keys_neither_fills_the_memory_nor_pushes_good_ones_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_MOST_KEYS", 3)
    it = authenticator(KEY, Keys(RECORD))
    await it.principal(HEADERS)

    for number in range(9):
        with pytest.raises(InvalidKey):
            await it.principal({"authorization": f"Bearer sk-{number}"})

    assert len(it.keys._refused) == 3
    assert it.known(HEADERS) is not None


async def test_the_oldest_key_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_MOST_KEYS", 2)
    names = [f"sk-{number}" for number in range(3)]
    it = authenticator(KEY, Keys(*(replace(RECORD, hash=hashed(name)) for name in names)))

    for name in names:
        await it.principal({"authorization": f"Bearer {name}"})

    assert [it.known({"authorization": f"Bearer {name}"}) is None for name in names] == [True, False, False]


def test_an_administrator_sees_everybodys_things_and_others_their_own() -> None:
    assert (ANYONE.scope, MASTER.scope, Principal("k").scope) == (None, None, "k")
