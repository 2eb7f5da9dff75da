"""Refresh tokens: opaque, rotated on use, and recognised without being kept.

    token  = "gwr_" + base64url(family ‖ secret)        family: 16 bytes, the same for all tokens of a session
                                                        secret: 32 bytes, another one for each token

The store keeps digests only: of the family with the session, of the whole token with the tokens that still count. So
a leaked database holds nothing that can be presented, and a token whose family is known but which counts no longer is
a replay (RFC 9700 4.14.2) however old it is, without a row for every token that ever was.

A token that was rotated a moment ago must answer with the same successor again (a client whose answer was lost, or
two tabs at once). The successor is therefore made from the token itself and a random seed that the store keeps beside
its digest until the next rotation: neither a leaked database nor a stolen old token alone gives the successor.
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
    """One refresh token. `text` is what its holder presents; the digests are SHA-256 and all that a store may see."""

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
        """The token of this text, or None where it cannot be one."""
        if _TEXT(text) is None:
            return None
        raw = base64.urlsafe_b64decode(text.removeprefix(PREFIX))
        return cls(raw[:_FAMILY_BYTES], raw[_FAMILY_BYTES:])

    @property
    def text(self) -> str:
        """The token as its holder gets and presents it."""
        return PREFIX + base64.urlsafe_b64encode(self._family + self._secret).decode("ascii")

    @property
    def digest(self) -> bytes:
        """What the store knows this one token by."""
        return hashlib.sha256(self._family + self._secret).digest()

    @property
    def family_digest(self) -> bytes:
        """What the store knows the session by."""
        return hashlib.sha256(self._family).digest()

    def successor(self, seed: bytes) -> "RefreshToken":
        """The token that follows this one: always the same for the same seed."""
        return RefreshToken(self._family, hmac.digest(self._secret, seed, "sha256"))

    def __repr__(self) -> str:
        return "RefreshToken(********)"
