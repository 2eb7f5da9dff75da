"""Find the route of a request: the path selects a place, then the method selects a route there.

Built-in endpoints come first, for every host. Then come the routes of the request's host, if any route names that host,
else the routes without a host. The search never backtracks from the selected place: a method that is not served there
is 405, and never falls through to a broader pattern. Before the search, a host that `server.hosts` does not list is
refused.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, final

from gateway.errors import Refusal
from gateway.policy.browsers import BrowserPolicy
from gateway.policy.patterns import MOST_SEGMENTS, TRACE
from gateway.policy.route import Route
from gateway.policy.trie import RouteGroup, Tree
from gateway.wire.hosts import ServedHosts
from gateway.wire.paths import RequestTarget, decoded_segment, lenient_readings

# Integers, because `in` on bytes is three times as fast for an integer as for bytes.
_PERCENT: Final = ord("%")
_SEMICOLON: Final = ord(";")


@final
class Match(NamedTuple):
    """The matching route and its captures, as they appear in the canonical path, escapes included."""

    route: Route
    captures: tuple[tuple[str, bytes], ...]


class Policy:
    """All routes, compiled. `own` are the built-in endpoints, `routes` those of the file. `served` are the hosts that
    are served; None: every host. `browsers` are the rules of sessions; None without sessions."""

    __slots__ = ("_hostless", "_hosts", "_own", "browsers", "own", "relaxed", "routes", "served")

    def __init__(
        self,
        routes: Iterable[Route],
        own: Iterable[Route] = (),
        *,
        relaxed: bool = False,
        served: ServedHosts | None = None,
        browsers: BrowserPolicy | None = None,
    ) -> None:
        """Raises ValueError if two routes match the same requests."""
        self.routes: Final = tuple(routes)
        self.own: Final = tuple(own)
        self.relaxed: Final = relaxed
        self.served: Final = served
        self.browsers: Final = browsers
        self._own = Tree(self.own)
        # Shadow rules decide nothing, so the trees do not contain them.
        by_host = group_by_host(route for route in self.routes if not route.shadow)
        self._hostless = Tree(by_host.pop(None, ()))
        self._hosts: dict[bytes | None, Tree] = {host: Tree(group) for host, group in by_host.items()}

    @property
    def own_tree(self) -> Tree:
        """The built-in endpoints, which take precedence on every host."""
        return self._own

    @property
    def hosts(self) -> frozenset[bytes]:
        """The canonical hosts that routes name."""
        return frozenset(host for host in self._hosts if host is not None)

    def tree(self, host: bytes | None) -> Tree:
        """The enforced routes visible to a host: its own if any route names it, else the routes without a host. None
        gives the latter."""
        return self._hosts.get(host, self._hostless)

    def entangled(self, bound: int) -> list[tuple[Route, int]]:
        """For each host whose search can take more steps than `bound`: a route, and the number of steps.

        Matching costs at most one step per segment plus the steps counted here.
        """
        trees = (self._hostless, *self._hosts.values())
        return [(tree.worst_case_route(), tree.max_steps) for tree in trees if tree.max_steps > bound]

    def match(self, host: bytes | None, target: RequestTarget, method: bytes) -> Match:
        """The route for a request. `host` is canonical, None or empty without a Host field.

        Raises Refusal: `misdirected`; `no_route`; `method_not_allowed` with the allowed methods; or `bad_path` for an
        encoded slash that the route does not keep, and for a relaxed path that other servers could read as a path of
        another route.
        """
        path = target.path
        segments = path.split(b"/")
        if not segments[-1]:
            segments.pop()
        if self.served is not None and host and host not in self.served:
            self._check_any_host(segments)
        if _PERCENT in path or (self.relaxed and _SEMICOLON in path):
            place = self._place_of_unplain(host, target, segments, method)
        else:
            place = self._place(host, segments)
        if place is None:
            raise Refusal("no_route", "no pattern matches the path")
        # RouteGroup.route_for, inlined.
        route = place.for_all if place.for_all is not None and method != TRACE else place.by_method.get(method)
        if route is None:
            raise Refusal("method_not_allowed", "the path serves other methods", allow=place.allow)
        # A generator costs more than the whole search, and most routes have at most one capture.
        captures = route.captures
        if not captures:
            return tuple.__new__(Match, (route, ()))
        if len(captures) == 1:
            name, number = captures[0]
            return tuple.__new__(Match, (route, ((name, segments[number]),)))
        return Match(route, tuple([(name, segments[number]) for name, number in captures]))

    def _check_any_host(self, segments: Sequence[bytes]) -> None:
        """Raise Refusal `misdirected`, unless the path is a built-in endpoint that is served at every host."""
        own = self._own.find([decoded_segment(segment) for segment in segments])
        if own is None or not all(route.at_any_host for route in own.routes):
            raise Refusal("misdirected", "server.hosts does not list the host")

    def _place(self, host: bytes | None, segments: Sequence[bytes]) -> RouteGroup | None:
        if len(segments) > 1 and segments[1] in self._own.heads:
            own = self._own.find(segments)
            if own is not None:
                if not any(route.is_served for route in own.routes):
                    raise Refusal("no_route", "reserved for the gateway, but not served")
                return own
        return self._hosts.get(host, self._hostless).find(segments)

    def _place_of_unplain(
        self, host: bytes | None, target: RequestTarget, segments: list[bytes], method: bytes
    ) -> RouteGroup | None:
        """The place of a path with escapes or path parameters. Segments are compared decoded."""
        place = self._place(host, [decoded_segment(segment) for segment in segments])
        keeps = _keeps_encoded_slash(place, method)
        if target.has_encoded_slash and not keeps:
            raise Refusal("bad_path", "an encoded slash on a path whose route does not keep it")
        if self.relaxed and place is not None:
            for reading in lenient_readings(target.path, splits_first=keeps, most_segments=MOST_SEGMENTS + 1):
                # CVE-2026-73511: servers with path parameters read `/admin;a=b/x` as `/admin/x`. A reading that matches
                # no route evades no rule.
                other = self._place(host, reading)
                if other is not None and other is not place:
                    raise Refusal("bad_path", "some servers would read the path as a path of another route")
        return place


def group_by_host(routes: Iterable[Route]) -> dict[bytes | None, list[Route]]:
    """The routes of each host; None is the key for routes without one."""
    groups: dict[bytes | None, list[Route]] = {}
    for route in routes:
        groups.setdefault(route.host, []).append(route)
    return groups


def _keeps_encoded_slash(place: RouteGroup | None, method: bytes) -> bool:
    if place is None:
        return False
    route = place.route_for(method)
    # If no route here serves the method, the response is 405 and not 400, provided that any route keeps the slash.
    return any(each.keeps_encoded_slash for each in ([route] if route is not None else place.routes))
