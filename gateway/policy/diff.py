"""What a change of the configuration opens, closes and moves: exactly, for every request and every kind of caller.

The regions of requests that two policies treat differently come from their trees, see `regions`; who passes is
compared in a form that has one spelling for one meaning, see `access`. Nothing is sampled. What is left out is said:
shadow rules decide nothing, limits are told as changes, and what is not about single requests is named in `also`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final, Literal, NamedTuple

from gateway.policy.access import NOBODY, Access, AccessRules, Caller
from gateway.policy.loading import Configuration
from gateway.policy.methods import TRACE
from gateway.policy.regions import OTHER_METHODS, Answer, Region, Side, differing_regions
from gateway.policy.rewriting import PrefixStrip
from gateway.policy.route import Route
from gateway.policy.wording import meeting, wording_of
from gateway.settings.model import Settings

Kind = Literal["requests", "websocket", "encoded slash"]

_TOLD_AS_REGIONS: Final = ("routes", "roles", "upstreams", "places", "accounts.registration", "observability.metrics")
_SETTINGS: Final = ("rate_limit", "max_body", "response_timeout", "cors")


class Reach(NamedTuple):
    """Callers who come to pass, or pass no longer, with requests of one kind."""

    kind: Kind
    callers: tuple[Caller, ...]


class Change(NamedTuple):
    """What is done otherwise with requests that pass before and after: the key, and its values as text."""

    key: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One region and what changes there. `path` is the pattern that the two routes have in common, less what belongs to
    more specific routes; `methods` is None for all but TRACE and `except_methods`. `example` is one of its paths."""

    host: str | None
    path: str
    methods: tuple[str, ...] | None
    except_methods: tuple[str, ...]
    old: Answer
    new: Answer
    opens: tuple[Reach, ...]
    closes: tuple[Reach, ...]
    moves: Change | None
    changes: tuple[Change, ...]
    example: str


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    """All differences. `opened_paths` says that more spellings of paths are accepted, `closed_paths` that fewer are;
    `upstreams` are those whose settings differ, `also` the other keys that do."""

    differences: tuple[Difference, ...]
    opened_paths: bool
    closed_paths: bool
    upstreams: tuple[Change, ...]
    also: tuple[str, ...]

    @property
    def opens(self) -> bool:
        """Whether anybody can do anything that was not possible before."""
        return self.opened_paths or any(each.opens for each in self.differences)


def compare(old: Configuration, new: Configuration) -> PolicyDiff:
    """Everything that differs between two configurations."""
    comparison = _Comparison(old, new)
    relaxed = [each.settings.server.paths == "relaxed" for each in (old, new)]
    return PolicyDiff(
        differences=tuple(sorted(comparison.differences(), key=_order)),
        opened_paths=relaxed == [False, True],
        closed_paths=relaxed == [True, False],
        upstreams=tuple(_upstreams(old.settings, new.settings)),
        also=tuple(_also(old, new)),
    )


class _Sided:
    """What the routes of one configuration mean."""

    def __init__(self, configuration: Configuration) -> None:
        self.policy = configuration.policy
        self._rules = AccessRules(configuration.settings.roles)
        self._meanings: dict[Route, tuple[object, ...] | None] = {}

    def access(self, answer: Answer) -> Access:
        """Who passes."""
        return NOBODY if answer.route is None else self._rules.of(answer.route)

    def of_kind(self, answer: Answer, kind: Kind) -> Access:
        """Who passes with requests of a kind."""
        route = answer.route
        if route is None or (kind == "websocket" and not route.websocket):
            return NOBODY
        if kind == "encoded slash" and not route.keeps_encoded_slash:
            return NOBODY
        return self._rules.of(route)

    def meaning(self, route: Route) -> tuple[object, ...] | None:
        """All that is compared. A route that lets nobody through is like none."""
        if route not in self._meanings:
            self._meanings[route] = self._made(route)
        return self._meanings[route]

    def _made(self, route: Route) -> tuple[object, ...] | None:
        access = self._rules.of(route)
        if access.is_nobody:
            return None
        handled = [getattr(route.settings, name, None) for name in _SETTINGS]
        anonymous = route.authentication if access.everybody else "required"
        return (
            *(access, route.websocket, route.keeps_encoded_slash),
            *(route.upstream, route.endpoint, _sent(route), anonymous),
            route.passes_credentials,
            *map(repr, handled),
        )


