"""Identifiers: UUIDv7, so that ids sort by the time they were made (RFC 9562, section 5.7)."""

import os
import time

_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""The hex digit that says `10` in its first two bits, by a random one."""


def uuid7() -> str:
    """A new UUIDv7 as a canonical string: 48 bits of Unix milliseconds, then 74 random bits."""
    now = f"{time.time_ns() // 1_000_000:012x}"
    random = os.urandom(10).hex()
    return f"{now[:8]}-{now[8:]}-7{random[:3]}-{_VARIANT[random[3]]}{random[4:7]}-{random[7:19]}"
