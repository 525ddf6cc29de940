"""When a deployment rests: a rate limit at once, failures when they repeat, and never for our own troubles."""

from dataclasses import replace

import pytest

from shared import errors
from shared.catalog import Deployment, Routing
from shared.errors import AppError
from tests.fakes.clock import FakeClock
from workers import health
from workers.health import Health

A = Deployment("a", "chat", "openai", "m")
BUSY = errors.UpstreamOverloaded("busy")


def rests(
    error: AppError, *, lonely: bool = False, routing: Routing | None = None, deployment: Deployment = A
) -> float:
    return Health(FakeClock(), routing or Routing()).failed(deployment, error, lonely=lonely)


@pytest.mark.parametrize(
    ("error", "lonely", "routing", "seconds"),
    [
        (errors.UpstreamRateLimited("no", retry_after=7.0), False, Routing(), 7.0),
        (errors.UpstreamRateLimited("no", retry_after=7.0), True, Routing(), 7.0),
        (errors.UpstreamRateLimited("no", retry_after=7.0), False, Routing(disable_cooldowns=True), 7.0),
        (errors.UpstreamRateLimited("no"), False, Routing(), 5.0),
        (errors.UpstreamRateLimited("no"), False, Routing(cooldown_time=9.0), 9.0),
        (errors.UpstreamRateLimited("no"), True, Routing(), 0.0),
        (errors.UpstreamRateLimited("no"), False, Routing(disable_cooldowns=True), 0.0),
        (BUSY, False, Routing(), 0.0),
        (BUSY, False, Routing(allowed_fails=1), 5.0),
        (BUSY, True, Routing(allowed_fails=1), 0.0),
        (BUSY, False, Routing(allowed_fails=1, disable_cooldowns=True), 0.0),
        (errors.UpstreamBadRequest("no"), False, Routing(allowed_fails=1), 0.0),
        (errors.Unavailable("our Redis"), False, Routing(allowed_fails=1), 0.0),
    ],
)
def test_a_failure_rests_the_deployment_by_its_class(
    error: AppError, lonely: bool, routing: Routing, seconds: float
) -> None:
    assert rests(error, lonely=lonely, routing=routing) == seconds


def test_a_deployments_own_cooldown_wins() -> None:
    assert rests(errors.UpstreamRateLimited("no"), deployment=replace(A, cooldown_time=2.0)) == 2.0


def test_the_third_failure_in_a_row_rests_it_and_the_count_begins_anew() -> None:
    doctor = Health(FakeClock(), Routing())

    rests = [doctor.failed(A, BUSY, lonely=False) for _ in range(6)]

    assert rests == [0, 0, 5, 0, 0, 5]


def test_a_success_forgives() -> None:
    doctor = Health(FakeClock(), Routing(allowed_fails=2))
    doctor.failed(A, BUSY, lonely=False)

    doctor.succeeded(A)

    assert doctor.failed(A, BUSY, lonely=False) == 0


def test_failures_a_minute_apart_do_not_add_up() -> None:
    clock = FakeClock()
    doctor = Health(clock, Routing(allowed_fails=2))
    doctor.failed(A, BUSY, lonely=False)

    clock.advance(60)

    assert doctor.failed(A, BUSY, lonely=False) == 0


def test_a_step_of_the_wall_clock_neither_rests_nor_forgives() -> None:
    clock = FakeClock()
    doctor = Health(clock, Routing(allowed_fails=2))
    doctor.failed(A, BUSY, lonely=False)

    clock.step(-3600)

    assert doctor.failed(A, BUSY, lonely=False) == 5


def test_the_memory_of_failures_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_MOST_DEPLOYMENTS", 10)
    doctor = Health(FakeClock(), Routing())

    for number in range(100):
        doctor.failed(replace(A, id=str(number)), BUSY, lonely=False)

    assert len(doctor._failures) <= 10
