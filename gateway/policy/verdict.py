"""What would become of a request: the gate's decision without a running gateway.

    path ─▶ host ─▶ route ─▶ method ─▶ handshake ─▶ user ─▶ roles ─▶ Verdict
                      └─▶ a preflight is answered

The parts are those that the gate is made of, in its order, and a test compares the two. What only a running gateway
knows is left out: tokens (a caller is given as what its token and record come to), counts of rate limits, upstreams.
"""

from typing import Final, NamedTuple

from gateway.errors import Refusal, without_traceback
from gateway.policy.cors import Preflight
from gateway.policy.decide import authorize, check_handshake, preflight_answer
from gateway.policy.matcher import Policy
from gateway.policy.rewriting import Captures
from gateway.policy.route import Route
from gateway.wire.hosts import canonical_host
from gateway.wire.paths import Target, canonical_target


class Asked(NamedTuple):
    """A request, as far as a policy looks at it.

    `target` is the request target as it is sent, `host` the value of Host or None without one. `origin` is the page's
    that sends it; with `preflight`, what is asked is what its browser asks before it sends the request.
    """

    method: bytes
    target: bytes
    host: bytes | None = None
    origin: bytes | None = None
    websocket: bool = False
    preflight: bool = False


class Caller(NamedTuple):
    """Who sends a request: an id, the roles with all that they imply, and whether the account may sign in at all. An
    anonymous caller is None instead."""

    id: str
    roles: frozenset[str]
    is_active: bool = True


class Verdict(NamedTuple):
    """What became of a request. `refusal` is None where it may pass.

    `route` is the one that won, also where it refused; None where none won. `caller` is whom the route acts for: None
    on one that looks nobody up, and for an anonymous caller. `answered`: a preflight that the gateway answers itself.
    """

    refusal: Refusal | None
    route: Route | None = None
    captures: Captures = ()
    target: Target | None = None
    host: bytes | None = None
    caller: Caller | None = None
    answered: bool = False

    @property
    def is_allowed(self) -> bool:
        return self.refusal is None

    @property
    def status(self) -> int | None:
        """The status of the refusal; None where the upstream, or an own endpoint, says it."""
        return self.refusal.status if self.refusal is not None else _ANSWERED if self.answered else None


_ANSWERED: Final = 204


def decide(policy: Policy, asked: Asked, caller: Caller | None) -> Verdict:
    """The verdict on a request of a caller, None being an anonymous one. Never raises a Refusal."""
    target = host = route = None
    captures: Captures = ()
    try:
        target = canonical_target(asked.target, relaxed=policy.relaxed)
        host = None if asked.host is None else canonical_host(asked.host)
        if asked.preflight and asked.origin is not None:
            verdict = _preflight(policy, asked, host, target)
            if verdict is not None:
                return verdict
        route, captures = policy.match(host, target, b"OPTIONS" if asked.preflight else asked.method)
        if asked.websocket:
            check_handshake(route, asked.origin)
        caller = _looked_up(route, caller)
        refusal = authorize(route, captures, caller)
    except Refusal as error:
        refusal, caller = without_traceback(error), None
    return Verdict(refusal, route, captures, target, host, caller)


def _preflight(policy: Policy, asked: Asked, host: bytes | None, target: Target) -> Verdict | None:
    answer = preflight_answer(policy, host, target, Preflight(asked.origin or b"", asked.method, b""))
    if answer is None:
        return None
    if answer.fields is None:
        refusal = Refusal("origin_not_allowed", "a preflight for what cors does not allow")
        return Verdict(refusal, answer.route, (), target, host)
    return Verdict(None, answer.route, (), target, host, answered=True)


def _looked_up(route: Route, caller: Caller | None) -> Caller | None:
    """Whom a route acts for. Raises Refusal `user_inactive` where it asks for somebody who may not sign in."""
    if caller is None or route.authentication == "none":
        return None
    if caller.is_active:
        return caller
    if route.authentication == "optional":
        return None
    raise Refusal("user_inactive", "the account is disabled, or there is none", presented=True)
