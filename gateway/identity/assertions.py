"""Identity assertions: a JWT about the principal, signed for one upstream, which can verify it.

They complement the identity headers for upstreams that do not trust every machine on their network. Type and audience
separate assertions from access tokens in both directions (RFC 8725 3.11, 3.12): the gateway accepts only `at+jwt` as an
access token, and an upstream must not accept an access token as an assertion.

Signing costs more than the rest of a request, so each assertion is cached per principal, upstream and session for half
its lifetime. The cache belongs to the principal object, and a changed record creates a new principal.
"""

import math
from collections.abc import Callable
from typing import Any, Final, Protocol

from gateway.identity.access_token import Tokens
from gateway.identity.credentials import has_session
from gateway.identity.principal import Principal
from gateway.identity.user import Claims
from gateway.settings.model import AssertionSettings

TYPE: Final = "identity+jwt"

_MOST: Final = 64  # Cached assertions per principal.

Line = Callable[[Principal, Claims], bytes]


class Now(Protocol):
    """A clock that is read as an attribute: `now` is in seconds, at most a second old."""

    now: float


class Assertions:
    """Creates the header lines with assertions."""

    def __init__(self, tokens: Tokens, settings: AssertionSettings, time: Now) -> None:
        self._tokens = tokens
        self._header = settings.header.encode("ascii")
        self._ttl = settings.ttl
        self._time = time
        self._lines: dict[str, Line] = {}

    def for_upstream(self, name: str) -> Line:
        """A function that returns the line for a principal and this upstream (b"X-Identity-Token: ...\\r\\n"), after a
        request with these claims."""
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = self._line(name)
        return line

    def _line(self, name: str) -> Line:
        time = self._time

        def line(principal: Principal, claims: Claims) -> bytes:
            key = (name, claims.session, claims.auth_time)
            known = principal.assertions.get(key) if principal.assertions is not None else None
            if known is not None and time.now < known[0]:
                return known[1]
            return self._renew(principal, name, claims)

        return line

    def _renew(self, principal: Principal, upstream: str, claims: Claims) -> bytes:
        if principal.assertions is None or len(principal.assertions) >= _MOST:
            principal.assertions = {}
        line = b"%b: %b\r\n" % (self._header, self._signed(principal, upstream, claims).encode("ascii"))
        principal.assertions[upstream, claims.session, claims.auth_time] = (self._time.now + self._ttl / 2, line)
        return line

    def _signed(self, principal: Principal, upstream: str, credential: Claims) -> str:
        now = self._tokens.clock()
        claims: dict[str, Any] = {
            "iss": self._tokens.issuer,
            "aud": upstream,
            "sub": principal.id,
            "roles": sorted(principal.roles),
            "iat": int(now),
            "exp": math.ceil(now + self._ttl),
        }
        if principal.forwarded_email:
            claims["email"], claims["email_verified"] = principal.forwarded_email, principal.email_verified
        if has_session(credential):
            claims["sid"] = credential.session
        if credential.auth_time:
            claims["auth_time"] = int(credential.auth_time)
            claims["acr"], claims["amr"] = credential.acr, list(credential.amr)
        return self._tokens.sign(TYPE, claims)
