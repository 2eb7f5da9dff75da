"""Draft the routes of a configuration from the operations of an OpenAPI document.

Scopes become roles of the same name. A draft is never laxer than the document: if a policy cannot express the security
of an operation, or one rule matches requests of several operations, the rule is stricter and a comment explains it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from itertools import count
from typing import Final, Literal, NamedTuple

from gateway.analysis.openapi.crossing import candidates, crossings, overlap, preferred
from gateway.analysis.openapi.spec import Security, Spec, SpecOperation
from gateway.policy.builtin_routes import own_routes, reserved_for
from gateway.policy.patterns import Pattern, PatternError, Segments, parse_pattern
from gateway.settings.model import Settings

_PART: Final = re.compile(r"\{([^{}]*)\}")
_QUERY: Final = re.compile(r"(\{[^{}]*\})|[?#].*", re.DOTALL)
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]")
_INVISIBLE: Final = re.compile(r"[^!-~]+")
_LONGEST_NAME: Final = 120
_CLOSED: Final = "left-out"  # the role of closed routes
# Alternatives with several scopes become a rule that requires all of them, so dropping alternatives is never laxer.
_MOST_ALTERNATIVES: Final = 64


Openness = Literal["open to everyone", "open, with identity", "any signed-in user", "by role", "closed"]


class DraftRoute(NamedTuple):
    """One route: pattern, name, method (None for all), `access` as configuration keys, roles, and remarks."""

    path: str
    name: str | None
    method: str | None
    access: str
    roles: frozenset[str]
    remarks: tuple[str, ...]
    openness: Openness


class PolicyDraft(NamedTuple):
    """The routes, general remarks, and the number of operations without a route."""

    routes: tuple[DraftRoute, ...]
    remarks: tuple[str, ...]
    left_out: int

    @property
    def open_routes(self) -> tuple[DraftRoute, ...]:
        """The routes that accept requests without a credential."""
        return tuple(route for route in self.routes if route.openness.startswith("open"))


def draft(spec: Spec) -> PolicyDraft:
    """Draft the routes of a document."""
    drafting = _Drafting(spec)
    routes = tuple(drafting.routes())
    return PolicyDraft(routes, (*spec.remarks, *drafting.remarks), spec.left_out + drafting.left_out)


def pattern_of(path: str) -> tuple[Pattern, tuple[str, ...]]:
    """Return the pattern of a path template, with remarks on differences. Raises PatternError.

    Some documents distinguish operations by a query or a fragment in the template, which patterns do not match.
    """
    remarks: list[str] = []
    names: set[str] = set()
    parts = [_segment(part, names, remarks) for part in _without_query(path).split("/")]
    return parse_pattern("/".join(parts)), tuple(remarks)


def _without_query(path: str) -> str:
    return _QUERY.sub(lambda found: found[1] or "", path)


def _segment(part: str, names: set[str], remarks: list[str]) -> str:
    found = _PART.findall(part)
    if not found:
        return part.replace("*", "%2A")  # path templates have no wildcards
    name = _NOT_IN_NAMES.sub("_", "_".join(found)) or "value"
    name = name if name[0].isalpha() or name[0] == "_" else f"_{name}"
    while name in names:
        name += "_"
    names.add(name)
    if part != f"{{{found[0]}}}":
        remarks.append(f"the whole segment is matched, not only {part}")
    elif name != found[0]:
        remarks.append(f"{part} is renamed to {{{name}}}")
    return f"{{{name}}}"


class _Group(NamedTuple):
    """The operations of one route, with the pattern and remarks of the first."""

    pattern: Pattern
    remarks: tuple[str, ...]
    method: str
    operations: list[SpecOperation]

    @property
    def security(self) -> Security:
        """The security that satisfies every operation. Each of them has some."""
        return reduce(_both, (each.security for each in self.operations if each.security))


class _Place(NamedTuple):
    """The requests of an operation that is left out, with one method or all."""

    pattern: Pattern
    method: str | None

    def meets(self, group: _Group) -> bool:
        """Whether some request matches both this place and the group."""
        return self.method in (None, group.method) and overlap(self.pattern.segments, group.pattern.segments)


class _Drafting:
    def __init__(self, spec: Spec) -> None:
        self.remarks: list[str] = []
        self.left_out = 0
        self._spec = spec
        self._own = own_routes(Settings())
        self._names = {route.name for route in self._own}

    def routes(self) -> Iterator[DraftRoute]:
        """One route per pattern and method. GET and HEAD share a route, because GET includes HEAD.

        Requests for an operation that is left out could match a broader pattern, so a closed route is added for it.
        """
        drafted: list[_Group] = []
        unknown: dict[object, _Place] = {(place.pattern.shape, None): place for place in self._unknown_places()}
        groups, split_by_query = self._groups()
        unknown |= {(place.pattern.shape, place.method): place for place in split_by_query}
        for group in groups:
            if (group.pattern.shape, None) in unknown:
                self._leave_out_all(group)
            elif any(each.security is None for each in group.operations):
                self._leave_out_all(group)
                unknown[group.pattern.shape, group.method] = _Place(group.pattern, group.method)
            else:
                drafted.append(group)
        closed = [place for place in unknown.values() if any(map(place.meets, drafted))]
        yield from map(self._route, drafted)
        yield from map(self._closed_route, closed)
        yield from self._crossing_routes(drafted, closed)

    def _crossing_routes(self, drafted: list[_Group], closed: list[_Place]) -> Iterator[DraftRoute]:
        """Yield routes for requests that match two templates with different requirements. The routes combine both
        requirements.

        Each takes precedence over another route for its paths, so it has all methods of that route.
        """
        rules: dict[Segments, dict[str | None, Security | None]] = {}
        for group in drafted:
            rules.setdefault(group.pattern.segments, {})[group.method] = group.security
        for place in closed:
            rules.setdefault(place.pattern.segments, {})[place.method] = None
        templates = list(rules)
        for pattern in crossings([*(group.pattern for group in drafted), *(place.pattern for place in closed)]):
            winner = preferred(pattern.segments, templates)
            own = rules[winner]
            meant = [rules[each] for each in candidates(pattern.segments, templates) if each != winner]
            shared = {method: _shared(method, security, meant) for method, security in own.items()}
            if any(_kind(shared[method]) != _kind(security) for method, security in own.items()):
                for method, security in shared.items():
                    place = _Place(pattern, method)
                    yield self._closed_route(place) if security is None else _crossing_route(place, security)

    def _groups(self) -> tuple[list[_Group], list[_Place]]:
        """Return the groups, and the places of operations that only a query or a fragment distinguishes from others.

        These operations share the rule of their path. They are left out if the path has no other operation.
        """
        groups: dict[object, _Group] = {}
        by_query: list[tuple[_Place, SpecOperation]] = []
        for operation in self._spec.operations:
            try:
                pattern, remarks = pattern_of(operation.path)
            except PatternError as error:
                self._leave_out(operation, f"its path {error.wrong}")
                continue
            own = reserved_for(pattern, self._own)
            if own is not None:
                self._leave_out(operation, f"{own.pattern} is a built-in endpoint")
                continue
            method = "GET" if operation.method == "HEAD" else operation.method
            if _without_query(operation.path) != operation.path:
                by_query.append((_Place(pattern, method), operation))
                continue
            group = groups.setdefault((pattern.shape, method), _Group(pattern, remarks, method, []))
            group.operations.append(operation)
        alone: list[_Place] = []
        for place, operation in by_query:
            shared = groups.get((place.pattern.shape, place.method))
            if shared is None:
                self._leave_out(operation, "its path must not hold a query or a fragment")
                alone.append(place)
            else:
                shared.operations.append(operation)
        return list(groups.values()), alone

    def _unknown_places(self) -> Iterator[_Place]:
        for path, reason in self._spec.unreadable_paths:
            self._leave_out(path, reason)
            try:
                yield _Place(pattern_of(path)[0], None)
            except PatternError:  # no request can have this path
                continue

    def _leave_out_all(self, group: _Group) -> None:
        for operation in group.operations:
            self._leave_out(operation, operation.unreadable or "another operation at this path cannot be read")

    def _route(self, group: _Group) -> DraftRoute:
        first, *others = group.operations
        method = "GET" if any(each.method == "GET" for each in group.operations) else first.method
        for other in others:
            self.remarks.append(f"{other} and {first} share a rule, which requires the security of both")
        openness, keys, roles, more = _access(group.security)
        remarks = dict.fromkeys(
            (*group.remarks, *(remark for each in group.operations for remark in each.remarks), *more)
        )
        return DraftRoute(group.pattern.text, self._name(first.name), method, keys, roles, tuple(remarks), openness)

    def _closed_route(self, place: _Place) -> DraftRoute:
        scopes = {scope for each in self._spec.operations if each.security for scope in each.security.scopes}
        role = next(name for length in count() if (name := _CLOSED + "-" * length) not in scopes)
        remark = f"closed, because an operation here is left out: no account holds the role {role}"
        return DraftRoute(
            place.pattern.text, None, place.method, f"roles: [{role}]", frozenset({role}), (remark,), "closed"
        )

    def _leave_out(self, operation: SpecOperation | str, why: str) -> None:
        self.left_out += 1
        self.remarks.append(f"{operation} is left out: {why}")

    def _name(self, name: str | None) -> str | None:
        """A unique route name; None if the operation's name has no visible characters."""
        base = _INVISIBLE.sub("-", name or "").strip("-")[:_LONGEST_NAME]
        if not base:
            return None
        unique, number = base, 1
        while unique in self._names:
            number += 1
            unique = f"{base}-{number}"
        self._names.add(unique)
        return unique


