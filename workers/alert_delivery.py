"""How alerts reach operators: Slack, and a webhook of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import orjson
import structlog

from shared.ids import uuid7
from shared.webhooks import signed_headers
from workers.budget_watch import Alert, payload
from workers.webhooks import Poster

_TYPE = "budget_alerts"
"""What LiteLLM calls alerts about budgets in `alert_to_webhook_url`."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    kind: Literal["slack", "webhook"]
    url: str = field(repr=False)
    """Slack's is a secret."""


def targets(
    alerting: Sequence[str], by_type: Mapping[str, Sequence[str]], slack_url: str | None, webhook_url: str | None
) -> list[Target]:
    """Where `general_settings.alerting` sends alerts about budgets. An address that is not set is complained about."""
    found: list[Target] = []
    for kind in alerting:
        if kind == "slack":
            urls = [*by_type.get(_TYPE, ())] or ([slack_url] if slack_url else [])
            found += [Target("slack", url) for url in urls]
        elif kind == "webhook":
            urls = [webhook_url] if webhook_url else []
            found += [Target("webhook", url) for url in urls]
        else:
            log.warning("alerting_unknown", kind=kind, expected="slack or webhook")
            continue
        if not urls:
            log.warning("alerting_without_address", kind=kind, do=f"set {_VARIABLES[kind]}")
    return found


_VARIABLES = {"slack": "SLACK_WEBHOOK_URL", "webhook": "WEBHOOK_URL"}


class Messenger:
    """Posts to its targets, while inside. Operators choose the addresses, so private ones are theirs to choose too."""

    def __init__(self, targets: Sequence[Target], *, secret: str | None = None) -> None:
        """`secret` signs what goes to webhooks (Standard Webhooks)."""
        self.targets = tuple(targets)
        self._secret = secret
        self._posts = Poster(1, allow_private=True)

    async def __aenter__(self) -> Self:
        await self._posts.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._posts.__aexit__(*exc)

    async def send(self, alert: Alert, target: Target, now: float) -> bool:
        """Whether it was taken; if not, why is in the log."""
        headers: dict[str, str] = {}
        if target.kind == "slack":
            body = orjson.dumps({"text": _text(alert)})
        else:
            body = orjson.dumps(payload(alert))
            if self._secret is not None:
                headers = signed_headers(self._secret, f"msg_{uuid7()}", now, body)
        _, reason = await self._posts.post(target.url, body, headers)
        if reason:
            log.warning("alert_not_sent", kind=alert.event, account=alert.about.account, to=target.kind, reason=reason)
        return not reason


def _text(alert: Alert) -> str:
    """As LiteLLM words it: the message, then what is known."""
    known = payload(alert)
    lines = [f"*{name}:* `{known[name]}`" for name in _TOLD if known.get(name) is not None]
    return "\n".join([f"`{known['event_message']}`", *lines])


_TOLD = ("spend", "max_budget", "soft_budget", "user_id", "user_email", "team_id", "team_alias", "key_alias", "token")
