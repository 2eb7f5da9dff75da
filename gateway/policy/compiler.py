"""Compile the routes of a configuration file, or report every problem in them.

This stage checks patterns, rewrites and hosts, conflicts between routes, and routes on built-in paths. Problems that
need no knowledge of patterns are found while the file is read.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from gateway.errors import Problem, Refusal
from gateway.policy.builtin_routes import reserved_for
from gateway.policy.cors import Cors
from gateway.policy.patterns import Pattern, PatternError, parse_pattern
from gateway.policy.rewrite import Rewrite, below, parse_strip, parse_template
from gateway.policy.route import (
    NO_CONDITIONS,
    NOTHING_MORE,
    Authentication,
    Conditions,
    Requirement,
    Route,
    with_head,
)
from gateway.policy.trie import RouteGroup
from gateway.settings.model import RouteSettings, Settings
from gateway.settings.reader import quoted
from gateway.wire.hosts import canonical_host

T = TypeVar("T")
_Kept = tuple[RouteSettings, Route]


class RouteBuilder:
    """Builds the routes of one file and collects the problems it finds."""

    def __init__(self, settings: Settings, own: tuple[Route, ...]) -> None:
        self._settings = settings
        self._own = own
        self._own_by_head: dict[bytes | None, list[Route]] = {}
        for route in own:
            self._own_by_head.setdefault(route.shape.head, []).append(route)
        self.problems: Final[list[Problem]] = []

    def build(self, routes: Iterable[RouteSettings]) -> tuple[Route, ...]:
        """The valid routes. Of conflicting routes the first is kept. Serve them only if no problem was reported."""
        built = [(each, route) for each in routes if (route := self._route(each)) is not None]
        self._check_names(built)
        return self._without_rivals(built)

    def report(self, key: str, message: str) -> None:
        """Add a problem at the position of a configuration key."""
        file, line, column = self._settings.position_of(key)
        self.problems.append(Problem(file, line, column, key, message))

    def _route(self, each: RouteSettings) -> Route | None:
        pattern = self._pattern(each)
        host = self._host(each)
        if pattern is None or (host is None and each.host is not None):
            return None
        methods = _methods(each.methods)
        requirement = _requirement(each)
        conditions = _conditions(each)
        authentication = _authentication(each, requirement, conditions)
        return Route(
            name=each.name or _default_name(each, pattern, host),
            shape=pattern,
            methods=methods,
            host=host,
            authentication=authentication,
            requirement=requirement,
            conditions=conditions,
            upstream=each.upstream,
            settings=each,
            position=each.position,
            rewrite=below(self._base_path(each), self._rewrite(each, pattern)),
            keeps_encoded_slash=each.encoded_slash == "keep",
            websocket=each.websocket,
            shadow=each.shadow,
            cors=_cors(each, methods, reads_credentials=authentication != "none"),
        )

    def _pattern(self, each: RouteSettings) -> Pattern | None:
        key = f"{each.key}.path"
        pattern = self._parsed(key, each.path, parse_pattern)
        if pattern is None:
            return None
        if pattern.holds_encoded_slash and each.encoded_slash != "keep":
            self.report(key, f"can never match, found '%2F' in {quoted(each.path)} (encoded_slash: keep)")
            return None
        # Built-in paths begin with literals, so a pattern that begins with a capture also matches other paths.
        own = reserved_for(pattern, self._own_by_head.get(pattern.head, ()))
        if own is not None:
            found = f"found {quoted(each.path)}, where '{own.pattern}' is"
            self.report(key, f"is one of the gateway's own paths, {found} (another path or accounts.prefix)")
            return None
        return pattern

    def _host(self, each: RouteSettings) -> bytes | None:
        if each.host is None:
            return None
        try:
            return canonical_host(each.host.encode("ascii", "replace"))
        except Refusal:
            self.report(f"{each.key}.host", f"must be a host name or an address, found {quoted(each.host)}")
            return None

    def _rewrite(self, each: RouteSettings, pattern: Pattern) -> Rewrite | None:
        if each.strip_prefix is not None:
            key = f"{each.key}.strip_prefix"
            return self._parsed(key, each.strip_prefix, lambda text: parse_strip(text, pattern))
        if each.rewrite is not None:
            return self._parsed(f"{each.key}.rewrite", each.rewrite, lambda text: parse_template(text, pattern))
        return None

    def _base_path(self, each: RouteSettings) -> str:
        upstream = self._settings.upstreams.get(each.upstream)
        return "" if upstream is None else upstream.base_path

    def _parsed(self, key: str, text: str, parse: Callable[[str], T]) -> T | None:
        try:
            return parse(text)
        except PatternError as error:
            self.report(key, f"{error.wrong}, found {quoted(text)} ({error.right})")
            return None

    def _check_names(self, built: Sequence[_Kept]) -> None:
        taken = {route.name: "the gateway's own endpoint" for route in self._own}
        taken |= {route.name: each.key for each, route in built if each.name is None}
        for each, _ in built:
            if each.name in taken:
                message = f"must be unique, found '{each.name}' for {taken[each.name]} too (another name)"
                self.report(f"{each.key}.name", message)

    def _without_rivals(self, built: Sequence[_Kept]) -> tuple[Route, ...]:
        places: dict[object, RouteGroup] = {}
        kept = []
        for each, route in built:
            # A shadow rule can have the same pattern as the rule that it will replace.
            place = places.setdefault((route.host, route.shape.shape, route.shadow), RouteGroup())
            rival = place.add(route)
            if rival is None:
                kept.append(route)
            else:
                self.report(f"{each.key}.path", _contradiction(route, rival))
        return tuple(kept)


def _methods(names: tuple[str, ...] | None) -> frozenset[bytes] | None:
    return None if names is None else with_head(frozenset(name.encode("ascii") for name in names))


def _cors(each: RouteSettings, served: frozenset[bytes] | None, *, reads_credentials: bool) -> Cors | None:
    """The CORS rule of a route, limited to its own methods: browsers cache a preflight response for the whole path."""
    if each.cors is None:
        return None
    named = _methods(each.cors.methods)
    methods = served if named is None else named if served is None else named & served
    return Cors(each.cors, methods=methods, reads_credentials=reads_credentials)


def _requirement(each: RouteSettings) -> Requirement:
    any_of, all_of = (each.roles.any, each.roles.all) if each.roles is not None else (None, None)
    requirement = Requirement(any_of, all_of, each.owner)
    # All routes without requirements share one object: the decision tests for it by identity.
    return NOTHING_MORE if requirement == NOTHING_MORE else requirement


def _conditions(each: RouteSettings) -> Conditions | None:
    kinds = None if each.credentials is None else frozenset(each.credentials)
    conditions = Conditions(kinds, each.fresh, each.verified, each.same_origin)
    return None if conditions == NO_CONDITIONS else conditions


def _authentication(each: RouteSettings, requirement: Requirement, conditions: Conditions | None) -> Authentication:
    """The effective `auth`. Roles, owners and conditions on the user need a signed-in user, so `optional` becomes
    `required`: otherwise an anonymous caller could skip the check."""
    if requirement is NOTHING_MORE and not (conditions is not None and conditions.need_user):
        return each.auth
    return "required"


def _default_name(each: RouteSettings, pattern: Pattern, host: bytes | None) -> str:
    """For example `GET /orders/{order_id}`. Unique, because routes with equal names conflict anyway."""
    methods = "" if each.methods is None else f"{','.join(each.methods)} "
    place = "" if host is None else host.decode()
    return f"{methods}{place}{pattern.text}{' (shadow)' if each.shadow else ''}"


def _contradiction(route: Route, rival: Route) -> str:
    where = f"line {rival.position.line}" if rival.position is not None else "another place"
    methods = [each.methods for each in (route, rival) if each.methods is not None]
    both = ", ".join(sorted(m.decode() for m in frozenset.intersection(*methods))) if methods else "all methods"
    host = f" on {route.host.decode()}" if route.host is not None else ""
    return (
        f"route '{route.name}' matches the same requests as route '{rival.name}' in {where}, "
        f"found '{route.pattern}' and '{rival.pattern}'{host} for {both} (another path, host or method)"
    )
