"""Simulate the gate's decision without a running gateway.

    path ─▶ host ─▶ route ─▶ method ─▶ handshake ─▶ own page ─▶ kind ─▶ user ─▶ roles ─▶ sign-in ─▶ SimulationResult
                      └─▶ a preflight is answered

The gate calls the same functions. Runtime state is left out: credentials (the caller is given as the result of
credential and record), rate limit counts, and upstreams. `tokens.leeway`, which covers differences between clocks, adds
nothing to the age of a sign-in here.
"""

import os
import re
from math import inf
from typing import Final, NamedTuple

from gateway.errors import Refusal, without_traceback
from gateway.policy.cors import Preflight
from gateway.policy.decide import (
    PreflightAnswer,
    RefusedAtRoute,
    WebSocketHandshake,
    authorize,
    check_kind,
    check_sign_in,
    locate,
)
from gateway.policy.policy import Policy
from gateway.policy.rewrite import Captures
from gateway.policy.route import Route
from gateway.settings.reader import InvalidValue
from gateway.settings.syntax import method as method_name
from gateway.wire.fields import Field
from gateway.wire.hosts import canonical_host
from gateway.wire.paths import RequestTarget, canonical_target


class PolicyRequest(NamedTuple):
    """The part of a request that a policy decides on.

    `target` is the request target as sent, `host` the value of Host, None without one. `origin` is the origin of the
    page, `fetch_site` the value of Sec-Fetch-Site. With `preflight` the request is the browser's preflight for the
    described request.
    """

    method: bytes
    target: bytes
    host: bytes | None = None
    origin: bytes | None = None
    websocket: bool = False
    preflight: bool = False
    fetch_site: bytes | None = None

    @property
    def page_fields(self) -> list[Field]:
        """The header fields that tell which page causes the request."""
        fields = ((b"origin", self.origin), (b"sec-fetch-site", self.fetch_site))
        return [(name, value) for name, value in fields if value is not None]


class Subject(NamedTuple):
    """A signed-in caller: id, roles including implied ones, and whether the account is active. Anonymous callers are
    None.

    `kind` is that of the credential: `session` (a cookie), `token`, `api_key` or `external`. `signed_in` is the age of
    the sign-in in seconds, `email_verified` whether the address is verified.
    """

    id: str
    roles: frozenset[str]
    is_active: bool = True
    kind: str = "token"
    signed_in: float = 0.0
    email_verified: bool = True

    @property
    def age(self) -> float:
        """The age of the sign-in; infinite for kinds of credentials that contain none."""
        return self.signed_in if self.kind in _WITH_SIGN_IN else inf


class SimulationResult(NamedTuple):
    """The simulated decision. `refusal` is None if the request is allowed.

    `route` is the matching route, including one that refuses; None without a match. `caller` is the caller as the route
    sees it: None for anonymous callers, and on routes without authentication. `answered` marks a preflight that the
    gateway answers itself. `navigation` is the location of the redirect that a browser gets instead of the refusal if
    it navigates; None if it gets the refusal.
    """

    refusal: Refusal | None
    route: Route | None = None
    captures: Captures = ()
    target: RequestTarget | None = None
    host: bytes | None = None
    caller: Subject | None = None
    answered: bool = False
    navigation: str | None = None

    @property
    def is_allowed(self) -> bool:
        return self.refusal is None

    @property
    def status(self) -> int | None:
        """The status of the refusal; None if the upstream or a built-in endpoint determines the status."""
        return self.refusal.status if self.refusal is not None else _ANSWERED if self.answered else None


_ANSWERED: Final = 204
_WITH_SIGN_IN: Final = ("session", "token")


def simulate(policy: Policy, request: PolicyRequest, caller: Subject | None) -> SimulationResult:
    """Decide a request; a `caller` of None is anonymous. Never raises Refusal."""
    target = host = route = None
    captures: Captures = ()
    try:
        target = canonical_target(request.target, relaxed=policy.relaxed)
        host = None if request.host is None else canonical_host(request.host)
        method = b"OPTIONS" if request.preflight else request.method
        located = locate(policy, host, target, method, _kind(request))
        if isinstance(located, PreflightAnswer):
            return SimulationResult(None, located.route, (), target, host, answered=True)
        if isinstance(located, RefusedAtRoute):
            return SimulationResult(located.refusal, located.route, located.captures, target, host)
        route, captures = located
        caller = _looked_up(policy, route, host, request, caller)
        refusal = authorize(route, captures, caller)
        if refusal is None and caller is not None:
            refusal = check_sign_in(route, age=caller.age, verified=caller.email_verified)
    except Refusal as error:
        refusal = without_traceback(error)
        navigation = _navigation(policy, route, target, host, request, caller, refusal)
        return SimulationResult(refusal, route, captures, target, host, None, navigation=navigation)
    navigation = _navigation(policy, route, target, host, request, caller, refusal)
    return SimulationResult(refusal, route, captures, target, host, caller, navigation=navigation)


