"""CORS as defined by the Fetch standard, answered by the gateway alone.

A browser sends a preflight before a request that is not simple, and lets a page read a response only if the response
allows it. The gateway writes both answers. On such a route it removes the upstream's own CORS fields, except
`Access-Control-Expose-Headers`, which lists further fields for pages that can already read the response.

Origins are compared whole, as browsers serialize them: scheme, host and port in lower case. Suffix matches would admit
`https://app.example.com.evil.example`. The origin `null` never matches.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from gateway.policy.patterns import USUAL_METHODS
from gateway.settings.model import CorsSettings, Settings
from gateway.wire.fields import Field, list_members

# Response fields that the gateway itself can add and that scripts read.
_EXPOSED: Final[Field] = (b"access-control-expose-headers", b"X-Request-Id, Retry-After, RateLimit, RateLimit-Policy")
_CREDENTIALS: Final[Field] = (b"access-control-allow-credentials", b"true")
_VARY: Final[Field] = (b"vary", b"Origin")
_NOT_FOR_THEM: Final = (_VARY,)
_NO_STORE: Final[Field] = (b"cache-control", b"no-store")
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_PREFIX: Final = b"access-control-"
_MAX_ASKED: Final = 4096  # In bytes of Access-Control-Request-Headers. Parsing thousands of names takes 5 ms.


class Preflight(NamedTuple):
    """A CORS preflight: a page of `origin` wants to send a request with `method` and `headers`."""

    origin: bytes
    method: bytes
    headers: bytes


class Cors:
    """The CORS rule of one route. `methods` are the methods that pages can use, None for all. With `reads_credentials`
    the route checks Authorization, so pages can send that header. `with_cookies` are the origins that can send cookies;
    None: those that the settings say."""

    __slots__ = ("_any_header", "_credentials", "_fields", "_for_everyone", "_headers", "_max_age", "_methods")

    def __init__(
        self,
        settings: CorsSettings,
        *,
        methods: frozenset[bytes] | None,
        reads_credentials: bool,
        with_cookies: frozenset[str] | None = None,
    ) -> None:
        self._methods = methods
        names = [name for name in settings.headers if name != "*"]
        if reads_credentials and "authorization" not in (name.lower() for name in names):
            names.append("Authorization")
        self._headers = tuple(name.encode("ascii") for name in names)
        self._any_header = "*" in settings.headers
        self._max_age = (b"access-control-max-age", b"%d" % settings.max_age)
        trusted = with_cookies if with_cookies is not None else settings.origins if settings.credentials else ()
        self._credentials = frozenset(map(str.encode, trusted))
        self._for_everyone = "*" in settings.origins
        self._fields = {origin: self._allowing(origin) for origin in map(str.encode, settings.origins)}

    def allows(self, origin: bytes | None) -> bool:
        """Whether pages of an origin can use the route. None stands for a client that is not a web page."""
        return self._for_everyone or origin is None or origin.lower() in self._fields

    def fields(self, origin: bytes | None, method: bytes) -> tuple[Field, ...]:
        """The fields to add to a response. For an unlisted origin this is `Vary` alone."""
        if self._methods is not None and method not in self._methods:
            return _NOT_FOR_THEM
        if self._for_everyone:
            return self._fields[b"*"]
        return _NOT_FOR_THEM if origin is None else self._fields.get(origin.lower(), _NOT_FOR_THEM)

    def answer(self, preflight: Preflight) -> tuple[Field, ...] | None:
        """The fields of a preflight response; None if the origin or the method is not allowed.

        Disallowed headers do not refuse the preflight: the browser compares them with the list and names the missing
        one in its console. Disallowed methods do, because browsers accept GET, HEAD and POST whether or not the list
        has them.
        """
        if not self.allows(preflight.origin):
            return None
        if self._methods is not None and preflight.method not in self._methods:
            return None
        headers = self._headers + self._asked_for(preflight.headers)
        origin = b"*" if self._for_everyone else preflight.origin.lower()
        answer = [(b"access-control-allow-origin", origin), *self._with_cookies(origin)]
        answer.append((b"access-control-allow-methods", b", ".join(self._listed_methods(preflight.method))))
        if headers:
            answer.append((b"access-control-allow-headers", b", ".join(headers)))
        return (*answer, self._max_age, _VARY, _NO_STORE)

    def _allowing(self, origin: bytes) -> tuple[Field, ...]:
        allowed = ((b"access-control-allow-origin", origin), *self._with_cookies(origin), _EXPOSED)
        # Identical for every origin, so caches can keep a single copy.
        return allowed if self._for_everyone else (*allowed, _VARY)

    def _with_cookies(self, origin: bytes) -> tuple[Field, ...]:
        return (_CREDENTIALS,) if origin in self._credentials else ()

    def _listed_methods(self, method: bytes) -> Iterable[bytes]:
        if self._methods is not None:
            return sorted(self._methods)
        return USUAL_METHODS if method in USUAL_METHODS or not _TOKEN(method) else (*USUAL_METHODS, method)

    def _asked_for(self, headers: bytes) -> tuple[bytes, ...]:
        """The requested header names, for `headers: ["*"]`: with credentials browsers take `*` literally."""
        if not self._any_header or len(headers) > _MAX_ASKED:
            return ()
        return tuple(name for name in list_members(headers) if _TOKEN(name))


def cors_of_accounts(settings: Settings, methods: frozenset[bytes]) -> Cors | None:
    """The CORS rule of the JSON endpoints for accounts: `sessions.origins` with cookies, `accounts.origins` without."""
    with_cookies = () if settings.sessions is None else settings.sessions.origins
    origins = tuple(dict.fromkeys((*settings.accounts.origins, *with_cookies)))
    if not origins:
        return None
    cors = CorsSettings(origins=origins, headers=("Content-Type",))
    return Cors(cors, methods=methods, reads_credentials=True, with_cookies=frozenset(with_cookies))


def origin_allowed(cors: Cors | None, origin: bytes | None) -> bool:
    """Whether a WebSocket handshake from this origin can pass.

    Browsers let any page open a WebSocket without a preflight, so the server must check the origin (RFC 6455 10.2). A
    client that sends no Origin is not a web page. Repeated Origin fields match no list.
    """
    return cors is None or cors.allows(origin)


def origin_of(fields: Sequence[Field]) -> bytes | None:
    """The value of Origin, or None. Browsers never send it twice: repeated fields give b"", which no list contains."""
    found = None
    for name, value in fields:
        if len(name) == 6 and name.lower() == b"origin":
            found = value.strip(b" \t") if found is None else b""
    return found


def preflight_of(fields: Sequence[Field]) -> Preflight | None:
    """The preflight in an OPTIONS request, or None: a preflight has Origin and Access-Control-Request-Method."""
    origin = origin_of(fields)
    if origin is None:
        return None
    headers = {name.lower(): value.strip(b" \t") for name, value in fields if len(name) > len(_PREFIX)}
    method = headers.get(b"access-control-request-method")
    return None if method is None else Preflight(origin, method, headers.get(b"access-control-request-headers", b""))


def without_cors(fields: Sequence[Field]) -> list[Field]:
    """The fields of an upstream response without its CORS fields."""
    return [field for field in fields if not _speaks_of_cors(field[0])]


def _speaks_of_cors(name: bytes) -> bool:
    lower = name[:30].lower()
    return lower.startswith(_PREFIX) and lower != _EXPOSED[0]
