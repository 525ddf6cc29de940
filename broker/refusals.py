"""What a client is told whose request its accounts refuse: LiteLLM's messages, and the exact wait. Pure."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from broker.account_interfaces import Limit, Refused
from broker.account_plans import NANO
from shared.accounts import Account
from shared.errors import BudgetExceeded, LimitExceeded

# LiteLLM's words for whose limit it is, by the kind of account; some have another one where it is for one model.
_DESCRIPTORS = {"key": "api_key", "user": "user", "team": "team", "member": "team_member", "customer": "end_user"}
_OF_MODELS = {"key": "model_per_key", "team": "model_per_team"}


def error_of(
    refused: Refused, accounts: Sequence[Account], now: float, budget_status: int
) -> BudgetExceeded | LimitExceeded:
    """`accounts` are those that were asked, `now` is seconds since the epoch, `budget_status` the HTTP status of a
    budget that is used up."""
    wait = refused.wait if math.isfinite(refused.wait) else None
    if refused.limit is Limit.BUDGET:
        account = next((each for each in accounts if each.id == refused.account), Account(refused.account))
        whose = f"{account.label} " if account.label else ""
        message = (
            f"Budget has been exceeded! {whose}Current cost: {dollars(refused.used)}, "
            f"Max budget: {dollars(refused.allowed)}"
        )
        return BudgetExceeded(message, retry_after=wait, status=budget_status)
    resets_at = "never" if wait is None else _time(now + wait)
    remaining = max(math.floor(refused.allowed - refused.used), 0)
    kind, value = descriptor(refused.account)
    message = (
        f"Rate limit exceeded for {kind}: {value}. Limit type: {refused.limit}. "
        f"Current limit: {refused.allowed:.0f}, Remaining: {remaining}. Limit resets at: {resets_at}"
    )
    return LimitExceeded(message, retry_after=wait, limit=refused.limit.value, resets_at=resets_at)


def descriptor(account: str) -> tuple[str, str]:
    """LiteLLM's word for the kind of account, and whose it is: of `key:<hash>/<model>` they are `model_per_key` and
    `<hash>:<model>`."""
    kind, _, rest = account.partition(":")
    if kind in _OF_MODELS and "/" in rest:
        return _OF_MODELS[kind], rest.replace("/", ":", 1)
    return _DESCRIPTORS.get(kind, kind), rest


def dollars(nano: float) -> float:
    return nano / NANO


def _time(seconds: float) -> str:
    """In whole seconds, rounded up: at that time it is over."""
    return datetime.fromtimestamp(math.ceil(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