def _kind(request: PolicyRequest) -> Preflight | WebSocketHandshake | None:
    if request.preflight and request.origin is not None:
        return Preflight(request.origin, request.method, b"")
    return WebSocketHandshake(request.origin) if request.websocket else None


def _looked_up(
    policy: Policy, route: Route, host: bytes | None, request: PolicyRequest, caller: Subject | None
) -> Subject | None:
    """The caller as the route sees it. Raises Refusal for a credential that does not count on a route that requires
    authentication, and for a request that must come from an own page."""
    has_bearer = caller is not None and caller.kind != "session" and route.authentication != "none"
    if route.own_page and policy.browsers is not None and not has_bearer:
        missing = policy.browsers.missing_proof(host, request.page_fields)
        if missing:
            raise Refusal("cross_site", missing, route=route.name)
    if caller is None or route.authentication == "none":
        return None
    if caller.kind == "session" and not _counts_cookies(policy, host):
        return None
    refusal = _unusable(policy, route, request, caller)
    if refusal is None:
        return caller
    if route.authentication == "optional":
        return None
    raise refusal


def _unusable(policy: Policy, route: Route, request: PolicyRequest, caller: Subject) -> Refusal | None:
    """The reason why a credential does not count: `cross_site`, `credential_not_allowed` or `user_inactive`."""
    refusal = None
    if caller.kind == "session" and policy.browsers is not None:
        fields = request.page_fields
        refusal = policy.browsers.check_page(route, request.method, fields, can_write=request.websocket)
    refusal = refusal or check_kind(route, caller.kind)
    if refusal is None and not caller.is_active:
        refusal = Refusal("user_inactive", "the account is disabled or does not exist", presented=True)
    return refusal


def _counts_cookies(policy: Policy, host: bytes | None) -> bool:
    """Whether a cookie is a credential. A request without a host is for the host of `server.public_url`."""
    return policy.browsers is not None and (host is None or host in policy.browsers.origins.hosts)


def _navigation(
    policy: Policy,
    route: Route | None,
    target: RequestTarget | None,
    host: bytes | None,
    request: PolicyRequest,
    caller: Subject | None,
    refusal: Refusal | None,
) -> str | None:
    """The location for a browser that navigates, which sends a cookie or no credential."""
    if refusal is None or route is None or target is None or policy.browsers is None or request.websocket:
        return None
    by_browser = request.method in (b"GET", b"HEAD") and (caller is None or caller.kind == "session")
    return (
        policy.browsers.page_for(refusal.code, route, target) if by_browser and _counts_cookies(policy, host) else None
    )


# Parse a request written on a command line or in a test, byte for byte as a client would send it.
#
# Nothing is decoded, cleaned or completed, so the gateway's own checks see the input unchanged.
_URL: Final = re.compile(rb"(https?|wss?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


def parse_request_line(method: str, url: str, *, websocket: bool = False) -> PolicyRequest:
    """The request for a URL or a path. `ws://` or `websocket` makes it a WebSocket handshake.

    Raises InvalidValue if the text is not a request.
    """
    raw = os.fsencode(url)
    host, target = None, raw
    whole = _URL.fullmatch(raw)
    if whole is not None:
        # RFC 9112 3.2.1: a client sends `/` for a URL without a path.
        host, target = whole[2], whole[3] if whole[3].startswith(b"/") else b"/" + whole[3]
        websocket = websocket or whole[1].lower() in (b"ws", b"wss")
    elif not raw.startswith(b"/") and raw != b"*":
        raise InvalidValue("must begin with '/' or http://", f"/{url.lstrip('/')}")
    if websocket and method != "GET":
        raise InvalidValue("must be a GET: a WebSocket handshake is one (RFC 6455 4.1)")
    return PolicyRequest(method_name(method).encode("ascii"), target, host, websocket=websocket)
