"""An explanation as it is shown: lines for a person, and a document for a program.

The document is a promise (docs/policy.md): keys are added, never renamed.
"""

from collections.abc import Iterator
from typing import Any, Final

import click

from gateway.identity.principals import identity_roles, identity_value
from gateway.operations.escaping import printable
from gateway.policy.candidates import Candidate
from gateway.policy.explain import Explanation, Person, Tried, capture_texts
from gateway.policy.route import Requirement, Route
from gateway.settings.model import Settings
from gateway.settings.units import format_duration

_WIDTH: Final = 12
_ALLOW_ORIGIN: Final = frozenset((b"access-control-allow-origin",))


def lines(explanation: Explanation, settings: Settings) -> Iterator[str]:
    """The explanation for a person. Styled: whoever prints it takes that out where it is not wanted."""
    verdict = explanation.verdict
    yield _line("request", _text(explanation.asked.method) + " " + _request(explanation))
    yield _line("caller", _caller(explanation.person))
    yield from _roles(explanation, settings)
    if verdict.target is not None:
        yield _line("path", _text(verdict.target.path))
    yield from _considered(explanation.candidates)
    if verdict.route is not None:
        yield _line("route", f"{click.style(verdict.route.name, bold=True)}  {place_of(verdict.route)}")
        for name, value in capture_texts(verdict).items():
            yield _line("capture", f"{name} = {printable(value)}")
        yield _line("asks", asks_in_words(verdict.route))
        yield from _besides(explanation, verdict.route)
    yield from _upstream(explanation, settings)
    yield _line("decision", _decision(explanation))
    if explanation.tried is not None:
        yield _line("shadow", _shadow(explanation.tried))


def _shadow(tried: Tried) -> str:
    refusal = tried.verdict.refusal
    would = "let it through" if refusal is None else f"refuse it: {refusal.status} {refusal.code}"
    return f"rule {tried.rule.name} would {would}  {place_of(tried.rule)}"


def document(explanation: Explanation, settings: Settings) -> dict[str, Any]:
    """The explanation for a program."""
    asked, verdict = explanation.asked, explanation.verdict
    return {
        "request": {
            "method": _text(asked.method),
            "host": None if asked.host is None else _text(asked.host),
            "target": _text(asked.target),
            "origin": None if asked.origin is None else _text(asked.origin),
            "websocket": asked.websocket,
            "preflight": asked.preflight,
        },
        "path": None if verdict.target is None else _text(verdict.target.path),
        "caller": caller_document(explanation),
        "candidates": [_candidate(each) for each in explanation.candidates],
        "route": None if verdict.route is None else route_document(verdict.route),
        "captures": capture_texts(verdict),
        "limit": None if verdict.route is None else _limit(verdict.route),
        "page_may_read": _page_may_read(explanation),
        "decision": decision_document(explanation),
        "upstream": _upstream_document(explanation, settings),
        "shadow": _shadow_document(explanation.tried),
    }


def _shadow_document(tried: Tried | None) -> dict[str, Any] | None:
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
    """The decision alone. `status` and `code` are null where an upstream or an own endpoint answers."""
    refusal = explanation.verdict.refusal
    return {
        "allowed": explanation.verdict.is_allowed,
        "status": explanation.verdict.status,
        "code": None if refusal is None else refusal.code,
        "reason": explanation.reason,
    }


def caller_document(explanation: Explanation) -> dict[str, Any]:
    """Who asks. `roles` are all, each with the chain of roles that implies it; empty for the caller's own."""
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
    """A route, what it asks and where it stands. The gateway's own stand in no file."""
    position, requirement = route.position, route.requirement
    return {
        "name": route.name,
        "path": route.pattern,
        "host": None if route.host is None else _text(route.host),
        "methods": None if route.methods is None else sorted(map(_text, route.methods)),
        "own": route.upstream is None,
        "file": position.file if position else None,
        "line": position.line if position else None,
        "column": position.column if position else None,
        "authentication": route.authentication,
        "any": _sorted(requirement.any),
        "all": _sorted(requirement.all),
        "owner": requirement.owner,
    }


def identity(explanation: Explanation, settings: Settings) -> dict[str, str]:
    """The identity headers that go with the request, as far as is known who asks."""
    caller, person, names = explanation.verdict.caller, explanation.person, settings.identity.headers
    if caller is None or person is None:
        return {}
    known = ((names.id, identity_value(person.id)), (names.email, identity_value(person.email)))
    headers = {name: value.decode("ascii") for name, value in known if value}
    return {**headers, names.roles: identity_roles(caller.roles).decode("ascii")}


def place_of(route: Route) -> str:
    """Where a route stands: `config/gateway.yaml:14:5`."""
    position = route.position
    return f"{position.file}:{position.line}:{position.column}" if position else "the gateway's own endpoint"


def asks_in_words(route: Route) -> str:
    """What a route asks of a caller."""
    asked = _requirement(route.requirement)
    if asked:
        return asked
    words = {
        "none": "nothing: it is open to everyone",
        "optional": "nothing, but who is signed in is made known",
        "required": "a signed-in user",
    }
    return words[route.authentication]


