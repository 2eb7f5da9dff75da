"""The credential in an Authorization field (RFC 6750 2.1, RFC 9110 11.4)."""

import re
from typing import Final

from gateway.errors import Refusal

MAX_CREDENTIAL: Final = 16384  # In bytes: the upper bound of tokens.max_size.

# RFC 9110 11.2: token68. The scheme is case-insensitive, and one or more spaces follow it (11.4).
_BEARER: Final = re.compile(rb"(?i:bearer) +([A-Za-z0-9\-._~+/]+=*)").fullmatch
_SCHEME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]*").match
_TOKEN68_BUT_PADDING: Final = b"-._~+/0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def bearer_credential(value: bytes | None, lines: int = 1) -> bytes | None:
    """The bearer credential of a request; None without the field or with another scheme.

    `value` is the field's value, `lines` the number of Authorization fields. Raises Refusal token_invalid for a
    malformed credential, for more than 16 KiB, and for two fields: components that choose different ones would
    authenticate different callers.
    """
    if lines > 1:
        raise _refusal("several Authorization fields")
    if value is None:
        return None
    # The usual spelling. This test costs half as much as the expression.
    if value[:7] == b"Bearer " and len(value) <= MAX_CREDENTIAL + 7:
        credential = value[7:]
        if credential and not credential.translate(None, _TOKEN68_BUT_PADDING):
            return credential
    return _unusual(value.strip(b" \t"))


def _unusual(value: bytes) -> bytes | None:
    scheme = _SCHEME(value)
    if scheme is None or scheme[0].lower() != b"bearer":
        return None
    if len(value) > MAX_CREDENTIAL + 64:  # checked before the expression runs; 64 leaves room for spaces
        raise _refusal("the credential is over 16 KiB")
    found = _BEARER(value)
    if found is None:
        raise _refusal("the bearer credential is not a token68")
    if len(found[1]) > MAX_CREDENTIAL:
        raise _refusal("the credential is over 16 KiB")
    return found[1]


def _refusal(reason: str) -> Refusal:
    return Refusal("token_invalid", reason, presented=True)