def _crossing_route(place: _Place, security: Security) -> DraftRoute:
    openness, keys, roles, more = _access(security)
    remark = "several operations match these paths, and the rule requires what all of them require"
    return DraftRoute(place.pattern.text, None, place.method, keys, roles, (remark, *more), openness)


def _shared(
    method: str | None, security: Security | None, others: Iterable[Mapping[str | None, Security | None]]
) -> Security | None:
    """The security that satisfies an operation and those of the same method in `others`; None where one of these is
    left out."""
    for other in others:
        for key in {method, None} & other.keys():
            its = other[key]
            security = None if security is None or its is None else _both(security, its)
    return security


def _kind(security: Security | None) -> tuple[Openness, str] | None:
    return None if security is None else _access(security)[:2]


def _both(one: Security, other: Security) -> Security:
    """Security that satisfies both, because a request can match either operation."""
    if one.anonymous and other.anonymous:
        return Security((*one.alternatives, *other.alternatives), anonymous=True)
    if one.anonymous or other.anonymous:
        return other._replace(anonymous=False) if one.anonymous else one._replace(anonymous=False)
    any_user = (frozenset[str](),)
    pairs = [mine | its for mine in one.alternatives or any_user for its in other.alternatives or any_user]
    some = tuple(dict.fromkeys(pairs))[:_MOST_ALTERNATIVES]
    return Security(tuple(each for each in some if not any(fewer < each for fewer in some)), anonymous=False)


