"""What a client is told that a limit or a budget refuses, in LiteLLM's words."""

import pytest

from broker.account_interfaces import Limit, Refused
from broker.refusals import error_of
from shared.accounts import Account
from shared.errors import LimitExceeded

DOLLAR = 1_000_000_000
NOW = 1_767_268_800.0  # 2026-01-01T12:00:00Z
ACCOUNTS = [
    Account("key:h", label="Key=mine (sk-...abcd)"),
    Account("key:h/m", label="Key=mine (sk-...abcd) Model=m"),
    Account("team:t", label="Team=t"),
    Account("member:t/u", label="User=u in Team=t"),
    Account("customer:c", label="End User=c"),
    Account("proxy"),
]
INF = float("inf")


@pytest.mark.parametrize(
    ("refused", "message", "retry_after"),
    [
        (Refused("key:h", Limit.REQUESTS, 1.25, 60, 60),
         "Rate limit exceeded for api_key: h. Limit type: requests. Current limit: 60, Remaining: 0. "
         "Limit resets at: 2026-01-01 12:00:02 UTC", 1.25),
        (Refused("key:h/m", Limit.TOKENS, 30, 1000, 400.5),
         "Rate limit exceeded for model_per_key: h:m. Limit type: tokens. Current limit: 1000, Remaining: 599. "
         "Limit resets at: 2026-01-01 12:00:30 UTC", 30),
        (Refused("user:u", Limit.PARALLEL, 1, 2, 2),
         "Rate limit exceeded for user: u. Limit type: max_parallel_requests. Current limit: 2, Remaining: 0. "
         "Limit resets at: 2026-01-01 12:00:01 UTC", 1),
        (Refused("member:t/u", Limit.REQUESTS, INF, 0, 0),
         "Rate limit exceeded for team_member: t/u. Limit type: requests. Current limit: 0, Remaining: 0. "
         "Limit resets at: never", None),
        (Refused("key:h", Limit.BUDGET, INF, 2 * DOLLAR, 1.5 * DOLLAR),
         "Budget has been exceeded! Key=mine (sk-...abcd) Current cost: 1.5, Max budget: 2.0", None),
        (Refused("team:t", Limit.BUDGET, 3600, 2 * DOLLAR, 15_000),
         "Budget has been exceeded! Team=t Current cost: 1.5e-05, Max budget: 2.0", 3600),
        (Refused("customer:c", Limit.BUDGET, INF, 0, 0),
         "Budget has been exceeded! End User=c Current cost: 0.0, Max budget: 0.0", None),
        (Refused("proxy", Limit.BUDGET, INF, DOLLAR, DOLLAR),
         "Budget has been exceeded! Current cost: 1.0, Max budget: 1.0", None),
    ],
)  # fmt: skip
def test_refusals_are_in_litellms_words(refused: Refused, message: str, retry_after: float | None) -> None:
    error = error_of(refused, ACCOUNTS, NOW, 429)

    assert (error.message, error.retry_after) == (message, retry_after)
    if isinstance(error, LimitExceeded):
        assert (error.limit, error.resets_at) == (refused.limit, message.partition("resets at: ")[2])
    else:
        assert error.status == 429
