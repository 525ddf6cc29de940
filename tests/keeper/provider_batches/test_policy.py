"""When lines go, when they come back, and what an error says. Tables."""

import pytest

from shared import errors
from shared.catalog import Catalog, Deployment, Routing
from shared.errors import UpstreamError
from shared.jobs import Job, Leg
from workers.provider_batches.http import Unsent
from workers.provider_batches.policy import POLICY, ends_here, perhaps_created

HOUR = 3600.0


@pytest.mark.parametrize(
    ("window", "margin"), [(24 * HOUR, 6 * HOUR), (2 * HOUR, HOUR / 2), (1800.0, 600.0), (7 * 24 * HOUR, 42 * HOUR)]
)
def test_the_margin_for_running_live_is_a_quarter_and_at_least_ten_minutes(window: float, margin: float) -> None:
    assert POLICY.pull_back_at(1000.0, 1000.0 + window) == 1000.0 + window - margin


@pytest.mark.parametrize(("slack", "goes"), [(2 * HOUR, True), (2 * HOUR - 1, False), (-1.0, False)])
def test_lines_go_while_two_hours_are_left(slack: float, goes: bool) -> None:
    assert POLICY.has_slack(1000.0, 1000.0 + slack) is goes


@pytest.mark.parametrize(
    ("failures", "chance", "retry_after", "seconds"),
    [
        (0, 0.5, None, 60.0), (0, 0.0, None, 51.0), (0, 1.0, None, 69.0), (1, 0.5, None, 120.0), (3, 0.5, None, 480.0),
        (4, 0.5, None, 900.0), (1000, 0.5, None, 900.0), (1, 0.5, 300.0, 300.0), (1, 0.5, 1e9, 900.0),
    ],
)  # fmt: skip
def test_looks_are_a_minute_apart_and_rarer_while_they_fail(
    failures: int, chance: float, retry_after: float | None, seconds: float
) -> None:
    assert POLICY.pause(failures, chance, retry_after) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("error", "perhaps"),
    [
        (Unsent("no connection"), False),
        (errors.UpstreamRateLimited("slow down", status=429), False),
        (errors.UpstreamOverloaded("busy", status=529), False),
        (errors.UpstreamBadRequest("no", status=400), False),
        (errors.UpstreamAuthentication("no key", status=401), False),
        (errors.UpstreamUnreachable("cut off"), True),
        (errors.UpstreamTimeout("silence"), True),
        (errors.UpstreamTimeout("gateway", status=504), True),
        (errors.UpstreamServerError("upset", status=500), True),
        (errors.UpstreamBroken("not JSON"), True),
        (errors.UpstreamBroken("redirect", status=302), True),
    ],
)
def test_only_a_clear_refusal_means_that_there_is_no_batch(error: UpstreamError, perhaps: bool) -> None:
    assert perhaps_created(error) is perhaps


ONE = (Leg("openai", "m", ("d",)),)
TWO = (*ONE, Leg("anthropic", "n", ("e",), fallback=True))
ELSEWHERE = Routing(context_window_fallbacks={"m": ("n",)}, content_policy_fallbacks={"m": ("n",)})


@pytest.mark.parametrize(
    ("error", "route", "routing", "ends"),
    [
        (errors.UpstreamBadRequest("no"), ONE, Routing(), True),
        (errors.UpstreamBadRequest("no"), TWO, Routing(), False),
        (errors.UpstreamBadRequest("no"), ONE, ELSEWHERE, True),
        (errors.UpstreamServerError("upset"), ONE, Routing(), False),
        (errors.UpstreamAuthentication("no key"), ONE, Routing(), False),
        (errors.UpstreamContextWindowExceeded("long"), ONE, Routing(), True),
        (errors.UpstreamContextWindowExceeded("long"), ONE, ELSEWHERE, False),
        (errors.UpstreamContentPolicy("bad"), ONE, Routing(), True),
        (errors.UpstreamContentPolicy("bad"), ONE, ELSEWHERE, False),
    ],
)
def test_a_line_ends_with_an_error_only_if_a_live_call_would(
    error: UpstreamError, route: tuple[Leg, ...], routing: Routing, ends: bool
) -> None:
    catalog = Catalog([Deployment(id="d", group="m", provider="openai", model="m")], routing=routing)
    job = Job("j", "chat.completions", "m", route, b"{}", "", accepted_at=0.0, deadline=1.0)

    assert ends_here(error, job, catalog) is ends