class _Comparison:
    def __init__(self, old: Configuration, new: Configuration) -> None:
        self._old = _Sided(old)
        self._new = _Sided(new)
        self._has_hosts = bool(old.policy.hosts | new.policy.hosts)

    def differences(self) -> Iterator[Difference]:
        """What differs, each once."""
        old, new = self._old, self._new
        told: set[object] = set()
        for region in differing_regions(Side(old.policy, old.meaning), Side(new.policy, new.meaning)):
            methods, others = _methods(region)
            key = (region.host, region.old, region.new, methods, others)
            if key not in told:
                told.add(key)
                yield self._difference(region, methods, others)

    def _difference(self, region: Region, methods: tuple[str, ...] | None, others: tuple[str, ...]) -> Difference:
        host = None if region.host is None else region.host.decode()
        passes = not (self._old.access(region.old).is_nobody or self._new.access(region.new).is_nobody)
        return Difference(
            host=host if host is not None or not self._has_hosts else "*",
            path=meeting(region.old.at, region.new.at),
            methods=methods,
            except_methods=others,
            old=region.old,
            new=region.new,
            opens=self._beyond(region.new, self._new, region.old, self._old),
            closes=self._beyond(region.old, self._old, region.new, self._new),
            moves=_move(region) if passes else None,
            changes=tuple(_changes(region)) if passes else (),
            example=region.example,
        )

    def _beyond(self, here: Answer, mine: _Sided, there: Answer, its: _Sided) -> tuple[Reach, ...]:
        """Who passes here and not there, with requests of each kind; what holds for all kinds is told once."""
        usual = mine.access(here).beyond(its.access(there))
        found = [Reach("requests", usual)] if usual else []
        kinds: tuple[Kind, ...] = ("websocket", "encoded slash")
        for kind in kinds:
            callers = mine.of_kind(here, kind).beyond(its.of_kind(there, kind))
            if callers and callers != usual:
                found.append(Reach(kind, callers))
        return tuple(found)


def _methods(region: Region) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The methods of a region, and where it has all but some, those. A route without `methods` does not serve TRACE,
    so all methods are all but that one here too."""
    if OTHER_METHODS not in region.methods:
        return tuple(sorted(method.decode() for method in region.methods)), ()
    return None, tuple(sorted(method.decode() for method in region.named - region.methods - {TRACE}))


def _move(region: Region) -> Change | None:
    places = [_destination(answer.route) for answer in (region.old, region.new)]
    return Change("upstream", *places) if places[0] != places[1] else None


def _destination(route: Route | None) -> str:
    assert route is not None, "only who passes is sent anywhere"
    return route.upstream if route.upstream is not None else f"the gateway itself ({route.endpoint})"


def _changes(region: Region) -> Iterator[Change]:
    old, new = region.old.route, region.new.route
    assert old is not None
    assert new is not None
    if _sent(old) != _sent(new):
        yield Change("path sent on", *(wording_of("rewrite", route) for route in (old, new)))
    if old.authentication != new.authentication and "required" not in (old.authentication, new.authentication):
        yield Change("auth", old.authentication, new.authentication)
    if old.passes_credentials != new.passes_credentials and old.upstream is not None and new.upstream is not None:
        yield Change("forward_credentials", *(wording_of("forward_credentials", route) for route in (old, new)))
    for name in _SETTINGS:
        values = [getattr(route.settings, name, None) for route in (old, new)]
        if old.settings is not None and new.settings is not None and values[0] != values[1]:
            yield Change(name, *(wording_of(name, route) for route in (old, new)))


def _sent(route: Route) -> object:
    """What becomes of the path, whatever captures are called."""
    rewrite = route.rewrite
    if rewrite is None or isinstance(rewrite, PrefixStrip):
        return rewrite
    numbers = [number for _, number in route.captures]
    parts = tuple(part if isinstance(part, bytes) else numbers[part] for part in rewrite.parts)
    return parts, rewrite.rest_after, rewrite.ends_in_slash


def _upstreams(old: Settings, new: Settings) -> Iterator[Change]:
    for name in sorted(old.upstreams.keys() | new.upstreams.keys()):
        before, after = old.upstreams.get(name), new.upstreams.get(name)
        if before is None or after is None:
            yield Change(name, *("-" if each is None else ", ".join(each.targets) for each in (before, after)))
        elif before != after:
            for each in fields(before):
                values = [getattr(upstream, each.name) for upstream in (before, after)]
                if values[0] != values[1]:
                    key = name if each.name == "targets" else f"{name}.{each.name.rstrip('_')}"
                    yield Change(key, *map(_as_text, values))


def _as_text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _also(old: Configuration, new: Configuration) -> Iterator[str]:
    """The keys beside routes, roles and upstreams that differ: whether they matter is for a person to judge."""
    for section in fields(Settings):
        before, after = (getattr(each.settings, section.name) for each in (old, new))
        if section.name in _TOLD_AS_REGIONS or before == after:
            continue
        for key in fields(before):
            name = f"{section.name}.{key.name}"
            if name not in _TOLD_AS_REGIONS and getattr(before, key.name) != getattr(after, key.name):
                yield name
    shadows = [[route.settings for route in each.policy.routes if route.shadow] for each in (old, new)]
    if shadows[0] != shadows[1]:
        yield "routes with shadow: true"


def _order(difference: Difference) -> tuple[object, ...]:
    """What opens first, then in the order of paths."""
    rank = 0 if difference.opens else 1 if difference.closes else 2 if difference.moves else 3
    return rank, difference.host or "", difference.path, difference.methods or ()
