"""Simulate the gate's decision without a running gateway.

    path ─▶ host ─▶ route ─▶ method ─▶ handshake ─▶ user ─▶ roles ─▶ SimulationResult
                      └─▶ a preflight is answered

`locate` and `authorize` are the functions that the gate calls. Runtime state is left out: tokens (the caller is given
as the result of token and record), rate limit counts, and upstreams.
"""

from typing import Final, NamedTuple

from gateway.errors import Refusal, without_traceback
from gateway.policy.cors import Preflight
from gateway.policy.decide import PreflightAnswer, RefusedAtRoute, WebSocketHandshake, authorize, locate
from gateway.policy.policy import Policy
from gateway.policy.rewrite import Captures
from gateway.policy.route import Route
from gateway.wire.hosts import canonical_host
from gateway.wire.paths import RequestTarget, canonical_target


class PolicyRequest(NamedTuple):
    """The part of a request that a policy decides on.

    `target` is the request target as sent, `host` the value of Host, None without one. `origin` is the origin of the
    page. With `preflight` the request is the browser's preflight for the described request.
    """

    method: bytes
    target: bytes
    host: bytes | None = None
    origin: bytes | None = None
    websocket: bool = False
    preflight: bool = False


class Subject(NamedTuple):
    """A signed-in caller: id, roles including implied ones, and whether the account is active. Anonymous callers are
    None."""

    id: str
    roles: frozenset[str]
    is_active: bool = True


class SimulationResult(NamedTuple):
    """The simulated decision. `refusal` is None if the request is allowed.

    `route` is the matching route, including one that refuses; None without a match. `caller` is the caller as the route
    sees it: None for anonymous callers, and on routes without authentication. `answered` marks a preflight that the
    gateway answers itself.
    """

    refusal: Refusal | None
    route: Route | None = None
    captures: Captures = ()
    target: RequestTarget | None = None
    host: bytes | None = None
    caller: Subject | None = None
    answered: bool = False

    @property
    def is_allowed(self) -> bool:
        return self.refusal is None

    @property
    def status(self) -> int | None:
        """The status of the refusal; None if the upstream or a built-in endpoint determines the status."""
        return self.refusal.status if self.refusal is not None else _ANSWERED if self.answered else None


_ANSWERED: Final = 204


def simulate(policy: Policy, asked: PolicyRequest, caller: Subject | None) -> SimulationResult:
    """Decide a request; a `caller` of None is anonymous. Never raises Refusal."""
    target = host = route = None
    captures: Captures = ()
    try:
        target = canonical_target(asked.target, relaxed=policy.relaxed)
        host = None if asked.host is None else canonical_host(asked.host)
        method = b"OPTIONS" if asked.preflight else asked.method
        located = locate(policy, host, target, method, _kind(asked))
        if isinstance(located, PreflightAnswer):
            return SimulationResult(None, located.route, (), target, host, answered=True)
        if isinstance(located, RefusedAtRoute):
            return SimulationResult(located.refusal, located.route, located.captures, target, host)
        route, captures = located
        caller = _looked_up(route, caller)
        refusal = authorize(route, captures, caller)
    except Refusal as error:
        refusal, caller = without_traceback(error), None
    return SimulationResult(refusal, route, captures, target, host, caller)


def _kind(asked: PolicyRequest) -> Preflight | WebSocketHandshake | None:
    if asked.preflight and asked.origin is not None:
        return Preflight(asked.origin, asked.method, b"")
    return WebSocketHandshake(asked.origin) if asked.websocket else None


def _looked_up(route: Route, caller: Subject | None) -> Subject | None:
    """The caller as the route sees it. Raises Refusal `user_inactive` for a disabled account on a route that requires
    authentication."""
    if caller is None or route.authentication == "none":
        return None
    if caller.is_active:
        return caller
    if route.authentication == "optional":
        return None
    raise Refusal("user_inactive", "the account is disabled or does not exist", presented=True)
