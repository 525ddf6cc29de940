"""What a model group's keys still allow, in OpenAI's headers, so that an agent can pace itself.

https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from api.watch import Watch
from broker.interfaces import BucketState, Limiter
from broker.limits.token_bucket import PACE, request_capacity, token_capacity
from shared.catalog import Catalog, Deployment

_MOST_GROUPS = 500
_MOST_BUCKETS = 2000  # looked up for all groups together
_AT_ONCE = 100  # buckets in one question: the server answers nothing else meanwhile


class RateBoard:
    """By model group, from the limiter's buckets as they were about a second ago at most."""

    def __init__(self, limiter: Limiter, catalog: Catalog) -> None:
        self._limiter = limiter
        self._catalog = catalog
        self._watch: Watch[str, Mapping[str, str]] = Watch(self._read, unknown={}, most=_MOST_GROUPS, name="rate board")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._watch.close()

    def headers(self, group: str) -> Mapping[str, str]:
        """`x-ratelimit-*`; none while nothing is known."""
        return self._watch.look(group)

    async def _read(self, groups: Collection[str]) -> dict[str, Mapping[str, str]]:
        members = {group: self._catalog.group(group) for group in groups}
        buckets = list(dict.fromkeys(each.bucket for group in members.values() for each in group))[:_MOST_BUCKETS]
        credentials = list(dict.fromkeys(each.credential for group in members.values() for each in group))
        states: dict[str, BucketState] = {}
        dead: frozenset[str] = frozenset()
        for at in range(0, len(buckets), _AT_ONCE):
            states |= {state.bucket: state for state in await self._limiter.state(buckets[at : at + _AT_ONCE])}
        for at in range(0, len(credentials), _AT_ONCE):
            dead |= await self._limiter.dead(credentials[at : at + _AT_ONCE])
        return {group: headers(keys(each, states, dead)) for group, each in members.items()}


@dataclass(frozen=True, slots=True)
class Key:
    """A bucket that a group's requests may take from."""

    rpm: float | None
    tpm: float | None
    state: BucketState


def keys(deployments: Sequence[Deployment], states: Mapping[str, BucketState], dead: Collection[str]) -> list[Key]:
    """The buckets of the deployments, each once, without those of dead keys."""
    found = {}
    for each in deployments:
        state = states.get(each.bucket)
        if state is not None and each.credential not in dead:
            rpm = state.limits.rpm if each.rpm is None else each.rpm
            tpm = state.limits.tpm if each.tpm is None else each.tpm
            found[each.bucket] = Key(rpm, tpm, state)
    return list(found.values())


def headers(found: Sequence[Key]) -> dict[str, str]:
    """The sums over the keys that are not cooling down. A kind of limit of which a key has none, or none that is known,
    is left out. While all cool down nothing remains, until the first is back."""
    resting = min((each.state.cooldown for each in found), default=0.0)
    live = [each for each in found if each.state.cooldown <= 0] or found
    requests = [(each.rpm, each.state.requests) for each in live]
    tokens = [(each.tpm, each.state.tokens) for each in live]
    return _of("requests", requests, request_capacity, resting) | _of("tokens", tokens, token_capacity, resting)


def _of(
    unit: str,
    buckets: Sequence[tuple[float | None, float | None]],
    capacity: Callable[[float], float],
    resting: float,
) -> dict[str, str]:
    """`buckets` are limits a minute and balances; one that was never used is full."""
    known = [
        (limit, capacity(limit) if balance is None else balance)
        for limit, balance in buckets
        if limit is not None and limit < math.inf
    ]
    if not known or len(known) < len(buckets):
        return {}
    remaining = sum(max(math.floor(balance), 0) for limit, balance in known if limit > 0)
    refill = max(_seconds_to_fill(limit, capacity(limit) - balance) for limit, balance in known)
    if resting > 0:
        remaining, refill = 0, resting
    return {
        f"x-ratelimit-limit-{unit}": str(math.floor(sum(limit for limit, _ in known))),
        f"x-ratelimit-remaining-{unit}": str(remaining),
        f"x-ratelimit-reset-{unit}": duration(refill),
    }


def _seconds_to_fill(limit: float, missing: float) -> float:
    if missing <= 0 or limit <= 0:  # a limit of zero never fills
        return 0.0
    return missing / (PACE * limit / 60)


def duration(seconds: float) -> str:
    """As OpenAI writes them, `12ms`, `1s` or `6m0s`, rounded up."""
    ms = math.ceil(max(seconds, 0.0) * 1000)
    if 0 < ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(-(-ms // 1000), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