def _access(security: Security) -> tuple[Openness, str, frozenset[str], tuple[str, ...]]:
    """The access of a route: kind, configuration keys, roles, and remarks."""
    if security.anonymous and security.alternatives:
        return "open, with identity", "auth: optional", frozenset(), ()
    if security.anonymous:
        return "open to everyone", "auth: none", frozenset(), ()
    if not security.alternatives or frozenset() in security.alternatives:
        return "any signed-in user", "", frozenset(), ()
    roles = security.scopes
    if all(len(scopes) == 1 for scopes in security.alternatives):
        return "by role", f"roles: [{_listed(roles)}]", roles, ()
    remark = ("the rule requires all scopes, because it cannot express alternatives with several scopes",)
    return "by role", f"roles: {{all: [{_listed(roles)}]}}", roles, remark if len(security.alternatives) > 1 else ()


def _listed(roles: frozenset[str]) -> str:
    return ", ".join(quoted(role) for role in sorted(roles))


# ---- YAML output


def quoted(text: str) -> str:
    """A text quoted for use anywhere in YAML."""
    if re.fullmatch(r"[A-Za-z_/][A-Za-z0-9_./-]*", text) and text.lower() not in ("null", "true", "false"):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("${", "$${")
    return '"' + "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in escaped) + '"'


def as_yaml(drafted: PolicyDraft, *, spec: Spec, upstream: str) -> str:
    """A configuration file with these routes."""
    return "\n".join(_lines(drafted, spec, upstream)) + "\n"


def _lines(drafted: PolicyDraft, spec: Spec, upstream: str) -> Iterator[str]:
    yield f"# Drafted from {_comment(spec.title) or 'an OpenAPI document'}. Review it before serving it."
    yield from (f"# {_comment(remark)}" for remark in drafted.remarks)
    yield "upstreams:"
    yield f"  {quoted(upstream)}: {spec.address or 'http://127.0.0.1:9000'}"
    roles = frozenset().union(*(route.roles for route in drafted.routes))
    yield from _account_lines(drafted, roles)
    if roles:
        yield "roles:"
        yield from (f"  {quoted(role)}: []" for role in sorted(roles | {"admin", "user"}))
    if not drafted.routes:
        yield "routes: []"
        return
    yield "routes:"
    for route in drafted.routes:
        yield from (f"  # {_comment(remark)}" for remark in route.remarks)
        yield f"  - path: {quoted(route.path)}"
        if route.method is not None:
            yield f"    methods: [{route.method}]"
        if route.access:
            yield f"    {route.access}"
        yield f"    upstream: {quoted(upstream)}"
        if route.name is not None:
            yield f"    name: {quoted(route.name)}"


def _account_lines(drafted: PolicyDraft, roles: frozenset[str]) -> Iterator[str]:
    """Yield the settings that prevent anyone with a new account from passing."""
    lines = []
    if any(route.openness == "any signed-in user" for route in drafted.routes):
        lines += [
            "  # Any account reaches some of these routes, and the document does not say who can get one.",
            "  registration: closed",
        ]
    if roles.intersection(Settings().accounts.default_roles):
        lines += ["  # A scope has the name of a default role of new accounts.", "  default_roles: []"]
    if lines:
        yield "accounts:"
        yield from lines


def _comment(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
