"""Every implementation of `broker.store_interfaces.DeadLetters` keeps what its docstring promises."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.store.dead_letters import DeadLetterStore
from broker.store_interfaces import DeadLetters
from tests.conformance.stores import NOON, a_letter, transactions


@pytest.fixture
async def letters(url: str) -> AsyncIterator[DeadLetters]:
    async with transactions(url) as opened:
        yield DeadLetterStore(opened)


async def ids(letters: DeadLetters, **query: object) -> list[str]:
    return [letter.job_id for letter in await letters.find(**query)]  # type: ignore[arg-type]


async def test_a_letter_comes_back_as_it_went_in(letters: DeadLetters) -> None:
    letter = a_letter(headers=b"\x00\xff", body=bytes(2_000_000), reason="it said \u201cno\u201d")

    await letters.add([letter])

    assert await letters.get("job-1") == letter


async def test_the_list_has_no_bodies(letters: DeadLetters) -> None:
    await letters.add([a_letter()])

    assert await letters.find() == [a_letter(body=b"")]


async def test_a_later_death_replaces_the_earlier_one_in_whatever_order_they_come(letters: DeadLetters) -> None:
    first, second, third = (a_letter(died_at=NOON + n, reason=str(n)) for n in range(3))
    await letters.add([second, first])
    await letters.add([second])
    assert await letters.get("job-1") == second

    await letters.add([third, second])
    await letters.add([first])

    assert await letters.get("job-1") == third


async def test_adding_nothing_adds_nothing(letters: DeadLetters) -> None:
    await letters.add([])

    assert await letters.find() == []


async def test_two_who_add_the_same_letters_in_any_order_do_not_deadlock(shared_url: str) -> None:
    several = [a_letter(f"job-{number}") for number in range(100)]
    async with transactions(shared_url) as one, transactions(shared_url) as other:
        await asyncio.gather(
            *(DeadLetterStore(one).add(several) for _ in range(3)),
            *(DeadLetterStore(other).add(several[::-1]) for _ in range(3)),
        )

        assert len(await DeadLetterStore(one).find(limit=100)) == 100


async def test_the_newest_come_first_page_by_page(letters: DeadLetters) -> None:
    await letters.add([a_letter(f"job-{n}", died_at=NOON + n // 2) for n in (3, 1, 5, 2, 4)])

    first = await ids(letters, limit=2)
    second = await ids(letters, limit=2, after=first[-1])
    third = await ids(letters, limit=2, after=second[-1])

    assert (first, second, third) == (["job-5", "job-4"], ["job-3", "job-2"], ["job-1"])
    assert await ids(letters, after="job-9") == []


async def test_letters_are_found_by_provider(letters: DeadLetters) -> None:
    await letters.add([a_letter("a"), a_letter("b", provider="mistral")])

    assert await ids(letters, provider="mistral") == ["b"]
    assert await letters.get("c") is None


async def test_removed_letters_are_gone(letters: DeadLetters) -> None:
    await letters.add([a_letter(name) for name in "abc"])

    removed = [await letters.remove(["a", "c", "x"]), await letters.remove(["a"]), await letters.remove([])]

    assert removed == [2, 0, 0]
    assert await ids(letters) == ["b"]


@pytest.mark.parametrize(
    ("which", "left"),
    [
        ({}, []),
        ({"provider": "openai"}, ["c"]),
        ({"older_than": NOON + 1}, ["c", "b"]),
        ({"older_than": NOON + 3, "provider": "openai"}, ["c"]),
        ({"older_than": NOON}, ["c", "b", "a"]),
    ],
)
async def test_a_purge_takes_what_it_is_told_to(
    letters: DeadLetters, which: dict[str, object], left: list[str]
) -> None:
    await letters.add([
        a_letter("a"), a_letter("b", died_at=NOON + 1), a_letter("c", died_at=NOON + 2, provider="mistral")
    ])  # fmt: skip

    purged = await letters.purge(**which)  # type: ignore[arg-type]

    assert purged == 3 - len(left)
    assert await ids(letters) == left
