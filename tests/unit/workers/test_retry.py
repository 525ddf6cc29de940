"""The whole policy of retries as a table: no I/O, no clock."""

import pytest

from shared import errors
from shared.errors import BY_CODE, AppError
from shared.jobs import Job, Leg
from workers.retry import Decision, GiveUp, NextLeg, Retry, after

AGAIN_ELSEWHERE = Retry(0.0)
BACKED_OFF = Retry(0.5)
"""The first wait of our own; the jitter of these tests makes it exactly half a second."""


def a_job(*, legs: int = 1, retries: int = 0, max_retries: int = 2) -> Job:
    route = tuple(Leg("openai", f"group-{number}", ("a",)) for number in range(legs))
    return Job("id", "chat.completions", "m", route, b"", "", 0.0, 60.0, retries=retries, max_retries=max_retries)


def decide(
    error: AppError, *, alternatives: int = 0, legs: int = 1, retries: int = 0, remaining: float = 60.0
) -> Decision:
    return after(error, a_job(legs=legs, retries=retries), alternatives=alternatives, remaining=remaining, jitter=0.5)


# What happens to each class with: (nothing else, another key, another leg, another key but no retries left, both)
_HOPELESS = (GiveUp(), GiveUp(), NextLeg(), GiveUp(), NextLeg())
_ANOTHER_KEY_ONLY = (GiveUp(), AGAIN_ELSEWHERE, NextLeg(), GiveUp(), AGAIN_ELSEWHERE)
_TRANSIENT = (BACKED_OFF, AGAIN_ELSEWHERE, BACKED_OFF, GiveUp(), AGAIN_ELSEWHERE)
_RATE_LIMITED = (BACKED_OFF, AGAIN_ELSEWHERE, NextLeg(), GiveUp(), AGAIN_ELSEWHERE)
_OVER = (GiveUp(), GiveUp(), GiveUp(), GiveUp(), GiveUp())

TABLE: dict[type[AppError], tuple[Decision, Decision, Decision, Decision, Decision]] = {
    errors.AppError: _HOPELESS,
    errors.InvalidRequest: _HOPELESS,
    errors.UnsupportedParameter: _HOPELESS,
    errors.RequestTooLarge: _HOPELESS,
    errors.UnknownModel: _HOPELESS,
    errors.NotAuthenticated: _HOPELESS,
    errors.InvalidKey: _HOPELESS,
    errors.KeyBlocked: _HOPELESS,
    errors.KeyExpired: _HOPELESS,
    errors.PermissionDenied: _HOPELESS,
    errors.RouteNotAllowed: _HOPELESS,
    errors.ModelNotAllowed: _HOPELESS,
    errors.TeamModelNotAllowed: _HOPELESS,
    errors.UserModelNotAllowed: _HOPELESS,
    errors.CustomerModelNotAllowed: _HOPELESS,
    errors.NotFound: _HOPELESS,
    errors.Conflict: _HOPELESS,
    errors.UserExists: _HOPELESS,
    errors.AlreadyMember: _HOPELESS,
    errors.IdempotencyKeyReused: _HOPELESS,
    errors.BudgetExceeded: _HOPELESS,
    errors.LimitExceeded: _HOPELESS,
    errors.QueueFull: _HOPELESS,
    errors.RateLimited: _HOPELESS,
    errors.QueueWaitExceeded: _HOPELESS,
    errors.DeadlineUnreachable: _HOPELESS,
    errors.DeadlineExceeded: _OVER,
    errors.Cancelled: _OVER,
    errors.Unavailable: _TRANSIENT,
    errors.NoDatabase: _TRANSIENT,
    errors.WorkerLost: _HOPELESS,
    errors.Quarantined: _HOPELESS,
    errors.CredentialsExhausted: _HOPELESS,
    errors.UpstreamError: _HOPELESS,
    errors.UpstreamBadRequest: _HOPELESS,
    errors.UpstreamContextWindowExceeded: _HOPELESS,
    errors.UpstreamContentPolicy: _HOPELESS,
    errors.UpstreamAuthentication: _ANOTHER_KEY_ONLY,
    errors.UpstreamNotFound: _HOPELESS,
    errors.UpstreamRateLimited: _RATE_LIMITED,
    errors.UpstreamQuotaExhausted: _ANOTHER_KEY_ONLY,
    errors.UpstreamOverloaded: _TRANSIENT,
    errors.UpstreamServerError: _TRANSIENT,
    errors.UpstreamBroken: _TRANSIENT,
    errors.UpstreamUnreachable: _TRANSIENT,
    errors.UpstreamTimeout: _ANOTHER_KEY_ONLY,
}