def _requirement(requirement: Requirement) -> str:
    parts = []
    if requirement.any is not None:
        parts.append(" or ".join(sorted(requirement.any)))
    if requirement.all is not None:
        parts.append("all of " + ", ".join(sorted(requirement.all)))
    roles = " and ".join(parts)
    if requirement.owner is None:
        return f"the role {roles}" if roles else ""
    return (
        f"the role {roles}, or to be the user of {{{requirement.owner}}}"
        if roles
        else f"to be the user of {{{requirement.owner}}}"
    )


# ---- lines


def _line(label: str, text: str) -> str:
    return f"{click.style(f'{label:<{_WIDTH}}', dim=True)}{text}"


def _request(explanation: Explanation) -> str:
    asked = explanation.asked
    where = _text(asked.target) if asked.host is None else f"{_text(asked.target)} at {_text(asked.host)}"
    how = ["a WebSocket handshake"] if asked.websocket else []
    if asked.preflight:
        how.append("asked beforehand by a browser")
    if asked.origin is not None:
        how.append(f"from a page of {_text(asked.origin)}")
    return f"{where}  ({', '.join(how)})" if how else where


def _caller(person: Person | None) -> str:
    if person is None:
        return "anonymous"
    if person.state == "unknown":
        return f"{printable(person.id)}: there is no such account, as if it had been deleted"
    name = printable(f"{person.email} ({person.id})" if person.email else person.id)
    disabled = ", whose account is disabled" if person.state == "disabled" else ""
    return f"{name}{disabled}" if name else "somebody who is signed in"


def _roles(explanation: Explanation, settings: Settings) -> Iterator[str]:
    if explanation.person is None or explanation.person.state == "unknown":
        return
    declared = settings.roles
    said = []
    for held in explanation.held:
        unknown = " (not declared)" if declared is not None and held.role not in declared else ""
        said.append(held.role + (f" (by {' > '.join(held.by)})" if held.by else unknown))
    yield _line("roles", printable(", ".join(said)) or "none")


def _considered(candidates: tuple[Candidate, ...]) -> Iterator[str]:
    for number, each in enumerate(candidates):
        mark = click.style("lost", fg="yellow") if each.lost else click.style("won ", fg="green")
        yield _line("" if number else "considered", f"{mark} {each.route.name}  {_dim(place_of(each.route))}")
        if each.lost:
            yield _line("", f"     {printable(each.lost)}")


def _besides(explanation: Explanation, route: Route) -> Iterator[str]:
    """What only a running gateway counts, and what only a browser heeds."""
    limit, readable = _limit(route), _page_may_read(explanation)
    if limit is not None:
        counted = f"{limit['requests']} requests per {limit['per']}, by {limit['by']}"
        yield _line("limit", f"{counted}; a running gateway counts them")
    if readable is not None:
        yield _line(
            "page", "may read the answer" if readable else "browsers keep the answer from it: cors does not list it"
        )


def _limit(route: Route) -> dict[str, Any] | None:
    limit = route.settings.rate_limit if route.settings is not None else None
    return None if limit is None else {"requests": limit.requests, "per": format_duration(limit.per), "by": limit.by}


def _page_may_read(explanation: Explanation) -> bool | None:
    """Whether the page that asks is shown the answer; None where no page asks, or the gateway itself decides on it."""
    asked, route = explanation.asked, explanation.verdict.route
    if asked.origin is None or asked.websocket or asked.preflight or route is None:
        return None
    return route.cors is not None and bool(
        _ALLOW_ORIGIN & {name for name, _ in route.cors.fields(asked.origin, asked.method)}
    )


def _upstream(explanation: Explanation, settings: Settings) -> Iterator[str]:
    route, sent = explanation.verdict.route, explanation.sent
    if route is None or route.upstream is None or sent is None:
        return
    yield _line("upstream", f"{route.upstream}: {_text(explanation.asked.method)} {_text(sent)}")
    yield _line("", _dim(f"at {', '.join(settings.upstreams[route.upstream].targets)}"))
    for name, value in identity(explanation, settings).items():
        yield _line("", f"{name}: {value}")


def _decision(explanation: Explanation) -> str:
    refusal, reason = explanation.verdict.refusal, printable(explanation.reason)
    if refusal is None:
        return f"{click.style('allowed', fg='green', bold=True)}: {reason}"
    return f"{click.style('refused', fg='red', bold=True)} {refusal.status} {refusal.code}: {reason}"


def _dim(text: str) -> str:
    return click.style(text, dim=True)


# ---- documents


def _candidate(each: Candidate) -> dict[str, Any]:
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
        "target": _text(sent),
        "identity": identity(explanation, settings),
    }


def _sorted(roles: frozenset[str] | None) -> list[str] | None:
    return None if roles is None else sorted(roles)


def _text(raw: bytes) -> str:
    """Bytes of a request as text: what is not visible ASCII is escaped, so that it does nothing to a terminal."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in raw)
