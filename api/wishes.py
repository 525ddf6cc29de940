"""What a request's headers ask for."""

import re
from collections.abc import Mapping

from shared import webhooks
from shared.errors import InvalidRequest
from shared.job_plan import DEFAULT_RESULT_TTL, NO_WISHES, Wishes
from shared.settings import Settings

WEBHOOK = "x-headrace-webhook"
_CUSTOMER_HEADERS = ("x-litellm-customer-id", "x-litellm-end-user-id")
_REDACTION_HEADERS = ("x-litellm-enable-message-redaction", "litellm-enable-message-redaction")
_VENDOR_HEADERS = ("anthropic-beta",)
_KNOWN = frozenset({
    "anthropic-beta", "idempotency-key", "litellm-enable-message-redaction", "prefer", "traceparent",
    "x-headrace-dedupe", "x-headrace-max-queue-wait", "x-headrace-on-disconnect", "x-headrace-priority",
    "x-headrace-result-ttl", "x-headrace-webhook", "x-litellm-customer-id", "x-litellm-enable-message-redaction",
    "x-litellm-end-user-id", "x-litellm-num-retries", "x-litellm-tags", "x-litellm-timeout",
})  # fmt: skip
_DAY = 86_400.0
_LONGEST_WAIT = 600.0
_LONGEST_KEY = 255  # characters
_LONGEST_SHOWN = 50  # characters of a wrong value that an error repeats
_PREFERENCE = re.compile(r'\s*([^\s=;,"]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^\s;,"]*))?[^,"]*(?:"[^"]*"[^,"]*)*(?:,|$)')


def of(headers: Mapping[str, str], customer_header: str = "") -> Wishes:
    """The wishes in `headers`, whose names are in lower case. The customer may also stand in `customer_header`. Raises
    `InvalidRequest`, whose `param` names the header."""
    if _KNOWN.isdisjoint(headers) and (not customer_header or customer_header not in headers):
        return NO_WISHES
    retries = _number(headers, "x-litellm-num-retries", 0, _DAY)
    preferences = _preferences(headers.get("prefer", ""))
    return Wishes(
        timeout=_number(headers, "x-litellm-timeout", 0, _DAY),
        retries=None if retries is None else int(retries),
        tags=_tags(headers.get("x-litellm-tags", "")),
        vendor_headers={name: headers[name] for name in _VENDOR_HEADERS if name in headers} or None,
        traceparent=headers.get("traceparent", ""),
        customer=next((headers[name] for name in (customer_header, *_CUSTOMER_HEADERS) if headers.get(name)), ""),
        max_queue_wait=_number(headers, "x-headrace-max-queue-wait", 0.001, _DAY),
        priority=_priority(headers),
        result_ttl=_number(headers, "x-headrace-result-ttl", 60, 30 * _DAY) or DEFAULT_RESULT_TTL,
        webhook=headers.get(WEBHOOK, ""),
        respond_async="respond-async" in preferences,
        wait=_wait(preferences),
        on_disconnect=_choice(headers, "x-headrace-on-disconnect", ("cancel", "continue")),
        idempotency_key=idempotency_key(headers),
        dedupe=_choice(headers, "x-headrace-dedupe", ("body",)) == "body",
        redact=any(_is_true(headers.get(name, "")) for name in _REDACTION_HEADERS),
    )


def idempotency_key(headers: Mapping[str, str]) -> str:
    """Empty for none. Raises `InvalidRequest`."""
    key = headers.get("idempotency-key")
    if key is None:
        return ""
    if not 1 <= len(key) <= _LONGEST_KEY or not key.isprintable():
        raise _wrong("idempotency-key", key, f"1 to {_LONGEST_KEY} printable characters")
    return key


def check_webhook(url: str, settings: Settings) -> None:
    """Raises `InvalidRequest` for a webhook that this server would never call."""
    if settings.webhook_secret is None:
        raise InvalidRequest(
            "This server sends no webhooks: set HEADRACE_WEBHOOK_SECRET, which signs them.", param=WEBHOOK
        )
    webhooks.check_url(url, param=WEBHOOK, allow_private=settings.webhook_allow_private)


def _is_true(text: str) -> bool:
    """Whatever does not say no means yes: a prompt that was to be kept out of the bill must not get into it."""
    return text.strip().lower() not in ("", "0", "false", "no", "off")


def _preferences(text: str) -> dict[str, str]:
    """RFC 7240: names in lower case, the first of a name counts, parameters are for others."""
    found: dict[str, str] = {}
    for match in _PREFERENCE.finditer(text):
        found.setdefault(match[1].lower(), (match[2] or "").strip('"'))
    return found


def _wait(preferences: Mapping[str, str]) -> float | None:
    text = preferences.get("wait")
    if text is None:
        return None
    seconds = _parsed(text)
    if seconds is None or not 0 < seconds <= _LONGEST_WAIT:
        raise _wrong("prefer", f"wait={text}", f"wait with a number of seconds over 0, at most {_LONGEST_WAIT:.0f}")
    return seconds


def _tags(text: str) -> tuple[str, ...]:
    return tuple([tag.strip() for tag in text.split(",") if tag.strip()]) if text else ()


def _priority(headers: Mapping[str, str]) -> int:
    number = _number(headers, "x-headrace-priority", -100, 100)
    if number is None:
        return 0
    if not number.is_integer():
        raise _wrong("x-headrace-priority", headers["x-headrace-priority"], "a whole number between -100 and 100")
    return int(number)


def _choice(headers: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    text = headers.get(name)
    if text is None:
        return ""
    if text.lower() not in choices:
        raise _wrong(name, text, " or ".join(choices))
    return text.lower()


def _number(headers: Mapping[str, str], name: str, least: float, most: float) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    number = _parsed(text)
    if number is None or not least <= number <= most:
        raise _wrong(name, text, f"a number between {least:g} and {most:.0f}")
    return number


def _parsed(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _wrong(name: str, value: str, expected: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid header {name}: {value[:_LONGEST_SHOWN]!r}; expected {expected}.", param=name)
