"""Explanations as JSON. The format is stable (docs/policy.md): keys are added, never renamed."""

from typing import Any, Final

from gateway.analysis.candidates import RouteCandidate
from gateway.analysis.explain import Explanation, ShadowTrial, capture_texts
from gateway.identity.principal import forwards_only_verified, identity_roles, identity_value
from gateway.policy.route import NO_CONDITIONS, Conditions, Route
from gateway.settings.model import Settings
from gateway.settings.types import format_duration

_ALLOW_ORIGIN: Final = frozenset((b"access-control-allow-origin",))


def document(explanation: Explanation, settings: Settings) -> dict[str, Any]:
    """The explanation as JSON values."""
    request, verdict = explanation.request, explanation.verdict
    return {
        "request": {
            "method": text_of(request.method),
            "host": None if request.host is None else text_of(request.host),
            "target": text_of(request.target),
            "origin": None if request.origin is None else text_of(request.origin),
            "websocket": request.websocket,
            "preflight": request.preflight,
            "fetch_site": None if request.fetch_site is None else text_of(request.fetch_site),
        },
        "path": None if verdict.target is None else text_of(verdict.target.path),
        "caller": caller_document(explanation),
        **_credential_document(explanation),
        "candidates": [_candidate(each) for each in explanation.candidates],
        "route": None if verdict.route is None else route_document(verdict.route),
        "captures": capture_texts(verdict),
        "limit": None if verdict.route is None else limit_of(verdict.route),
        "page_may_read": page_may_read(explanation),
        "decision": decision_document(explanation),
        "navigation": verdict.navigation,
        "upstream": _upstream_document(explanation, settings),
        "shadow": _shadow_document(explanation.tried),
    }


def _credential_document(explanation: Explanation) -> dict[str, Any]:
    """The credential: its kind, the proof of an own page, the class and the age in seconds of the sign-in."""
    person, caller = explanation.person, explanation.verdict.caller
    if person is None:
        return {"credential": None, "proof": None, "acr": None, "age": None, "email_verified": None}
    kind, age = person.credential
    has_sign_in = kind in ("session", "token")
    counts = caller is not None
    return {
        "credential": {"kind": kind, "counts": counts},
        "proof": explanation.proof,
        "acr": "aal1" if has_sign_in else None,
        "age": age if has_sign_in else None,
        "email_verified": person.email_verified,
    }


def _shadow_document(tried: ShadowTrial | None) -> dict[str, Any] | None:
    if tried is None:
        return None
    refusal = tried.verdict.refusal
    return {
        "route": route_document(tried.rule),
        "allowed": refusal is None,
        "status": None if refusal is None else refusal.status,
        "code": None if refusal is None else refusal.code,
    }


def decision_document(explanation: Explanation) -> dict[str, Any]:
    """The decision. `status` and `code` are null if an upstream or a built-in endpoint answers."""
    refusal = explanation.verdict.refusal
    return {
        "allowed": explanation.verdict.is_allowed,
        "status": explanation.verdict.status,
        "code": None if refusal is None else refusal.code,
        "reason": explanation.reason,
    }


def caller_document(explanation: Explanation) -> dict[str, Any]:
    """The caller. `roles` lists all roles, each with the chain of roles that implies it; empty for its own roles."""
    person = explanation.person
    if person is None:
        return {"anonymous": True, "id": None, "email": None, "state": None, "roles": []}
    roles = [{"role": held.role, "by": list(held.by)} for held in explanation.held]
    return {
        "anonymous": False,
        "id": person.id or None,
        "email": person.email or None,
        "state": person.state,
        "roles": roles,
    }


def route_document(route: Route) -> dict[str, Any]:
    """A route, its requirements and its position. Built-in routes have no position."""
    position, requirement = route.position, route.requirement
    return {
        "name": route.name,
        "path": route.pattern,
        "host": None if route.host is None else text_of(route.host),
        "methods": None if route.methods is None else sorted(map(text_of, route.methods)),
        "own": route.upstream is None,
        "file": position.file if position else None,
        "line": position.line if position else None,
        "column": position.column if position else None,
        "authentication": route.authentication,
        "any": _sorted(requirement.any),
        "all": _sorted(requirement.all),
        "owner": requirement.owner,
        **conditions_document(route.conditions or NO_CONDITIONS),
    }


def conditions_document(conditions: Conditions) -> dict[str, Any]:
    """The conditions on the credential, under the keys of the route. `fresh` is in seconds."""
    return {
        "credentials": _sorted(conditions.kinds),
        "fresh": conditions.fresh,
        "verified": conditions.verified,
        "same_origin": conditions.same_origin,
    }


def identity(explanation: Explanation, settings: Settings) -> dict[str, str]:
    """The identity headers sent to the upstream, as far as the caller is known."""
    caller, person, names = explanation.verdict.caller, explanation.person, settings.identity.headers
    if caller is None or person is None:
        return {}
    hides = forwards_only_verified(settings.accounts.email) and not person.email_verified and "|" not in person.id
    email = "" if hides else person.email
    known = ((names.id, identity_value(person.id)), (names.email, identity_value(email)))
    headers = {name: value.decode("ascii") for name, value in known if value}
    return {**headers, names.roles: identity_roles(caller.roles).decode("ascii")}


def limit_of(route: Route) -> dict[str, Any] | None:
    """The rate limit of the route for one caller; None without a limit."""
    limit = route.settings.rate_limit if route.settings is not None else None
    return None if limit is None else {"requests": limit.requests, "per": format_duration(limit.per), "by": limit.by}


def page_may_read(explanation: Explanation) -> bool | None:
    """Whether the page of the request can read the response. None without a page or a route, and for handshakes and
    preflights, which the gateway decides itself."""
    request, route = explanation.request, explanation.verdict.route
    if request.origin is None or request.websocket or request.preflight or route is None:
        return None
    return route.cors is not None and bool(
        _ALLOW_ORIGIN & {name for name, _ in route.cors.fields(request.origin, request.method)}
    )


def _candidate(each: RouteCandidate) -> dict[str, Any]:
    position = each.route.position
    return {
        "route": each.route.name,
        "file": position.file if position else None,
        "line": position.line if position else None,
        "won": not each.lost,
        "reason": each.lost or None,
    }


def _upstream_document(explanation: Explanation, settings: Settings) -> dict[str, Any] | None:
    route, sent = explanation.verdict.route, explanation.sent
    if route is None or route.upstream is None or sent is None:
        return None
    return {
        "name": route.upstream,
        "targets": list(settings.upstreams[route.upstream].targets),
        "target": text_of(sent),
        "identity": identity(explanation, settings),
    }


def _sorted(roles: frozenset[str] | None) -> list[str] | None:
    return None if roles is None else sorted(roles)


def text_of(raw: bytes) -> str:
    """Decode bytes of a request. Bytes other than visible ASCII are escaped, so they cannot control a terminal."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in raw)
