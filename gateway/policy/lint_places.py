"""Warnings that need the trees: unreachable routes, and unrestricted aliases of restricted paths."""

from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from gateway.policy.access import AccessRules
from gateway.policy.loader import Configuration
from gateway.policy.policy import Policy
from gateway.policy.regions import ends_of, front_of, place_of_path
from gateway.policy.route import Route
from gateway.policy.trie import Place

# Suffixes that some upstreams ignore: Windows file systems strip both.
_TRAILING: Final = (b".", b" ")
# Stands for a capture in the example path of a warning.
_ANY: Final = b"x"


def unreachable(policy: Policy) -> Iterator[Route]:
    """Enforced routes that no path reaches."""
    for host in (None, *sorted(policy.hosts)):
        reached = {id(place) for place in ends_of(front_of(policy, host))}
        for route in policy.routes:
            if route.host == host and not route.shadow:
                place = _own_place(policy, route)
                if place is not None and id(place) not in reached:
                    yield route


def _own_place(policy: Policy, route: Route) -> Place | None:
    """The place of a route."""
    node = policy.tree(route.host).top
    for segment in route.shape.segments:
        following = node.parameter if segment is None else node.literals.get(segment)
        if following is None:
            return None
        node = following
    return node.rest if route.shape.has_rest else node.place


def open_beside_restricted(configuration: Configuration) -> Iterator[tuple[Route, Route, str]]:
    """Find public routes that reach the upstream of a restricted route by an almost equal path.

    Yields the public route, the restricted route, and a path of the former that differs from one of the latter only in
    letter case, or by a dot or a space at the end of a segment. Reports each upstream once: the remedy is the same for
    all of its routes.
    """
    policy, rules = configuration.policy, AccessRules(configuration.settings.roles)
    named: set[str | None] = set()
    for restricted in policy.routes:
        if rules.of(restricted).everybody or restricted.shadow:
            continue
        for segments in _spellings(restricted):
            for route in _routes_for(policy, restricted, segments):
                same = route.upstream == restricted.upstream and route.upstream not in named
                if same and rules.of(route).everybody:
                    named.add(route.upstream)
                    yield route, restricted, "/" + "/".join(quote(segment) for segment in segments)


def _routes_for(policy: Policy, restricted: Route, segments: list[bytes]) -> Iterator[Route]:
    """The routes that serve a path with a method of `restricted`."""
    place = place_of_path(front_of(policy, restricted.host), segments)
    if place is None or place is _own_place(policy, restricted):
        return
    for route in dict.fromkeys(place.routes):
        if restricted.shares_method(route):
            yield route


def _spellings(route: Route) -> Iterator[list[bytes]]:
    """Paths of a route with one segment spelled differently."""
    segments = [_ANY if segment is None else segment for segment in route.shape.segments]
    literals = [number for number, segment in enumerate(route.shape.segments) if segment is not None]
    for number in literals:
        for other in (segments[number].swapcase(), *(segments[number] + ending for ending in _TRAILING)):
            if other != segments[number]:
                yield [*segments[:number], other, *segments[number + 1 :]]
