"""Refresh tokens: opaque, rotated on use, and stored only as digests.

    token  = "gwr_" + base64url(family ‖ secret)        family: 16 bytes, equal for all tokens of a session
                                                        secret: 32 bytes, unique for each token

The store keeps the digest of the family with the session, and the digest of the whole token with the current tokens. A
leaked database contains no usable token. A token of a known family that is no longer current is a replay (RFC 9700
4.14.2), however old it is, without a row for every token ever issued.

A recently rotated token must return the same successor again, because a client can lose the response or refresh in two
tabs at once. The successor is derived from the token itself and a random seed that the store keeps beside its digest
until the next rotation. Neither a leaked database nor a stolen old token alone reveals the successor.
"""

import base64
import hashlib
import hmac
import re
import secrets
from typing import Final

PREFIX: Final = "gwr_"
SEED_BYTES: Final = 32
_FAMILY_BYTES: Final = 16
_SECRET_BYTES: Final = 32
_TEXT: Final = re.compile(PREFIX + r"[A-Za-z0-9_-]{64}").fullmatch


class RefreshToken:
    """One refresh token. `text` is the form for the client. The digests are SHA-256, and stores see nothing else."""

    __slots__ = ("_family", "_secret")

    def __init__(self, family: bytes, secret: bytes) -> None:
        self._family = family
        self._secret = secret

    @classmethod
    def new(cls) -> "RefreshToken":
        """The first token of a new session."""
        return cls(secrets.token_bytes(_FAMILY_BYTES), secrets.token_bytes(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> "RefreshToken | None":
        """Parse a token; None for malformed text."""
        if _TEXT(text) is None:
            return None
        raw = base64.urlsafe_b64decode(text.removeprefix(PREFIX))
        return cls(raw[:_FAMILY_BYTES], raw[_FAMILY_BYTES:])

    @property
    def text(self) -> str:
        return PREFIX + base64.urlsafe_b64encode(self._family + self._secret).decode("ascii")

    @property
    def digest(self) -> bytes:
        """The digest that identifies this token in the store."""
        return hashlib.sha256(self._family + self._secret).digest()

    @property
    def family_digest(self) -> bytes:
        """The digest that identifies the session in the store."""
        return hashlib.sha256(self._family).digest()

    def successor(self, seed: bytes) -> "RefreshToken":
        """The next token of the family, always the same for the same seed."""
        return RefreshToken(self._family, hmac.digest(self._secret, seed, "sha256"))

    def __repr__(self) -> str:
        return "RefreshToken(********)"
