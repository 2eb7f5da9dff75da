"""Explanations as text, line by line."""

from collections.abc import Iterator
from typing import Final

import click

from gateway.analysis.candidates import RouteCandidate
from gateway.analysis.describe import KIND_WORDS, conditions_in_words
from gateway.analysis.explain import Explanation, Person, ShadowTrial, capture_texts
from gateway.cli.explain_json import identity, limit_of, page_may_read, text_of
from gateway.observability.escaping import printable
from gateway.policy.route import Requirement, Route
from gateway.settings.model import Settings
from gateway.settings.types import LONGEST, format_duration

_WIDTH: Final = 12


def lines(explanation: Explanation, settings: Settings) -> Iterator[str]:
    """The explanation as styled lines. The caller strips the style where necessary."""
    verdict = explanation.verdict
    yield _line("request", text_of(explanation.request.method) + " " + _request(explanation))
    yield _line("caller", _caller(explanation.person))
    yield from _roles(explanation, settings)
    yield from _credential(explanation)
    if verdict.target is not None:
        yield _line("path", text_of(verdict.target.path))
    yield from _considered(explanation.candidates)
    if verdict.route is not None:
        yield _line("route", f"{click.style(verdict.route.name, bold=True)}  {place_of(verdict.route)}")
        for name, value in capture_texts(verdict).items():
            yield _line("capture", f"{name} = {printable(value)}")
        yield _line("asks", asks_in_words(verdict.route))
        yield from _besides(explanation, verdict.route)
    yield from _upstream(explanation, settings)
    yield _line("decision", _decision(explanation))
    if verdict.navigation is not None:
        yield _line("navigation", f"a browser that navigates gets 303 to {verdict.navigation}")
    if explanation.tried is not None:
        yield _line("shadow", _shadow(explanation.tried))


def _shadow(tried: ShadowTrial) -> str:
    refusal = tried.verdict.refusal
    would = "let it through" if refusal is None else f"refuse it: {refusal.status} {refusal.code}"
    return f"rule {tried.rule.name} would {would}  {place_of(tried.rule)}"


def place_of(route: Route) -> str:
    """The position of a route: `config/gateway.yaml:14:5`."""
    position = route.position
    return f"{position.file}:{position.line}:{position.column}" if position else "the gateway's own endpoint"


def asks_in_words(route: Route) -> str:
    """The requirements of a route, in words."""
    if route.refusal is not None:
        return f"nothing, because it refuses every caller ({route.refusal})"
    requirement = _requirement(route.requirement) or route.condition
    conditions = "".join(f"; {each}" for each in conditions_in_words(route.conditions))
    if requirement:
        return requirement + conditions
    words = {
        "none": "nothing: it is open to everyone",
        "optional": "nothing, but the identity of a signed-in user is passed on",
        "required": "a signed-in user",
    }
    return words[route.authentication] + conditions


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


def _line(label: str, text: str) -> str:
    return f"{click.style(f'{label:<{_WIDTH}}', dim=True)}{text}"


def _request(explanation: Explanation) -> str:
    request = explanation.request
    where = text_of(request.target) if request.host is None else f"{text_of(request.target)} at {text_of(request.host)}"
    how = ["a WebSocket handshake"] if request.websocket else []
    if request.preflight:
        how.append("a CORS preflight")
    if request.origin is not None:
        how.append(f"from a page of {text_of(request.origin)}")
    return f"{where}  ({', '.join(how)})" if how else where


def _caller(person: Person | None) -> str:
    if person is None:
        return "anonymous"
    if person.state == "unknown":
        return f"{printable(person.id)}: unknown account, treated as deleted"
    name = printable(f"{person.email} ({person.id})" if person.email else person.id)
    disabled = ", whose account is disabled" if person.state == "disabled" else ""
    return f"{name}{disabled}" if name else "a signed-in user"


def _roles(explanation: Explanation, settings: Settings) -> Iterator[str]:
    if explanation.person is None or explanation.person.state == "unknown":
        return
    declared = settings.roles
    parts = []
    for held in explanation.held:
        unknown = " (not declared)" if declared is not None and held.role not in declared else ""
        parts.append(held.role + (f" (by {' > '.join(held.by)})" if held.by else unknown))
    yield _line("roles", printable(", ".join(parts)) or "none")


def _credential(explanation: Explanation) -> Iterator[str]:
    """The credential, unless it and the conditions of the route are the usual ones."""
    person, route = explanation.person, explanation.verdict.route
    if person is None:
        return
    kind, age = person.credential
    conditions = None if route is None else route.conditions
    if kind == "token" and not age and person.email_verified and conditions is None:
        return
    parts = [KIND_WORDS[kind]]
    if kind in ("session", "token") and 0 <= age <= LONGEST:
        parts.append(f"signed in {format_duration(age)} ago")
    parts.append("address verified" if person.email_verified else "address not verified")
    yield _line("credential", ", ".join(parts))
    if explanation.proof is not None:
        yield _line("own page", explanation.proof)


def _considered(candidates: tuple[RouteCandidate, ...]) -> Iterator[str]:
    for number, each in enumerate(candidates):
        mark = click.style("lost", fg="yellow") if each.lost else click.style("won ", fg="green")
        yield _line("" if number else "considered", f"{mark} {each.route.name}  {_dim(place_of(each.route))}")
        if each.lost:
            yield _line("", f"     {printable(each.lost)}")


def _besides(explanation: Explanation, route: Route) -> Iterator[str]:
    """The rate limit, which only a running gateway counts, and CORS, which only browsers enforce."""
    limit, readable = limit_of(route), page_may_read(explanation)
    if limit is not None:
        counted = f"{limit['requests']} requests per {limit['per']}, by {limit['by']}"
        yield _line("limit", f"{counted}; a running gateway counts them")
    if readable is not None:
        yield _line(
            "page", "may read the answer" if readable else "browsers keep the answer from it: cors does not list it"
        )


def _upstream(explanation: Explanation, settings: Settings) -> Iterator[str]:
    route, sent = explanation.verdict.route, explanation.sent
    if route is None or route.upstream is None or sent is None:
        return
    yield _line("upstream", f"{route.upstream}: {text_of(explanation.request.method)} {text_of(sent)}")
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
