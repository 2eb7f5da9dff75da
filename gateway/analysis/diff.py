"""Compare two configurations: the requests that a change allows, refuses or sends elsewhere.

The comparison is exact. `regions` finds the requests that the two policies treat differently by walking their trees;
`access` compares callers in a canonical form. Shadow rules decide nothing and are left out. Limits are listed as
changes. Settings that concern no single request are named in `also`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final, Literal, NamedTuple

from gateway.analysis.access import NO_ACCESS, Access, AccessRules, CallerKind
from gateway.analysis.describe import intersection_pattern, wording_of
from gateway.analysis.regions import OTHER_METHODS, PolicyView, Region, RegionResult, differing_regions
from gateway.policy.loader import Configuration
from gateway.policy.patterns import TRACE
from gateway.policy.policy import Policy
from gateway.policy.rewrite import PrefixStrip
from gateway.policy.route import Route
from gateway.settings.model import Settings

Kind = Literal["requests", "websocket", "encoded slash"]

_REPORTED_ELSEWHERE: Final = (
    *("routes", "roles", "upstreams", "places", "accounts.registration", "observability.metrics"),
    "server.hosts",
)
_EVERY_HOST: Final = "every host"
_SETTINGS: Final = ("rate_limit", "max_body", "response_timeout", "cors")
_CONDITIONS: Final = ("credentials", "fresh", "verified", "same_origin", "sign_in")
_SAFE_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))


class Reach(NamedTuple):
    """The callers that gain or lose access with one kind of request."""

    kind: Kind
    callers: tuple[CallerKind, ...]


class PolicyChange(NamedTuple):
    """A setting that changes for requests that are allowed before and after, with its values as text."""

    key: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Difference:
    """A region and its changes.

    `path` is the pattern that both routes have in common; more specific routes take some of its paths. `methods` is
    None for all methods but TRACE and `except_methods`. `example` is a path in the region.
    """

    host: str | None
    path: str
    methods: tuple[str, ...] | None
    except_methods: tuple[str, ...]
    old: RegionResult
    new: RegionResult
    opens: tuple[Reach, ...]
    closes: tuple[Reach, ...]
    moves: PolicyChange | None
    changes: tuple[PolicyChange, ...]
    example: str


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    """All differences. With `opened_paths` the new policy accepts more spellings of paths, with `closed_paths` fewer.
    `opened_hosts` and `closed_hosts` are entries of `server.hosts`, or "every host" for an empty list. `upstreams` are
    changed upstream settings, `also` all other changed keys."""

    differences: tuple[Difference, ...]
    opened_paths: bool
    closed_paths: bool
    opened_hosts: tuple[str, ...]
    closed_hosts: tuple[str, ...]
    upstreams: tuple[PolicyChange, ...]
    also: tuple[str, ...]

    @property
    def opens(self) -> bool:
        """Whether any request is allowed that was refused before."""
        return self.opened_paths or bool(self.opened_hosts) or any(each.opens for each in self.differences)


def compare(old: Configuration, new: Configuration) -> PolicyDiff:
    comparison = _Comparison(old, new)
    relaxed = [each.settings.server.paths == "relaxed" for each in (old, new)]
    return PolicyDiff(
        differences=tuple(sorted(comparison.differences(), key=_order)),
        opened_paths=relaxed == [False, True],
        closed_paths=relaxed == [True, False],
        opened_hosts=_hosts_beyond(new.policy, new.settings, old.policy),
        closed_hosts=_hosts_beyond(old.policy, old.settings, new.policy),
        upstreams=tuple(_upstreams(old.settings, new.settings)),
        also=tuple(_also(old, new)),
    )


def _hosts_beyond(here: Policy, settings: Settings, there: Policy) -> tuple[str, ...]:
    """The hosts that one policy serves and another does not."""
    if there.served is None:
        return ()
    if here.served is None:
        return (_EVERY_HOST,)
    return tuple(host for host in settings.server.hosts if not there.served.covers(host))


class _Sided:
    """The routes of one configuration by meaning."""

    def __init__(self, configuration: Configuration) -> None:
        self.policy = configuration.policy
        self._rules = AccessRules(configuration.settings.roles)
        self._meanings: dict[Route, tuple[object, ...] | None] = {}

    def access(self, answer: RegionResult) -> Access:
        """The callers that pass."""
        return NO_ACCESS if answer.route is None else self._rules.of(answer.route)

    def of_kind(self, answer: RegionResult, kind: Kind) -> Access:
        """The callers that pass with one kind of request."""
        route = answer.route
        if route is None or (kind == "websocket" and not route.websocket):
            return NO_ACCESS
        if kind == "encoded slash" and not route.keeps_encoded_slash:
            return NO_ACCESS
        return self._rules.of(route)

    def semantics(self, route: Route) -> tuple[object, ...] | None:
        """Every compared property of a route. None if the route admits no caller, like a missing route."""
        if route not in self._meanings:
            self._meanings[route] = self._made(route)
        return self._meanings[route]

    def _made(self, route: Route) -> tuple[object, ...] | None:
        access = self._rules.of(route)
        if access.is_empty:
            return None
        handled = [getattr(route.settings, name, None) for name in _SETTINGS]
        anonymous = route.authentication if access.is_public else "required"
        return (
            *(access, route.websocket, route.keeps_encoded_slash),
            *(route.upstream, route.endpoint, _sent(route), anonymous),
            route.passes_credentials,
            *map(repr, handled),
            *(getattr(route.settings, name, None) for name in _CONDITIONS),
        )


class _Comparison:
    def __init__(self, old: Configuration, new: Configuration) -> None:
        self._old = _Sided(old)
        self._new = _Sided(new)
        self._has_hosts = bool(old.policy.hosts | new.policy.hosts)

    def differences(self) -> Iterator[Difference]:
        """Every difference, once."""
        old, new = self._old, self._new
        reported: set[object] = set()
        for region in differing_regions(PolicyView(old.policy, old.semantics), PolicyView(new.policy, new.semantics)):
            methods, others = _methods(region)
            key = (region.host, region.old, region.new, methods, others)
            if key not in reported:
                reported.add(key)
                yield self._difference(region, methods, others)

    def _difference(self, region: Region, methods: tuple[str, ...] | None, others: tuple[str, ...]) -> Difference:
        host = None if region.host is None else region.host.decode()
        passes = not (self._old.access(region.old).is_empty or self._new.access(region.new).is_empty)
        return Difference(
            host=host if host is not None or not self._has_hosts else "*",
            path=intersection_pattern(region.old.at, region.new.at),
            methods=methods,
            except_methods=others,
            old=region.old,
            new=region.new,
            opens=self._beyond(region, region.new, self._new, region.old, self._old),
            closes=self._beyond(region, region.old, self._old, region.new, self._new),
            moves=_move(region) if passes else None,
            changes=tuple(_changes(region)) if passes else (),
            example=region.example,
        )

    def _beyond(
        self, region: Region, here: RegionResult, mine: _Sided, there: RegionResult, its: _Sided
    ) -> tuple[Reach, ...]:
        """The callers that pass here but not there. Kinds with the same callers as plain requests are not repeated."""
        usual = _of_methods(region, mine.access(here).difference(its.access(there)))
        found = [Reach("requests", usual)] if usual else []
        kinds: tuple[Kind, ...] = ("websocket", "encoded slash")
        for kind in kinds:
            callers = _of_methods(region, mine.of_kind(here, kind).difference(its.of_kind(there, kind)))
            if kind == "websocket":  # Every handshake with a cookie needs the proof of an own page.
                callers = tuple(caller for caller in callers if not caller.foreign_page)
            if not {*callers} <= {*usual}:
                found.append(Reach(kind, callers))
        return tuple(found)


def _of_methods(region: Region, callers: tuple[CallerKind, ...]) -> tuple[CallerKind, ...]:
    """The callers without pages of other sites, if the region has no safe method: other methods always need proof."""
    rest = region.named if OTHER_METHODS in region.methods else _SAFE_METHODS
    if _SAFE_METHODS & region.methods or _SAFE_METHODS - rest:
        return callers
    return tuple(caller for caller in callers if not caller.foreign_page)


def _methods(region: Region) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The methods of a region, or None and the exceptions. A route without `methods` does not serve TRACE, so TRACE is
    not listed as an exception."""
    if OTHER_METHODS not in region.methods:
        return tuple(sorted(method.decode() for method in region.methods)), ()
    return None, tuple(sorted(method.decode() for method in region.named - region.methods - {TRACE}))


