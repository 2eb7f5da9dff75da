"""The policy's part of a decision, in two steps: `locate` finds the route, `authorize` judges the principal.

Both are pure. The gate calls them for requests, the policy tools for questions. Refusals carry a private reason.
"""

from functools import partial
from math import inf
from typing import NamedTuple, Protocol

from gateway.errors import Refusal, reauthentication_required
from gateway.policy.cors import Preflight, origin_allowed
from gateway.policy.policy import Match, Policy
from gateway.policy.rewrite import Captures
from gateway.policy.roles import RoleHierarchy
from gateway.policy.route import NOTHING_MORE, Requirement, Route
from gateway.wire.fields import Field
from gateway.wire.paths import RequestTarget, decoded_segment

__all__ = [
    "PreflightAnswer",
    "PrincipalLike",
    "RefusedAtRoute",
    "RoleHierarchy",
    "WebSocketHandshake",
    "authorize",
    "check_kind",
    "check_sign_in",
    "locate",
]


class PrincipalLike(Protocol):
    """The part of a principal that authorization needs. `roles` contains implied roles."""

    @property
    def id(self) -> str: ...

    @property
    def roles(self) -> frozenset[str]: ...


class WebSocketHandshake(NamedTuple):
    """A WebSocket handshake. `origin` is that of the page; None from other clients."""

    origin: bytes | None


class PreflightAnswer(NamedTuple):
    """The response to an allowed preflight, and the route of the request it announces."""

    route: Route
    fields: tuple[Field, ...]


class RefusedAtRoute(NamedTuple):
    """A preflight or a handshake that the matching route refuses to any caller."""

    route: Route
    captures: Captures
    refusal: Refusal


def locate(
    policy: Policy,
    host: bytes | None,
    target: RequestTarget,
    method: bytes,
    kind: Preflight | WebSocketHandshake | None,
) -> Match | PreflightAnswer | RefusedAtRoute:
    """The route of a request. `kind` is None for plain requests. Raises Refusal if no route takes the request.

    A preflight is answered for the route of the request it announces. If no route serves that request, or the route has
    no `cors`, the preflight is an OPTIONS request like any other.
    """
    if kind is None:
        return policy.match(host, target, method)
    if isinstance(kind, Preflight):
        return _preflight_answer(policy, host, target, kind) or policy.match(host, target, method)
    match = policy.match(host, target, method)
    route, captures = match
    if not route.websocket:
        return RefusedAtRoute(route, captures, Refusal("websocket_not_allowed"))
    if not origin_allowed(route.cors, kind.origin):
        refusal = Refusal("origin_not_allowed", "the handshake of a page that cors does not list")
        return RefusedAtRoute(route, captures, refusal)
    return match


def _preflight_answer(
    policy: Policy, host: bytes | None, target: RequestTarget, preflight: Preflight
) -> PreflightAnswer | RefusedAtRoute | None:
    try:
        route = policy.match(host, target, preflight.method).route
    except Refusal:
        return None
    if route.cors is None:
        return None
    fields = route.cors.answer(preflight)
    if fields is None:
        return RefusedAtRoute(route, (), Refusal("origin_not_allowed", "a preflight that cors does not allow"))
    return PreflightAnswer(route, fields)


def authorize(route: Route, captures: Captures, principal: PrincipalLike | None) -> Refusal | None:
    """None if the request is allowed, otherwise the refusal: `token_missing` without a principal, else `forbidden`.

    `principal` is None for an anonymous request: one without a credential, or with an invalid one under `auth:
    optional`.
    """
    requirement = route.requirement
    if principal is None:
        if route.refusal is not None:
            return Refusal(route.refusal, route=route.name)
        # Roles and owners need a signed-in user, even without `auth: required`.
        if route.authentication != "required" and requirement == NOTHING_MORE:
            return None
        return Refusal("token_missing", "the route requires a signed-in user", route=route.name)
    if requirement is NOTHING_MORE or _is_met(requirement, captures, principal):
        return None
    refusal = Refusal("forbidden", partial(_why_not, requirement, principal))
    refusal.route = route.name  # Cheaper than a keyword, and the most frequent refusal.
    return refusal


def check_kind(route: Route, kind: str) -> Refusal | None:
    """Refusal `credential_not_allowed` for a kind of credential that the route does not accept."""
    kinds = None if route.conditions is None else route.conditions.kinds
    if kinds is None or kind in kinds:
        return None
    reason = f"accepts {_listed(kinds)}; the credential is of the kind {kind}"
    return Refusal("credential_not_allowed", reason, route=route.name)


def check_sign_in(route: Route, *, age: float | None, verified: bool) -> Refusal | None:
    """The refusal for a sign-in that is too old, or an address that is not verified.

    `age` is in seconds, infinite without a known sign-in. None: it is not judged.
    """
    conditions = route.conditions
    if conditions is None:
        return None
    if conditions.fresh is not None and age is not None and age > conditions.fresh:
        found = "the credential says nothing about a sign-in" if age == inf else f"the sign-in is {age:.0f} s old"
        refusal = reauthentication_required(
            conditions.fresh, f"needs a sign-in of the last {conditions.fresh:.0f} s; {found}"
        )
        refusal.route = route.name
        return refusal
    if conditions.verified and not verified:
        return Refusal("email_unverified", "the address of the user is not verified", route=route.name)
    return None


def _is_met(requirement: Requirement, captures: Captures, principal: PrincipalLike) -> bool:
    if requirement.names_roles and _has_roles(requirement, principal.roles):
        return True
    if requirement.owner is not None:
        return _is_owner(requirement.owner, captures, principal.id)
    return not requirement.names_roles


def _has_roles(requirement: Requirement, roles: frozenset[str]) -> bool:
    return (requirement.any is None or not requirement.any.isdisjoint(roles)) and (
        requirement.all is None or requirement.all <= roles
    )


def _is_owner(owner: str, captures: Captures, user_id: str) -> bool:
    """Whether the capture holds the user's id. Compared as bytes, because a capture can be invalid UTF-8."""
    user = user_id.encode("utf-8", "surrogatepass")
    return any(name == owner and decoded_segment(value) == user for name, value in captures)


def _why_not(requirement: Requirement, principal: PrincipalLike) -> str:
    groups = []
    if requirement.any is not None:
        groups.append(f"one of the roles {_listed(requirement.any)}")
    if requirement.all is not None:
        groups.append(f"all of the roles {_listed(requirement.all)}")
    needs = " and ".join(groups)
    if requirement.owner is not None:
        needs = f"{needs}, or to be" if needs else "to be"
        needs += f" the user of the capture {requirement.owner!r}"
    who = repr(principal.id) if principal.id else "the caller"
    has = f"the roles {_listed(principal.roles)}" if principal.roles else "no role"
    return f"needs {needs}; {who} has {has}"


def _listed(roles: frozenset[str]) -> str:
    return ", ".join(sorted(roles)) or "(none)"
