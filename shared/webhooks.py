"""Webhooks by the Standard Webhooks specification: how a message is signed, and which addresses may be told.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import re
from base64 import b64decode
from binascii import Error as NotBase64
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from shared.errors import InvalidRequest

MAX_URL_LENGTH = 2048

_SECRET_PREFIX = "whsec_"  # noqa: S105 - what every secret begins with
_SECRET_BYTES = range(24, 65)  # the specification's bounds
_PRINTABLE = re.compile(r"[!-~]+")

# --- Signing --------------------------------------------------------------------------------------------------------


def is_secret(text: str) -> bool:
    """Whether `text` can sign: `whsec_` and the base64 of 24 to 64 bytes."""
    encoded = text.removeprefix(_SECRET_PREFIX)
    if encoded == text:
        return False
    try:
        return len(b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)) in _SECRET_BYTES
    except (NotBase64, ValueError):
        return False


def signed_headers(secret: str, message_id: str, now: float, payload: bytes) -> dict[str, str]:
    """The headers by which a receiver knows the sender. `now`, seconds since the epoch, is the time of this attempt, as
    receivers refuse what is older than some minutes; `payload` is UTF-8."""
    from standardwebhooks.webhooks import Webhook  # its package loads an API client: 7 MB that only a sender needs

    moment = datetime.fromtimestamp(int(now), UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": Webhook(secret).sign(message_id, moment, payload.decode()),
    }


# --- Addresses ------------------------------------------------------------------------------------------------------


def check_url(url: str, *, param: str = "webhook", allow_private: bool = True) -> None:
    """Raises `InvalidRequest` about `param` unless `url` can be a webhook's address: http or https, a host, no
    credentials, at most 2,048 characters of printable ASCII. No name is resolved: `allow_private` refuses only
    addresses that are written as such, and the sender looks again."""
    wrong = _fault(url, allow_private)
    if wrong:
        raise InvalidRequest(f"Invalid '{param}': {wrong}.", param=param)


def _fault(url: str, allow_private: bool) -> str:
    if len(url) > MAX_URL_LENGTH:
        return f"the URL has {len(url)} characters, at most {MAX_URL_LENGTH} are allowed"
    # A backslash is a path to some parsers and a slash to others.
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        return "the URL must be printable ASCII without spaces and backslashes: percent-encode others"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "the URL cannot be parsed"
    if parts.scheme not in ("http", "https"):
        return "the URL must begin with https:// or http://"
    if not parts.hostname or port == 0:
        return "the URL must name a host, and a port from 1 to 65535 if any"
    if "@" in parts.netloc:
        return "the URL must not hold credentials: messages are signed instead"
    if not allow_private and _names_private_address(parts):
        return "the URL's address is private; HEADRACE_WEBHOOK_ALLOW_PRIVATE=true allows it"
    return ""


def _names_private_address(parts: SplitResult) -> bool:
    try:
        return not is_public(parts.hostname or "")
    except ValueError:
        return False  # a name


def is_public(address: str) -> bool:
    """Whether an IP address, written in numbers, is one that anybody on the internet may own: not private, loopback,
    link-local, multicast, reserved, unspecified, nor a way to one of those. Raises `ValueError` for anything else."""
    match ip_address(address):
        case IPv4Address() as v4:
            return _is_public_v4(v4)
        case v6:
            return _is_public_v6(v6)


# Not, or not in every version of Python, among those that `is_global` knows.
# https://www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry
_SPECIAL_V4 = [ip_network(each) for each in ("192.0.0.0/24", "192.88.99.0/24")]
_SPECIAL_V6 = [ip_network(each) for each in ("2001::/23", "2002::/16", "3fff::/20")]  # 2002: 6to4, given up by RFC 7526

_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that IANA has given out to networks
_NAT64 = IPv6Network("64:ff9b::/96")  # the last 32 bits are the IPv4 address behind it (RFC 6052)


def _is_public_v4(address: IPv4Address) -> bool:
    special = address.is_multicast or address.is_reserved or any(address in network for network in _SPECIAL_V4)
    return address.is_global and not special


def _is_public_v6(address: IPv6Address) -> bool:
    if address.ipv4_mapped is not None:
        return _is_public_v4(address.ipv4_mapped)
    if address in _NAT64:
        return _is_public_v4(IPv4Address(int(address) & 0xFFFF_FFFF))
    special = any(address in network for network in _SPECIAL_V6)
    return address in _GLOBAL_UNICAST and address.is_global and not special
