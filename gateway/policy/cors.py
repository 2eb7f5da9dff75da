"""What pages of other origins may do on a route: CORS, as the Fetch standard has it, answered by the gateway alone.

A browser asks beforehand whether a page may send what is not simple (the preflight), and it shows an answer to the page
only where the answer says so. Both are said here and nowhere else: what an upstream says of CORS on such a route is
taken out, but for `Access-Control-Expose-Headers`, by which it names fields of its own to those who may read anyway.

An origin is compared whole, as browsers write it: scheme, host and port in lower case, nothing decoded or matched by
its end (`https://app.example.com.evil.example` is somebody else). `null` is nobody.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from gateway.policy.methods import USUAL_METHODS
from gateway.settings.model import CorsSettings
from gateway.wire.fields import Field, list_members

# What the gateway itself may add to an answer and a program may want to read.
_EXPOSED: Final[Field] = (b"access-control-expose-headers", b"X-Request-Id, Retry-After, RateLimit, RateLimit-Policy")
_CREDENTIALS: Final[Field] = (b"access-control-allow-credentials", b"true")
_VARY: Final[Field] = (b"vary", b"Origin")
_NOT_FOR_THEM: Final = (_VARY,)
_NO_STORE: Final[Field] = (b"cache-control", b"no-store")
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_PREFIX: Final = b"access-control-"
_MAX_ASKED: Final = 4096  # bytes of Access-Control-Request-Headers; thousands of names take 5 ms


class Preflight(NamedTuple):
    """A browser's question: may a page of `origin` send a request by `method` with `headers`?"""

    origin: bytes
    method: bytes
    headers: bytes


class Cors:
    """The rule of one route. `methods` are those by which pages may call it, None for all; `reads_credentials` says
    that it looks at Authorization, without which pages could not call it: they may send it then."""

    __slots__ = ("_any_header", "_credentials", "_fields", "_for_everyone", "_headers", "_max_age", "_methods")

    def __init__(self, settings: CorsSettings, *, methods: frozenset[bytes] | None, reads_credentials: bool) -> None:
        self._methods = methods
        names = [name for name in settings.headers if name != "*"]
        if reads_credentials and "authorization" not in (name.lower() for name in names):
            names.append("Authorization")
        self._headers = tuple(name.encode("ascii") for name in names)
        self._any_header = "*" in settings.headers
        self._max_age = (b"access-control-max-age", b"%d" % settings.max_age)
        self._credentials = (_CREDENTIALS,) if settings.credentials else ()
        self._for_everyone = "*" in settings.origins
        self._fields = {origin: self._allowing(origin) for origin in map(str.encode, settings.origins)}

    def allows(self, origin: bytes | None) -> bool:
        """Whether pages of an origin may call at all. None is a caller who is no page of any origin."""
        return self._for_everyone or origin is None or origin.lower() in self._fields

    def fields(self, origin: bytes | None, method: bytes) -> tuple[Field, ...]:
        """What is added to an answer. Without an origin that is listed: only that answers differ by it."""
        if self._methods is not None and method not in self._methods:
            return _NOT_FOR_THEM
        if self._for_everyone:
            return self._fields[b"*"]
        return _NOT_FOR_THEM if origin is None else self._fields.get(origin.lower(), _NOT_FOR_THEM)

    def answer(self, preflight: Preflight) -> tuple[Field, ...] | None:
        """The fields of the answer to a preflight; None where the origin or the method is not allowed.

        Headers that are not allowed are left to the browser, which compares them with the list and can say in its
        console which one it was. Methods are not: browsers let GET, HEAD and POST pass whatever the list says.
        """
        if not self.allows(preflight.origin):
            return None
        if self._methods is not None and preflight.method not in self._methods:
            return None
        headers = self._headers + self._asked_for(preflight.headers)
        origin = b"*" if self._for_everyone else preflight.origin.lower()
        answer = [(b"access-control-allow-origin", origin), *self._credentials]
        answer.append((b"access-control-allow-methods", b", ".join(self._listed_methods(preflight.method))))
        if headers:
            answer.append((b"access-control-allow-headers", b", ".join(headers)))
        return (*answer, self._max_age, _VARY, _NO_STORE)

    def _allowing(self, origin: bytes) -> tuple[Field, ...]:
        allowed = ((b"access-control-allow-origin", origin), *self._credentials, _EXPOSED)
        # The same for everybody: caches need not keep one answer for each origin.
        return allowed if self._for_everyone else (*allowed, _VARY)

    def _listed_methods(self, asked: bytes) -> Iterable[bytes]:
        if self._methods is not None:
            return sorted(self._methods)
        return USUAL_METHODS if asked in USUAL_METHODS or not _TOKEN(asked) else (*USUAL_METHODS, asked)

    def _asked_for(self, headers: bytes) -> tuple[bytes, ...]:
        """`headers: ["*"]`: each one that is asked for by name, since browsers take `*` literally with credentials."""
        if not self._any_header or len(headers) > _MAX_ASKED:
            return ()
        return tuple(name for name in list_members(headers) if _TOKEN(name))


def origin_allowed(cors: Cors | None, origin: bytes | None) -> bool:
    """Whether a WebSocket handshake from this origin may pass. Browsers let any page open one and do not ask
    beforehand, so the server must look (RFC 6455 10.2). Who sends no Origin is no page; several are none of ours."""
    return cors is None or cors.allows(origin)


def origin_of(fields: Sequence[Field]) -> bytes | None:
    """The value of Origin; None without one. Several, which no browser sends, are an origin that no list has."""
    found = None
    for name, value in fields:
        if len(name) == 6 and name.lower() == b"origin":
            found = value.strip(b" \t") if found is None else b""
    return found


def preflight_of(fields: Sequence[Field]) -> Preflight | None:
    """The question that an OPTIONS request asks, if it is a preflight: it has Origin and asks for a method."""
    origin = origin_of(fields)
    if origin is None:
        return None
    asked = {name.lower(): value.strip(b" \t") for name, value in fields if len(name) > len(_PREFIX)}
    method = asked.get(b"access-control-request-method")
    return None if method is None else Preflight(origin, method, asked.get(b"access-control-request-headers", b""))


def without_cors(fields: Sequence[Field]) -> list[Field]:
    """The fields of an upstream's response without what it says of CORS."""
    return [field for field in fields if not _speaks_of_cors(field[0])]


def _speaks_of_cors(name: bytes) -> bool:
    lower = name[:30].lower()
    return lower.startswith(_PREFIX) and lower != _EXPOSED[0]
