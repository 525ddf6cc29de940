"""What an answer says about the limits of the key that asked: `x-litellm-key-*` and `x-ratelimit-*`."""

import math
from collections.abc import Mapping

from api.rate_limits import duration
from broker.gate import Pass
from broker.policy import Policy
from broker.refusals import descriptor, dollars
from shared.accounts import Account, key_account

_OWN = {
    "tpm_limit": "x-litellm-key-tpm-limit",
    "rpm_limit": "x-litellm-key-rpm-limit",
    "max_budget": "x-litellm-key-max-budget",
}
_KINDS = {"user": "user", "team": "team", "api_key": "api_key", "model_per_key": "model_per_key"}


def of_policy(policy: Policy) -> dict[str, str]:
    """What the key may use, whether or not it was asked."""
    if not policy.limits:
        return {}
    return {header: str(policy.limits[name]) for name, header in _OWN.items() if name in policy.limits}


def of(policy: Policy, entered: Pass) -> dict[str, str]:
    """Also what is left, now that the job has taken its part. Where the key itself is limited, its limits are those of
    `x-ratelimit-*`: they are what its owner can pace itself by."""
    headers = of_policy(policy)
    own = key_account(policy.key)
    for place, account in enumerate(entered.accounts):
        left = entered.admitted.remaining[place]
        headers |= _of_account(account, left)
        if account.id == own:
            headers |= _of_key("requests", account.rpm, left[0]) | _of_key("tokens", account.tpm, left[1])
            spent = entered.admitted.spent[place]
            if spent is not None:
                headers["x-litellm-key-spend"] = repr(dollars(spent))
    return headers


def _of_account(account: Account, left: tuple[float | None, float | None]) -> Mapping[str, str]:
    """As LiteLLM's limiter has them: `x-ratelimit-api_key-remaining-requests`."""
    kind = _KINDS.get(descriptor(account.id)[0])
    if kind is None:
        return {}
    headers = {}
    for unit, limit, balance in (("requests", account.rpm, left[0]), ("tokens", account.tpm, left[1])):
        if limit is not None and balance is not None:
            headers[f"x-ratelimit-{kind}-limit-{unit}"] = str(limit)
            headers[f"x-ratelimit-{kind}-remaining-{unit}"] = str(max(math.floor(balance), 0))
    return headers


def _of_key(unit: str, limit: int | None, left: float | None) -> dict[str, str]:
    if limit is None or left is None:
        return {}
    missing = max(limit - left, 0.0)
    return {
        f"x-ratelimit-limit-{unit}": str(limit),
        f"x-ratelimit-remaining-{unit}": str(max(math.floor(left), 0)),
        f"x-ratelimit-reset-{unit}": duration(missing / (limit / 60)) if limit else "0s",
    }
