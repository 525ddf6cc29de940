"""Which addresses a webhook may have, and how its messages are signed."""

import time
from base64 import b64encode

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from shared.errors import InvalidRequest
from shared.webhooks import check_url, is_public, is_secret, signed_headers

SECRET = f"whsec_{b64encode(bytes(range(32))).decode()}"


def test_a_message_is_signed_as_the_specification_says() -> None:
    # The example of the specification's own libraries.
    secret, message_id = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"

    headers = signed_headers(secret, message_id, 1_614_265_330.9, b'{"test": 2432232314}')

    assert headers == {
        "webhook-id": message_id,
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_receiver_with_the_secret_verifies_the_message_and_nothing_else() -> None:
    payload = '{"type": "job.completed", "data": {"id": "ü"}}'.encode()
    headers = signed_headers(SECRET, "msg_1", time.time(), payload)

    assert Webhook(SECRET).verify(payload, headers) == {"type": "job.completed", "data": {"id": "ü"}}
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(payload + b" ", headers)


@pytest.mark.parametrize("secret", [SECRET, SECRET.rstrip("=")])
def test_a_secret_may_come_without_padding(secret: str) -> None:
    assert is_secret(secret)


# --- Addresses ------------------------------------------------------------------------------------------------------

PUBLIC = ["1.1.1.1", "93.184.215.14", "172.32.0.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]

NOT_PUBLIC = {
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd12::1", "fec0::1"],
    "shared by carriers": ["100.64.0.1"],
    "link-local": ["169.254.169.254", "fe80::1", "fe80::1%eth0"],
    "multicast": ["224.0.0.1", "239.1.1.1", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "192.0.0.8", "198.18.0.1", "192.88.99.1", "4000::1", "100::1"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "IPv4-mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe"],
    "IPv4-compatible": ["::127.0.0.1", "::1.1.1.1"],
    "NAT64": ["64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::101:101"],
    "6to4 and Teredo": ["2002:7f00:1::", "2002:101:101::1", "2001:0:101:101::1"],
}


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", [each for kind in NOT_PUBLIC.values() for each in kind])
def test_any_other_address_is_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("text", ["example.com", "127.1", "2130706433", "0x7f.0.0.1", ""])
def test_what_is_no_address_in_numbers_is_neither(text: str) -> None:
    with pytest.raises(ValueError):
        is_public(text)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook?token=a%20b#part",
        "http://example.com:8080",
        "HTTPS://EXAMPLE.COM/",
        "https://xn--bcher-kva.example/",
        "https://[2606:4700:4700::1111]:8443/",
        "https://example.com/" + "x" * 2028,
    ],
)
def test_a_usable_url_is_accepted(url: str) -> None:
    check_url(url, allow_private=False)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "printable ASCII"),
        ("ftp://example.com/", "https:// or http://"),
        ("example.com/hook", "https:// or http://"),
        ("javascript:alert(1)", "https:// or http://"),
        ("https:///hook", "name a host"),
        ("https://:443/", "name a host"),
        ("https://example.com:0/", "name a host"),
        ("https://example.com:65536/", "cannot be parsed"),
        ("https://example.com:http/", "cannot be parsed"),
        ("https://[::1/", "cannot be parsed"),
        ("https://user:pw@example.com/", "credentials"),
        ("https://@example.com/", "credentials"),
        ("https://example.com/a b", "printable ASCII"),
        ("https://example.com/\r\nx-header: 1", "printable ASCII"),
        ("https://bücher.example/", "printable ASCII"),
        ("https://example.com\\@evil.example/", "printable ASCII"),
        ("https://example.com/" + "x" * 2029, "2049 characters, at most 2048"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_reason_and_without_repeating_it(url: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as raised:
        check_url(url, param="x-headrace-webhook")

    assert raised.value.param == "x-headrace-webhook"
    assert raised.value.message.startswith("Invalid 'x-headrace-webhook': ")
    assert "pw" not in raised.value.message


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest"])
def test_a_private_address_in_numbers_is_refused_at_once_unless_allowed(url: str) -> None:
    check_url(url, allow_private=True)

    with pytest.raises(InvalidRequest, match="HEADRACE_WEBHOOK_ALLOW_PRIVATE=true allows it"):
        check_url(url, allow_private=False)
