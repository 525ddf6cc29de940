"""Secrets at rest: sealed under the salt key, so that who reads the database reads no provider's key.

What is sealed here is LiteLLM's second format, `v2:gcm:` and base64url(nonce || ciphertext || tag) of AES-256-GCM. Its
first one, base64url of a NaCl SecretBox, is read as well. The key of both is the SHA-256 of the salt key.

The libraries are loaded where they are used: most processes have nothing to seal.
"""

import base64
import binascii
import os
from hashlib import sha256
from typing import Any

GCM = "v2:gcm:"
"""Stands before what AES-256-GCM sealed. A SecretBox has no mark; base64url has no colon."""

_NONCE = 12  # bytes, as NIST SP 800-38D recommends for GCM
_TAG = 16
_BOX = 24 + 16  # bytes of an empty SecretBox: nonce and tag


class Unsealable(Exception):
    """The text was not sealed under this salt key, or is damaged."""


class Sealer:
    """Seals and unseals texts under one salt key."""

    def __init__(self, salt_key: str) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._key = sha256(salt_key.encode()).digest()
        self._gcm = AESGCM(self._key)

    def __repr__(self) -> str:
        return "Sealer(...)"

    def seal(self, text: str) -> str:
        nonce = os.urandom(_NONCE)
        sealed = self._gcm.encrypt(nonce, text.encode(), None)
        return GCM + base64.urlsafe_b64encode(nonce + sealed).decode()

    def unseal(self, sealed: str) -> str:
        """Either format. Raises `Unsealable`."""
        try:
            if sealed.startswith(GCM):
                return self._open_gcm(_decoded(sealed.removeprefix(GCM)))
            return self._open_box(_decoded(sealed))
        except UnicodeDecodeError as exc:
            raise Unsealable("the salt key opens it, and there is no text in it") from exc

    def seal_all(self, value: Any) -> Any:
        """A copy of a JSON value in which every text is sealed, however deep; keys of objects stay readable."""
        match value:
            case str():
                return self.seal(value)
            case dict():
                return {key: self.seal_all(each) for key, each in value.items()}
            case list() | tuple():
                return [self.seal_all(each) for each in value]
        return value

    def unseal_all(self, value: Any) -> Any:
        """What `seal_all` was given. Raises `Unsealable`."""
        match value:
            case str():
                return self.unseal(value)
            case dict():
                return {key: self.unseal_all(each) for key, each in value.items()}
            case list():
                return [self.unseal_all(each) for each in value]
        return value

    def _open_gcm(self, sealed: bytes) -> str:
        from cryptography.exceptions import InvalidTag

        if len(sealed) < _NONCE + _TAG:
            raise Unsealable("too short")
        try:
            return self._gcm.decrypt(sealed[:_NONCE], sealed[_NONCE:], None).decode()
        except InvalidTag as exc:
            raise Unsealable("another salt key, or damaged") from exc

    def _open_box(self, sealed: bytes) -> str:
        from nacl.exceptions import CryptoError
        from nacl.secret import SecretBox

        if len(sealed) < _BOX:
            raise Unsealable("too short")
        try:
            return bytes(SecretBox(self._key).decrypt(sealed)).decode()
        except CryptoError as exc:
            raise Unsealable("another salt key, or damaged") from exc


def seems_sealed(text: str) -> bool:
    """Whether `text` has the form of something sealed. Of what LiteLLM has in its database, some is not."""
    if text.startswith(GCM):
        return True
    try:
        return len(_decoded(text)) >= _BOX
    except Unsealable:
        return False


def _decoded(text: str) -> bytes:
    """Of base64url, or of base64, which LiteLLM wrote at first; with or without padding."""
    plain = text.rstrip("=").replace("+", "-").replace("/", "_")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Unsealable("not base64") from exc
