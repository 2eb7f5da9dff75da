"""Descriptions of routes for reports. Decisions do not use them."""

from collections.abc import Iterator
from typing import Final

from gateway.analysis.access import CallerKind
from gateway.policy.patterns import Pattern
from gateway.policy.route import Conditions, Route
from gateway.settings.model import CorsSettings, RateLimitSettings, Unset
from gateway.settings.types import format_duration, format_size

KIND_WORDS: Final = {
    "session": "the session cookie",
    "token": "a token",
    "api_key": "an API key",
    "external": "an external token",
}
# The words for a key that is not set.
_ABSENT: Final = {"max_body": "that of the server", "credentials": "all", "sign_in": "that of sessions"}


def callers_in_words(route: Route | None, code: str = "") -> str:
    """The callers that a route admits, for example `role admin or editor, or the user {id}`."""
    if route is None or not route.is_served:
        return "no caller (405)" if code == "method_not_allowed" else "no caller (404)"
    if route.refusal is not None:
        return f"no caller ({route.refusal})"
    requirement = route.requirement
    groups = []
    if requirement.any is not None:
        groups.append(_listed(requirement.any, "or"))
    if requirement.all is not None:
        groups.append(_listed(requirement.all, "and"))
    owner = f"the user {{{requirement.owner}}}" if requirement.owner is not None else ""
    roles = " and ".join(groups)
    conditions = conditions_in_words(route.conditions)
    behind = f" ({', '.join(conditions)})" if conditions else ""
    if roles or owner:
        return ", or ".join(each for each in (roles, owner) if each) + behind
    return ("any signed-in user" if route.authentication == "required" else "everyone") + behind


def caller(kind: CallerKind, *routes: Route | None) -> str:
    """One kind of caller. `routes` provide the name of the capture for an owner."""
    if kind.anonymous:
        return "everyone, without signing in"
    return ", ".join([_user(kind, routes), *_facts(kind)])


def _user(kind: CallerKind, routes: tuple[Route | None, ...]) -> str:
    if kind.owner is not None:
        name = next((name for name in _names(kind.owner, routes)), f"segment {kind.owner}")
        return f"the user {name}"
    return _listed(kind.roles, "and") if kind.roles else "any signed-in user"


def _facts(kind: CallerKind) -> Iterator[str]:
    if kind.credential is not None:
        yield f"with {KIND_WORDS[kind.credential]}"
    if kind.older_than is not None:
        yield f"signed in more than {format_duration(kind.older_than)} ago"
    if kind.unverified:
        yield "whose address is not verified"
    if kind.foreign_page:
        yield "from pages of other sites"


def conditions_in_words(conditions: Conditions | None) -> list[str]:
    """The conditions of a route, each in a few words: `fresh 10m`, `verified`, `session only`, `own page`."""
    if conditions is None:
        return []
    words = [] if conditions.fresh is None else [f"fresh {format_duration(conditions.fresh)}"]
    words += ["verified"] if conditions.verified else []
    words += [] if conditions.kinds is None else [f"{', '.join(sorted(conditions.kinds))} only"]
    return words + (["own page"] if conditions.same_origin else [])


def methods_of(route: Route) -> list[str]:
    """The methods of a route; none for all. HEAD is implied by GET."""
    methods = sorted(method.decode() for method in route.methods or ())
    return [method for method in methods if method != "HEAD" or "GET" not in methods]


def label_of(route: Route) -> str:
    """The methods, host and path of a route."""
    methods = "" if route.methods is None else f"{','.join(methods_of(route))} "
    return f"{methods}{'' if route.host is None else route.host.decode()}{route.pattern}"


def methods(names: tuple[str, ...] | None, others: tuple[str, ...]) -> str:
    """For example `GET, PUT`, without the HEAD implied by GET, or `all methods but DELETE`."""
    if names is None:
        return "all methods" + (f" but {methods(others, ())}" if others else "")
    return ", ".join(name for name in names if name != "HEAD" or "GET" not in names)


def intersection_pattern(one: Route | None, other: Route | None) -> str:
    """The pattern of the paths that both routes match, with the capture names of `other`. If one route is None, the
    pattern of the remaining one."""
    shapes = [route.shape for route in (other, one) if route is not None]
    if len(shapes) == 1:
        return shapes[0].text
    first, second = (_parts(shape) for shape in shapes)
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    met = [_narrower(a, b) for a, b in zip(longer, shorter, strict=False)] + longer[len(shorter) :]
    has_rest = all(shape.has_rest for shape in shapes if len(_parts(shape)) == len(longer))
    return "/" + "/".join([*met, "**"] if has_rest else met)


def wording_of(name: str, route: Route) -> str:
    """A setting of a route as written in the file."""
    settings = route.settings
    if settings is None:
        return "-"
    if name == "rewrite":
        if settings.strip_prefix is not None:
            return f"strip_prefix: {settings.strip_prefix}"
        return "unchanged" if settings.rewrite is None else f"rewrite: {settings.rewrite}"
    if name == "forward_credentials":
        return _value(name, route.passes_credentials)
    return _value(name, getattr(settings, name))


def _value(name: str, value: object) -> str:
    match value:
        case None:
            return _ABSENT.get(name, "none")
        case Unset():
            return "that of the upstream"
        case bool():
            return str(value).lower()
        case tuple():
            return ", ".join(sorted(map(str, value)))
        case RateLimitSettings():
            return f"{value.requests} per {format_duration(value.per)} by {value.by}"
        case CorsSettings():
            return f"origins {', '.join(value.origins)}"
        case int() if name == "max_body":
            return format_size(value)
        case float():
            return format_duration(value)
    return str(value)


def _parts(shape: Pattern) -> list[str]:
    parts = [part for part in shape.text[1:].split("/") if part]
    return parts[:-1] if shape.has_rest else parts


def _narrower(one: str, other: str) -> str:
    return other if one.startswith("{") and not other.startswith("{") else one


def _names(number: int, routes: tuple[Route | None, ...]) -> list[str]:
    return [
        f"{{{name}}}"
        for route in routes
        if route is not None
        for name, place in route.captures
        if place == number and name == route.requirement.owner
    ]


def _listed(roles: frozenset[str], word: str) -> str:
    return f"role{'s' if len(roles) > 1 and word == 'and' else ''} {f' {word} '.join(sorted(roles))}"
