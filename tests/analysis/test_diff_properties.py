"""The result of `gateway diff`, compared with individual decisions for all requests and callers of a small model."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.analysis.access import AccessRules, CallerKind
from gateway.analysis.diff import Difference, PolicyDiff, Reach, compare
from gateway.errors import Refusal
from gateway.policy.decide import authorize
from gateway.policy.loader import Configuration, compile_policy
from gateway.policy.roles import RoleHierarchy
from gateway.policy.route import Route
from tests.policy.policies import Routes, matched, settings_of
from tests.support.scale import examples

ROLES = ("a", "b", "c")
LITERALS = ("x", "y", "me")
SEGMENTS = (*LITERALS, "other")
HOSTS = (None, b"one.example", b"two.example")
METHODS = (b"GET", b"PUT", b"OPTIONS", b"TRACE")
PATHS = ["/" + "/".join(parts) for depth in range(4) for parts in product(SEGMENTS, repeat=depth)]
ROLE_SETS = [frozenset(each) for size in range(4) for each in combinations(ROLES, size)]


def configuration(routes: Routes, roles: Mapping[str, Sequence[str]] | None, **sections: Any) -> Configuration:
    others = {**sections, **({} if roles is None else {"roles": {"user": [], "admin": [], **roles}})}
    made = settings_of(routes, **others)
    return Configuration(made, compile_policy(made), ())


# ---- individual decisions


class Asker(NamedTuple):
    """A principal for `authorize`."""

    id: str
    roles: frozenset[str]


class Outcome(NamedTuple):
    route: Route | None
    captures: tuple[tuple[str, bytes], ...] = ()


def outcome(policy: Configuration, host: bytes | None, path: str, method: bytes) -> Outcome:
    try:
        return Outcome(*matched(policy.policy, path.encode(), method, host=host))
    except Refusal:
        return Outcome(None)


def passes(policy: Configuration, found: Outcome, caller: CallerKind, path: str) -> bool:
    """Whether the caller is allowed, decided like in the gate."""
    if found.route is None:
        return False
    if found.route.authentication == "none":
        return True
    if caller.anonymous:
        return authorize(found.route, found.captures, None) is None
    own_id = "nobody" if caller.owner is None else path.split("/")[caller.owner]
    asker = Asker(own_id, RoleHierarchy(policy.settings.roles).expand(caller.roles))
    return authorize(found.route, found.captures, asker) is None


def callers(path: str) -> Iterator[CallerKind]:
    """All possible callers for a path: every set of roles, and the owner of each segment."""
    yield CallerKind(anonymous=True)
    for roles in ROLE_SETS:
        yield CallerKind(roles=roles)
    for number in range(1, path.count("/") + 1 if path != "/" else 1):
        yield CallerKind(owner=number)


def brings(caller: CallerKind, path: str, kind: CallerKind) -> bool:
    """Whether a caller has at least the access of a kind of caller. Equal segments name the same user."""
    if kind.anonymous or caller.anonymous:
        return kind.anonymous
    segments = path.split("/")
    owns = kind.owner is None or (caller.owner is not None and segments[caller.owner] == segments[kind.owner])
    return owns and kind.roles <= caller.roles


def is_reported(reaches: Sequence[Reach], caller: CallerKind, path: str) -> bool:
    """Whether the reported reaches include requests of this caller."""
    return any(brings(caller, path, kind) for reach in reaches if reach.kind == "requests" for kind in reach.callers)


# ---- random policies

_segment = st.one_of(st.sampled_from(LITERALS), st.just("{}"))
_REQUIREMENTS: list[dict[str, Any]] = [
    {},
    {"auth": "none"},
    {"auth": "optional"},
    {"roles": ["a"]},
    {"roles": ["a", "b"]},
    {"roles": {"all": ["a", "b"]}},
    {"roles": {"any": ["a", "c"], "all": ["b"]}},
    {"owner": "c0"},
    {"owner": "c1", "roles": ["c"]},
]
_requirement = st.sampled_from(_REQUIREMENTS)
_methods = st.sampled_from([None, None, ["GET"], ["PUT"], ["GET", "PUT"], ["TRACE"], ["PUT", "TRACE"]])
_host = st.sampled_from([None, None, None, "one.example", "two.example"])
_HIERARCHIES: list[dict[str, list[str]] | None] = [None, {"a": [], "b": [], "c": []}, {"a": ["b"], "b": [], "c": ["a"]}]
_hierarchies = st.sampled_from(_HIERARCHIES)


@st.composite
def _route(draw: st.DrawFn) -> dict[str, Any]:
    parts = draw(st.lists(_segment, max_size=3))
    named = [f"{{c{number}}}" if part == "{}" else part for number, part in enumerate(parts)]
    path = "/" + "/".join([*named, "**"] if draw(st.booleans()) else named)
    route: dict[str, Any] = {"path": path, **draw(_requirement), "upstream": draw(st.sampled_from(["web", "api"]))}
    if "owner" in route and f"{{{route['owner']}}}" not in path:
        del route["owner"]
    for name, value in (("methods", draw(_methods)), ("host", draw(_host))):
        if value is not None:
            route[name] = value
    return route


def _place(route: Mapping[str, Any]) -> object:
    shape = [part if not part.startswith("{") else "{}" for part in route["path"].split("/")]
    return tuple(shape), route.get("host")


def _clashes(route: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    mine, its = route.get("methods"), other.get("methods")
    if mine is None or its is None:
        return _place(route) == _place(other) and not (mine == ["TRACE"] or its == ["TRACE"])
    return _place(route) == _place(other) and bool({*mine} & {*its})


@st.composite
def _routes(draw: st.DrawFn, base: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for route in [*base, *draw(st.lists(_route(), max_size=5))]:
        if not any(_clashes(route, other) for other in kept):
            kept.append(route)
    return kept


@st.composite
def _changes(draw: st.DrawFn) -> tuple[Configuration, Configuration]:
    """A policy and a changed version: some routes stay, some are removed, some are added."""
    before = draw(_routes())
    stay = [route for route in before if draw(st.booleans())]
    after = draw(_routes(base=stay))
    upstreams = {"web": "http://127.0.0.1:9000", "api": "http://127.0.0.1:9001"}
    sides = []
    for routes in (before, after):
        prefix = draw(st.sampled_from(["/auth", "/auth", "/x"]))
        # A literal route on a built-in path is an error; broader patterns are allowed.
        kept = [route for route in routes if prefix != "/x" or route["path"] != "/x/me"]
        sides.append(configuration(kept, draw(_hierarchies), upstreams=upstreams, accounts={"prefix": prefix}))
    old, new = sides
    return old, new


@examples(120)
@given(_changes())
def test_a_diff_lists_every_change_for_every_request_and_caller(change: tuple[Configuration, Configuration]) -> None:
    old, new = change
    found = compare(old, new)
    for host, path, method in product(HOSTS, PATHS[: 1 + 4 + 16], METHODS):
        check_request(found, old, new, (host, path, method))


def check_request(
    found: PolicyDiff, old: Configuration, new: Configuration, request: tuple[bytes | None, str, bytes]
) -> None:
    host, path, method = request
    before, after = outcome(old, host, path, method), outcome(new, host, path, method)
    hosts = old.policy.hosts | new.policy.hosts
    place = None if host not in hosts else host
    about = [each for each in found.differences if is_about(each, before, after, (place, path, method))]
    for caller in callers(path):
        was, is_ = passes(old, before, caller, path), passes(new, after, caller, path)
        # A kind of caller includes all callers with at least its access, except those without a change.
        opens = not was and any(is_reported(each.opens, caller, path) for each in about)
        closes = not is_ and any(is_reported(each.closes, caller, path) for each in about)
        assert (opens, closes) == (is_ and not was, was and not is_), (request, caller, about)
        if was and is_:
            moved = [each.moves for each in about if each.moves is not None]
            assert before.route is not None
            assert after.route is not None
            assert bool(moved) == (before.route.upstream != after.route.upstream), (request, about)


def is_about(each: Difference, before: Outcome, after: Outcome, request: tuple[bytes | None, str, bytes]) -> bool:
    host, _, method = request
    text = method.decode()
    all_but_some = text not in (*each.except_methods, "TRACE")
    in_methods = all_but_some if each.methods is None else text in each.methods
    named = None if host is None else host.decode()
    return (
        (each.old.route, each.new.route) == (before.route, after.route)
        and in_methods
        and each.host in ((None, "*") if named is None else (named,))
    )


@examples(120)
@given(_changes())
def test_each_difference_shows_a_request_to_which_it_happens(change: tuple[Configuration, Configuration]) -> None:
    old, new = change
    for each in compare(old, new).differences:
        host = None if each.host in (None, "*") else each.host.encode()
        method = next(m for m in (each.methods or ("PATCH", "PURGE")) if m not in each.except_methods).encode()
        before, after = outcome(old, host, each.example, method), outcome(new, host, each.example, method)
        assert (before.route, after.route) == (each.old.route, each.new.route)
        for reach in each.opens:
            for kind in reach.callers:
                assert passes(new, after, kind, each.example)
                if names_twice(each.example, kind):
                    continue
                assert not passes(old, before, kind, each.example)


@pytest.mark.parametrize("path", ["/x/{c0}", "/{c0}/x", "/x/{c0}/{c1}", "/{c1}/{c0}/x"])
def test_an_example_has_no_owner_named_by_another_segment(path: str) -> None:
    upstreams = {"web": "http://127.0.0.1:9000"}
    route = {"path": path, "upstream": "web"}
    sides = (configuration([each], None, upstreams=upstreams) for each in ({**route, "owner": "c0"}, route))
    (found,) = compare(*sides).differences
    segments = found.example.split("/")
    assert len({*segments}) == len(segments), segments


def names_twice(path: str, caller: CallerKind) -> bool:
    """Whether a path contains its owner's id in two segments, which only literals produce: the caller can own the other
    one."""
    segments = path.split("/")
    return caller.owner is not None and segments.count(segments[caller.owner]) > 1


@given(_routes(), _hierarchies)
def test_a_policy_does_not_differ_from_itself(
    routes: list[dict[str, Any]], roles: Mapping[str, Sequence[str]] | None
) -> None:
    upstreams = {"web": "http://127.0.0.1:9000", "api": "http://127.0.0.1:9001"}
    old = configuration(routes, roles, upstreams=upstreams)
    new = configuration(routes[::-1], roles, upstreams=upstreams)
    found = compare(old, new)
    assert (found.differences, found.opens, found.also) == ((), False, ())


@given(st.lists(_requirement, min_size=2, max_size=2), st.lists(_hierarchies, min_size=2, max_size=2))
def test_the_callers_named_are_those_with_the_fewest_roles(requirements: list[Any], hierarchies: list[Any]) -> None:
    sides = []
    for requirement, roles in zip(requirements, hierarchies, strict=True):
        made = configuration([{"path": "/{c0}/{c1}", **requirement}], roles)
        sides.append(AccessRules(made.settings.roles).of(made.policy.routes[0]))
    one, other = sides
    gained = [
        each for each in (CallerKind(roles=roles) for roles in ROLE_SETS) if one.admits(each) and not other.admits(each)
    ]
    fewest = {each.roles for each in gained if not any(less.roles < each.roles for less in gained)}
    named = {each.roles for each in one.difference(other) if each.owner is None and not each.anonymous}
    assert named == (set() if one.is_public and not other.is_public else fewest)