def _move(region: Region) -> PolicyChange | None:
    places = [_destination(answer.route) for answer in (region.old, region.new)]
    return PolicyChange("upstream", *places) if places[0] != places[1] else None


def _destination(route: Route | None) -> str:
    assert route is not None, "a region with access has a route on both sides"
    return route.upstream if route.upstream is not None else f"the gateway itself ({route.endpoint})"


def _changes(region: Region) -> Iterator[PolicyChange]:
    old, new = region.old.route, region.new.route
    assert old is not None
    assert new is not None
    if _sent(old) != _sent(new):
        yield PolicyChange("path sent on", *(wording_of("rewrite", route) for route in (old, new)))
    if old.authentication != new.authentication and "required" not in (old.authentication, new.authentication):
        yield PolicyChange("auth", old.authentication, new.authentication)
    if old.passes_credentials != new.passes_credentials and old.upstream is not None and new.upstream is not None:
        yield PolicyChange("forward_credentials", *(wording_of("forward_credentials", route) for route in (old, new)))
    for name in (*_SETTINGS, *_CONDITIONS):
        values = [getattr(route.settings, name, None) for route in (old, new)]
        if old.settings is not None and new.settings is not None and values[0] != values[1]:
            yield PolicyChange(name, *(wording_of(name, route) for route in (old, new)))