def test_the_table_knows_every_error() -> None:
    assert set(TABLE) == set(BY_CODE.values())


@pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.code)
def test_each_error_leads_to_its_next_step(kind: type[AppError]) -> None:
    error = kind("no")

    steps = (
        decide(error),
        decide(error, alternatives=1),
        decide(error, legs=2),
        decide(error, alternatives=1, retries=2),
        decide(error, alternatives=1, legs=2),
    )

    assert steps == TABLE[kind]


@pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.code)
def test_nothing_is_tried_once_the_time_is_up(kind: type[AppError]) -> None:
    error = kind("no")

    assert decide(error, alternatives=1, legs=2, remaining=0.0) == GiveUp()


@pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.code)
def test_spent_retries_move_a_job_to_its_next_leg(kind: type[AppError]) -> None:
    expected = GiveUp() if TABLE[kind] is _OVER else NextLeg()

    assert decide(kind("no"), legs=2, alternatives=1, retries=2) == expected


RATE_LIMITS = [
    # hint, alternatives, legs, retries, remaining -> decision
    (3.0, 0, 1, 0, 60.0, Retry(3.0, counted=False)),
    (3.0, 1, 1, 0, 60.0, Retry(0.0, counted=False)),
    (3.0, 0, 1, 2, 60.0, Retry(3.0, counted=False)),  # the provider's wish outlasts our count
    (3.0, 0, 1, 0, 2.0, GiveUp()),  # it ends after the deadline
    (59.0, 0, 1, 0, 60.0, Retry(59.0, counted=False)),
    (0.0, 0, 1, 0, 60.0, Retry(0.0, counted=False)),
    (3.0, 0, 2, 0, 60.0, Retry(3.0)),
    (3.0, 1, 2, 0, 60.0, Retry(0.0)),
    (3.0, 0, 2, 2, 60.0, NextLeg()),
    (10.5, 0, 2, 0, 60.0, NextLeg()),  # too long while another leg is free
    (10.5, 1, 2, 0, 60.0, NextLeg()),
    (3.0, 0, 2, 0, 2.0, NextLeg()),
    (0.0, 0, 2, 0, 60.0, Retry(0.5)),  # at once means our own backoff
    (None, 0, 1, 0, 60.0, Retry(0.5)),
    (None, 0, 1, 2, 60.0, GiveUp()),
    (None, 0, 1, 0, 0.4, GiveUp()),
    (None, 1, 1, 0, 60.0, Retry(0.0)),
]


@pytest.mark.parametrize(("hint", "alternatives", "legs", "retries", "remaining", "expected"), RATE_LIMITS)
def test_a_rate_limit_is_waited_for_as_the_provider_asks(
    hint: float | None, alternatives: int, legs: int, retries: int, remaining: float, expected: Decision
) -> None:
    error = errors.UpstreamRateLimited("slow down", retry_after=hint)

    decision = decide(error, alternatives=alternatives, legs=legs, retries=retries, remaining=remaining)

    assert decision == expected


@pytest.mark.parametrize(("retries", "delay"), [(0, 0.5), (1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 8.0), (60, 8.0)])
def test_the_backoff_doubles_up_to_its_limit(retries: int, delay: float) -> None:
    job = a_job(retries=retries, max_retries=100)

    decision = after(errors.UpstreamOverloaded("busy"), job, alternatives=0, remaining=60.0, jitter=0.5)

    assert decision == Retry(delay)


@pytest.mark.parametrize(("jitter", "delay"), [(0.0, 0.4), (1.0, 0.6)])
def test_the_backoff_varies_by_a_fifth(jitter: float, delay: float) -> None:
    decision = after(errors.UpstreamOverloaded("busy"), a_job(), alternatives=0, remaining=60.0, jitter=jitter)

    assert isinstance(decision, Retry)
    assert decision.delay == pytest.approx(delay)


def test_a_hint_on_another_error_is_the_backoff() -> None:
    assert decide(errors.UpstreamOverloaded("busy", retry_after=7.0)) == Retry(7.0)


def test_a_backoff_beyond_the_deadline_is_not_waited_for() -> None:
    overloaded = errors.UpstreamOverloaded("busy", retry_after=7.0)

    assert decide(overloaded, remaining=6.0) == GiveUp()
    assert decide(overloaded, remaining=6.0, legs=2) == NextLeg()
