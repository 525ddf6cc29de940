"""What the keys of a group still allow, in OpenAI's words."""

import pytest

from api.rate_limits import Key, RateBoard, duration, headers, keys
from broker.interfaces import BucketState, Candidate, Limits
from broker.limits.memory import MemoryLimiter
from broker.limits.token_bucket import PACE
from shared.catalog import Catalog, Deployment
from tests.fakes.clock import FakeClock


def state(
    requests: float | None = None, tokens: float | None = None, cooldown: float = 0.0, **limits: float
) -> BucketState:
    return BucketState("b", requests, tokens, 0, cooldown, Limits(**limits))  # type: ignore[arg-type]


def key(rpm: float | None = None, tpm: float | None = None, **fields: float) -> Key:
    return Key(rpm, tpm, state(**fields))


def numbers(said: dict[str, str], unit: str) -> tuple[str, ...]:
    return tuple(said.get(f"x-ratelimit-{what}-{unit}", "") for what in ("limit", "remaining", "reset"))


@pytest.mark.parametrize(
    ("found", "requests", "tokens"),
    [
        ([], ("", "", ""), ("", "", "")),
        ([key()], ("", "", ""), ("", "", "")),
        ([key(rpm=60)], ("60", "5", "0s"), ("", "", "")),  # never used: full
        ([key(rpm=60, requests=1.7)], ("60", "1", "4s"), ("", "", "")),
        ([key(rpm=60, requests=-2.0)], ("60", "0", "8s"), ("", "", "")),
        ([key(tpm=6000, tokens=5999.5)], ("", "", ""), ("6000", "5999", "6ms")),
        ([key(rpm=60, tpm=600, requests=2, tokens=0.0)], ("60", "2", "4s"), ("600", "0", "1m1s")),
        ([key(rpm=60, requests=2), key(rpm=600, requests=6)], ("660", "8", "4s"), ("", "", "")),  # the last to fill
        ([key(rpm=60, requests=2), key(rpm=60, requests=4, cooldown=9)], ("60", "2", "4s"), ("", "", "")),
        ([key(rpm=60, requests=2, cooldown=70), key(rpm=60, cooldown=9)], ("120", "0", "9s"), ("", "", "")),
        ([key(rpm=60, requests=2), key()], ("", "", ""), ("", "", "")),  # the group's limit is not known
        ([key(rpm=0)], ("0", "0", "0s"), ("", "", "")),
        ([key(rpm=float("inf"), tpm=60)], ("", "", ""), ("60", "60", "0s")),
    ],
)
def test_the_sum_over_the_keys_that_may_be_used(
    found: list[Key], requests: tuple[str, ...], tokens: tuple[str, ...]
) -> None:
    said = headers(found)

    assert (numbers(said, "requests"), numbers(said, "tokens")) == (requests, tokens)


def test_a_bucket_counts_once_and_a_dead_key_not_at_all() -> None:
    deployments = [
        Deployment("1", "chat", "openai", "gpt", credential="k", bucket="b", rpm=60),
        Deployment("2", "chat", "openai", "gpt", credential="k", bucket="b", rpm=60),
        Deployment("3", "chat", "openai", "gpt", credential="dead", bucket="c", rpm=60),
        Deployment("4", "chat", "openai", "gpt", credential="l", bucket="not asked", rpm=60),
    ]

    assert keys(deployments, {"b": state(), "c": state()}, {"dead"}) == [Key(60, None, state())]


def test_a_limit_that_the_provider_told_counts_where_the_config_has_none() -> None:
    deployment = Deployment("1", "chat", "openai", "gpt", bucket="b", rpm=60)
    known = state(rpm=500, tpm=9000)

    assert keys([deployment], {"b": known}, ()) == [Key(60, 9000, known)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0, "0s"), (0.0001, "1ms"), (0.012, "12ms"), (0.9995, "1s"), (1, "1s"), (1.2, "2s"), (59.5, "1m0s"),
     (360, "6m0s"), (3661, "1h1m1s")],
)  # fmt: skip
def test_durations_are_written_as_openai_does_and_rounded_up(seconds: float, text: str) -> None:
    assert duration(seconds) == text


async def test_a_groups_headers_are_known_soon_after_its_first_request() -> None:
    limiter = MemoryLimiter(FakeClock())
    catalog = Catalog([Deployment("d", "chat", "openai", "gpt", credential="k", bucket="b", rpm=60, tpm=1000)])
    await limiter.take("lease", [Candidate("d", "b", "k", Limits(rpm=60, tpm=1000), 300)])

    async with RateBoard(limiter, catalog) as board:
        first = dict(board.headers("chat"))
        said = dict(await board._watch.wait("chat", 5))

    assert first == {}
    assert (numbers(said, "requests"), numbers(said, "tokens")) == (
        ("60", "4", duration(1 / PACE)),
        ("1000", "700", duration(300 / (PACE * 1000 / 60))),
    )


async def test_a_group_of_another_config_has_no_limits() -> None:
    async with RateBoard(MemoryLimiter(FakeClock()), Catalog([])) as board:
        assert await board._watch.wait("gone", 5) == {}
