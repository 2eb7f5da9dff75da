"""Who calls, as a statement that an upstream can check by itself: a JWT that the gateway signs for that upstream alone.

It stands beside the identity headers, for upstreams that do not trust every machine that can reach them. Its type and
its audience keep it apart from access tokens, both ways (RFC 8725 3.11, 3.12): the gateway takes only `at+jwt` for one,
and no upstream should take an access token for an assertion.

A signature costs more than all the rest of a request, so an assertion is signed once for each principal and upstream
and used until half its time is over. It goes with its principal: another record is another principal.
"""

import math
from collections.abc import Callable
from typing import Any, Final, Protocol

from gateway.identity.principals import Principal
from gateway.identity.tokens import Tokens
from gateway.settings.model import AssertionSettings

TYPE: Final = "identity+jwt"

Line = Callable[[Principal], bytes]


class Now(Protocol):
    """What tells the time without being called: `now` is in seconds, at most a second old."""

    now: float


class Assertions:
    """Makes the header lines that carry assertions."""

    def __init__(self, tokens: Tokens, settings: AssertionSettings, time: Now) -> None:
        self._tokens = tokens
        self._header = settings.header.encode("ascii")
        self._ttl = settings.ttl
        self._time = time
        self._lines: dict[str, Line] = {}

    def for_upstream(self, name: str) -> Line:
        """What gives the line about a principal for this upstream (b"X-Identity-Token: ...\\r\\n")."""
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = self._line(name)
        return line

    def _line(self, name: str) -> Line:
        time = self._time

        def line(principal: Principal) -> bytes:
            known = principal.assertions.get(name) if principal.assertions is not None else None
            if known is not None and time.now < known[0]:
                return known[1]
            return self._renew(principal, name)

        return line

    def _renew(self, principal: Principal, upstream: str) -> bytes:
        if principal.assertions is None:
            principal.assertions = {}
        line = b"%b: %b\r\n" % (self._header, self._signed(principal, upstream).encode("ascii"))
        principal.assertions[upstream] = (self._time.now + self._ttl / 2, line)
        return line

    def _signed(self, principal: Principal, upstream: str) -> str:
        now = self._tokens.clock()
        claims: dict[str, Any] = {
            "iss": self._tokens.issuer,
            "aud": upstream,
            "sub": principal.id,
            "roles": sorted(principal.roles),
            "iat": int(now),
            "exp": math.ceil(now + self._ttl),
        }
        if principal.email:
            claims["email"] = principal.email
        return self._tokens.sign(TYPE, claims)
