"""The fields that carry credentials: Authorization (RFC 6750 2.1, RFC 9110 11.4), and Cookie, Set-Cookie (RFC 6265bis)
and Clear-Site-Data as far as the gateway's own cookies are concerned.

The parser of Cookie reads a field in one pass, linear in its length (CVE-2024-7592: http.cookies takes quadratic time
for backslashes). It does not unquote: a quoted name is another name (Werkzeug PR #1965), and a pair without `=` has no
name. The session cookie is recognised byte by byte. Cookies to remove are recognised in any case and with white space
around the name: some upstreams ignore both.
"""

import re
from collections.abc import Container
from typing import Final

from gateway.errors import Refusal

MAX_CREDENTIAL: Final = 16384  # In bytes: the upper bound of tokens.max_size.

# RFC 9110 11.2: token68. The scheme is case-insensitive, and one or more spaces follow it (11.4).
_BEARER: Final = re.compile(rb"(?i:bearer) +([A-Za-z0-9\-._~+/]+=*)").fullmatch
_SCHEME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]*").match
_TOKEN68_BUT_PADDING: Final = b"-._~+/0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def bearer_credential(value: bytes | None, lines: int = 1, verified: Container[bytes] = ()) -> bytes | None:
    """The bearer credential of a request; None without the field or with another scheme.

    `value` is the field's value, `lines` the number of Authorization fields. Credentials in `verified` are known to be
    well-formed. Raises Refusal token_invalid for a malformed credential, for more than 16 KiB, and for two fields:
    components that choose different ones would authenticate different callers.
    """
    if lines > 1:
        raise _refusal("several Authorization fields")
    if value is None:
        return None
    # The usual spelling. This test costs half as much as the expression.
    if value[:7] == b"Bearer " and len(value) <= MAX_CREDENTIAL + 7:
        credential = value[7:]
        if credential in verified or (credential and not credential.translate(None, _TOKEN68_BUT_PADDING)):
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


_SPACE: Final = b" \t"
# Browsers accept a cookie of this prefix only from the host itself, with Secure, HttpOnly and Path=/ (RFC 10017).
PREFIX: Final = "__Host-Http-"
_FLOW: Final = b"-flow"  # the cookie of a sign-in in progress
# `"*"` without `"cookies"` (Clear Site Data, section 3.1, and the types that Chromium adds).
_ALL_BUT_COOKIES: Final = b'"cache", "clientHints", "executionContexts", "prefetchCache", "prerenderCache", "storage"'


class OwnCookies:
    """The cookies that only the gateway sets and reads. `session` is the name of the session cookie.

    Without `secure` (http on this machine), browsers refuse the prefix, so the names have none.
    """

    def __init__(self, name: str, *, secure: bool) -> None:
        self.secure = secure
        self.session = ((PREFIX if secure else "") + name).encode("ascii")
        self._opening = self.session + b"="
        self._lowered = self.session.lower()
        self._names = frozenset((self._lowered, self._lowered + _FLOW))

    def split(self, value: bytes) -> tuple[bytes, list[bytes]]:
        """The field without own cookies, and the values of the session cookie. The rest of the field is unchanged."""
        if value.startswith(self._opening) and b";" not in value:  # The session cookie alone is the common case.
            return b"", [value[len(self._opening) :]]
        if self._lowered not in value.lower():
            return value, []
        pairs = value.split(b";")
        kept, values = [], []
        for pair in pairs:
            name, equals, content = pair.partition(b"=")
            if not equals or name.strip(_SPACE).lower() not in self._names:
                kept.append(pair)
            elif name.lstrip(_SPACE) == self.session:
                values.append(content)
        if len(kept) == len(pairs):
            return value, []
        return (b";".join(kept) if b"".join(kept).strip(_SPACE) else b"").strip(_SPACE), values

    def is_set_by(self, value: bytes) -> bool:
        """Whether a Set-Cookie field sets an own cookie. A cookie without a name counts too: its value can begin with
        the name of an own one, and browsers send it as it is."""
        name, equals, _ = value.partition(b";")[0].partition(b"=")
        name = name.strip(_SPACE)
        return not equals or not name or name.lower() in self._names


def without_clearing_cookies(value: bytes) -> bytes:
    """A Clear-Site-Data field that clears no cookies: browsers would delete the session cookie with all others. Empty
    if the field clears nothing else."""
    types = [each.strip(_SPACE) for each in value.split(b",")]
    if b'"*"' not in types and b'"cookies"' not in value.lower():
        return value
    kept = [each for each in types if each.lower() != b'"cookies"']
    return b", ".join(_ALL_BUT_COOKIES if each == b'"*"' else each for each in kept if each)


def set_cookie(own: OwnCookies, value: str, *, same_site: str, max_age: int | None = None) -> str:
    """The Set-Cookie field of the session cookie: for the whole host, hidden from scripts. Without `max_age` the cookie
    ends with the browser."""
    attributes = ["Path=/", *(("Secure",) if own.secure else ()), "HttpOnly", f"SameSite={same_site.capitalize()}"]
    if max_age is not None:
        attributes.append(f"Max-Age={max_age}")
    return "; ".join((f"{own.session.decode('ascii')}={value}", *attributes))