def _sent(route: Route) -> object:
    """The rewrite, independent of the names of captures. The base path belongs to the upstream."""
    rewrite = route.rewrite
    if rewrite is None or isinstance(rewrite, PrefixStrip):
        return 0 if rewrite is None else rewrite.count
    numbers = [number for _, number in route.captures]
    parts = tuple(part if isinstance(part, bytes) else numbers[part] for part in rewrite.parts)
    return parts, rewrite.rest_after, rewrite.ends_in_slash


def _upstreams(old: Settings, new: Settings) -> Iterator[PolicyChange]:
    for name in sorted(old.upstreams.keys() | new.upstreams.keys()):
        before, after = old.upstreams.get(name), new.upstreams.get(name)
        if before is None or after is None:
            yield PolicyChange(name, *("-" if each is None else ", ".join(each.targets) for each in (before, after)))
        elif before != after:
            for each in fields(before):
                values = [getattr(upstream, each.name) for upstream in (before, after)]
                if values[0] != values[1]:
                    key = name if each.name == "targets" else f"{name}.{each.name.rstrip('_')}"
                    yield PolicyChange(key, *map(_as_text, values))


def _as_text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _also(old: Configuration, new: Configuration) -> Iterator[str]:
    """The changed keys outside routes, roles and upstreams, for a human to review."""
    for section in fields(Settings):
        before, after = (getattr(each.settings, section.name) for each in (old, new))
        if section.name in _REPORTED_ELSEWHERE or before == after:
            continue
        if before is None or after is None:
            yield section.name
            continue
        for key in fields(before):
            name = f"{section.name}.{key.name}"
            if name not in _REPORTED_ELSEWHERE and getattr(before, key.name) != getattr(after, key.name):
                yield name
    shadows = [[route.settings for route in each.policy.routes if route.shadow] for each in (old, new)]
    if shadows[0] != shadows[1]:
        yield "routes with shadow: true"


def _order(difference: Difference) -> tuple[object, ...]:
    """Sort key: differences that open access first, then by path."""
    rank = 0 if difference.opens else 1 if difference.closes else 2 if difference.moves else 3
    return rank, difference.host or "", difference.path, difference.methods or ()
