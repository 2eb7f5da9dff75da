"""Which route a request belongs to. The path alone picks the place; then the method picks the route there.

The gateway's own paths come first, whatever the host and the routes say; then the routes of the request's
host if any route names it, else the routes without a host. There is no way back from a place that was
picked: a method that is not served there is 405, never a broader pattern.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from gateway.errors import Refusal
from gateway.policy.methods import TRACE
from gateway.policy.patterns import MOST_SEGMENTS
from gateway.policy.route import Route
from gateway.policy.trie import Place, Tree
from gateway.wire.paths import Target, decoded_segment, lenient_readings

# Numbers, because bytes look for a number in a third of the time that they take for bytes.
_PERCENT: Final = ord("%")
_SEMICOLON: Final = ord(";")


class Match(NamedTuple):
    """The route that won, and its captures as they stand in the canonical path, escapes included."""

    route: Route
    captures: tuple[tuple[str, bytes], ...]


class Policy:
    """All routes, ready to be matched. `own` are the gateway's own endpoints, `routes` those of the file."""

    __slots__ = ("_hostless", "_hosts", "_own", "own", "relaxed", "routes")

    def __init__(self, routes: Iterable[Route], own: Iterable[Route] = (), *, relaxed: bool = False) -> None:
        """Raises ValueError where two routes match the same requests."""
        self.routes: Final = tuple(routes)
        self.own: Final = tuple(own)
        self.relaxed: Final = relaxed
        self._own = Tree(self.own)
        # A shadow rule decides nothing: requests are matched as if it were not there.
        by_host = group_by_host(route for route in self.routes if not route.shadow)
        self._hostless = Tree(by_host.pop(None, ()))
        self._hosts: dict[bytes | None, Tree] = {host: Tree(group) for host, group in by_host.items()}

    @property
    def own_tree(self) -> Tree:
        """The gateway's own endpoints, which come before the routes of every host."""
        return self._own

    @property
    def hosts(self) -> frozenset[bytes]:
        """The hosts that routes name, canonical."""
        return frozenset(host for host in self._hosts if host is not None)

    def tree(self, host: bytes | None) -> Tree:
        """The routes that requests for a host see, shadow rules left out: its own if any route names it, else those
        without a host, which None stands for."""
        return self._hosts.get(host, self._hostless)

    def entangled(self, bound: int) -> list[tuple[Route, int]]:
        """Where the search for one path could take more steps than `bound`: a route of each such host,
        and the steps.

        A path costs at most as many steps as it has segments, and then as many as are counted here.
        """
        trees = (self._hostless, *self._hosts.values())
        return [(tree.busiest_route(), tree.most_visits) for tree in trees if tree.most_visits > bound]

    def match(self, host: bytes | None, target: Target, method: bytes) -> Match:
        """The route for a request. `host` is canonical, None or empty without a Host field.

        Raises Refusal `no_route`, `method_not_allowed` with the methods that are served, or `bad_path`
        for what only the route can tell: an encoded slash that it does not keep, a relaxed path that can
        be read as another route's.
        """
        path = target.path
        segments = path.split(b"/")
        if not segments[-1]:
            segments.pop()
        if _PERCENT in path or (self.relaxed and _SEMICOLON in path):
            place = self._place_of_unplain(host, target, segments, method)
        else:
            place = self._place(host, segments)
        if place is None:
            raise Refusal("no_route", "no pattern matches the path")
        # As Place.route_for, without a call.
        route = place.for_all if place.for_all is not None and method != TRACE else place.by_method.get(method)
        if route is None:
            raise Refusal("method_not_allowed", "the place serves other methods", allow=place.allow)
        # A tuple comprehension costs more than the whole search, and most routes have one capture or none.
        captures = route.captures
        if not captures:
            return tuple.__new__(Match, (route, ()))
        if len(captures) == 1:
            name, number = captures[0]
            return tuple.__new__(Match, (route, ((name, segments[number]),)))
        return Match(route, tuple([(name, segments[number]) for name, number in captures]))

    def _place(self, host: bytes | None, segments: Sequence[bytes]) -> Place | None:
        if len(segments) > 1 and segments[1] in self._own.heads:
            own = self._own.find(segments)
            if own is not None:
                if not any(route.is_served for route in own.routes):
                    raise Refusal("no_route", "reserved for the gateway, which serves nothing there")
                return own
        return self._hosts.get(host, self._hostless).find(segments)

    def _place_of_unplain(
        self, host: bytes | None, target: Target, segments: list[bytes], method: bytes
    ) -> Place | None:
        """The place of a path with escapes or parameters, compared by what its segments say."""
        place = self._place(host, [decoded_segment(segment) for segment in segments])
        keeps = _keeps_encoded_slash(place, method)
        if target.has_encoded_slash and not keeps:
            raise Refusal("bad_path", "an encoded slash on a path whose route does not keep it")
        if self.relaxed and place is not None:
            for reading in lenient_readings(target.path, splits_first=keeps, most_segments=MOST_SEGMENTS + 1):
                # CVE-2026-73511: `/admin;a=b/x` is `/admin/x` to servers that know path parameters. A reading that no
                # route takes evades no rule.
                other = self._place(host, reading)
                if other is not None and other is not place:
                    raise Refusal("bad_path", "some servers would read the path as one of another route")
        return place


def group_by_host(routes: Iterable[Route]) -> dict[bytes | None, list[Route]]:
    """The routes of each host; None for those without one."""
    groups: dict[bytes | None, list[Route]] = {}
    for route in routes:
        groups.setdefault(route.host, []).append(route)
    return groups


def _keeps_encoded_slash(place: Place | None, method: bytes) -> bool:
    if place is None:
        return False
    route = place.route_for(method)
    # A method that is not served here is answered 405, not 400, if the path is one that the place serves.
    return any(each.keeps_encoded_slash for each in ([route] if route is not None else place.routes))
