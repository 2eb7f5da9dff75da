"""The tree of path segments in which a request finds its place.

    node ── literals ──▶ node for each literal segment       tried first
         ── parameter ─▶ node for any one segment            then
         ── place        the routes whose pattern ends here  (before the rest that begins here)
         ── rest         the routes whose pattern ends here in `/**`, last

The first place found in this order is the most specific one, compared segment by segment from the left.
Nearly every path is settled by one walk that takes the literal wherever there is one. Where that leads
nowhere, a search goes back to the captures beside the literals; `most_visits` bounds its steps whatever
the path, so that a policy whose rules are too entangled can be refused when it is loaded.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from gateway.policy.methods import TRACE, USUAL_METHODS
from gateway.policy.route import Route


class Place:
    """The routes of one pattern: one for all methods but TRACE, or one for each method. `by_method` alone serves
    TRACE."""

    __slots__ = ("allow", "by_method", "for_all")

    def __init__(self) -> None:
        self.for_all: Route | None = None
        self.by_method: dict[bytes, Route] = {}
        self.allow = ""

    @property
    def routes(self) -> Iterator[Route]:
        """Every route here, once for each method that it serves."""
        if self.for_all is not None:
            yield self.for_all
        yield from self.by_method.values()

    def add(self, route: Route) -> Route | None:
        """Put a route here; or, if a route here serves one of its methods already, leave it and answer
        that one."""
        rival = next((each for each in self.routes if each.shares_method(route)), None)
        if rival is not None:
            return rival
        if route.methods is None:
            self.for_all = route
            if route.serves(TRACE):
                self.by_method[TRACE] = route
        else:
            self.by_method.update(dict.fromkeys(route.methods, route))
        served = {*self.by_method, *(USUAL_METHODS if self.for_all is not None else ())}
        self.allow = ", ".join(sorted(method.decode("ascii") for method in served))
        return None

    def route_for(self, method: bytes) -> Route | None:
        """The route that serves a method."""
        return self.for_all if self.for_all is not None and method != TRACE else self.by_method.get(method)


class Node:
    """One step of a path: what may follow it, and what ends at it.

    `otherwise` is where a path belongs that gets as far as this node by always taking the literal where
    there is one, and no further. It is known beforehand unless a capture stands beside a literal on the
    way.
    """

    __slots__ = ("literals", "otherwise", "parameter", "place", "rest")

    def __init__(self) -> None:
        self.literals: dict[bytes, Node] = {}
        self.parameter: Node | None = None
        self.place: Place | None = None
        self.rest: Place | None = None
        self.otherwise: Place | None = None

    def insert(self, route: Route) -> Route | None:
        """Put a route below this node; answers the route that has its place already, if there is one."""
        node = self
        for segment in route.shape.segments:
            node = node._child(segment)
        if route.shape.has_rest:
            node.rest = node.rest or Place()
            return node.rest.add(route)
        node.place = node.place or Place()
        return node.place.add(route)

    def settle(self, inherited: Place | None = None) -> None:
        """Find out `otherwise` for this node and all below it."""
        self.otherwise = self.rest or inherited
        for child in self.literals.values():
            child.settle(self.otherwise if self.parameter is None else _SEARCH)
        if self.parameter is not None:
            self.parameter.settle(self.otherwise)

    def most_visits(self) -> int:
        """At most how many nodes a search for any path visits here and below."""
        literal = max((child.most_visits() for child in self.literals.values()), default=0)
        return 1 + literal + (self.parameter.most_visits() if self.parameter is not None else 0)

    def busiest_route(self) -> Route:
        """A route below this node, in the part of the tree where a search may take the most steps."""
        node = self
        while True:
            following = max(node.literals.values(), key=Node.most_visits, default=node.parameter)
            if following is None:
                place = node.place or node.rest
                assert place is not None, "a tree ends in places only"
                return next(place.routes)
            node = following

    def _child(self, segment: bytes | None) -> "Node":
        if segment is None:
            self.parameter = self.parameter or Node()
            return self.parameter
        child = self.literals.get(segment)
        if child is None:
            child = self.literals[segment] = Node()
        return child


class Tree:
    """A settled tree of routes, which must not contradict each other."""

    __slots__ = ("_root", "_top", "heads", "most_visits")

    def __init__(self, routes: Iterable[Route]) -> None:
        """Raises ValueError where two routes match the same path by the same method."""
        top = Node()
        for route in routes:
            rival = top.insert(route)
            if rival is not None:
                raise ValueError(f"{route.name!r} and {rival.name!r} match the same requests")
        top.settle()
        self.most_visits = top.most_visits()
        self.heads = frozenset(top.literals)
        # Split at its slashes, a path begins with an empty part.
        self._root = Node()
        self._root.literals[b""] = self._top = top

    @property
    def top(self) -> Node:
        """The node of the path `/`, under which all others lie."""
        return self._top

    def busiest_route(self) -> Route:
        """A route in the part of the tree where a search may take the most steps. The tree must not be
        empty."""
        return self._top.busiest_route()

    def find(self, segments: Sequence[bytes]) -> Place | None:
        """The most specific place for a path, given as its decoded segments after an empty first one."""
        node = self._root
        for segment in segments:
            following = node.literals.get(segment) or node.parameter
            if following is None:
                break
            node = following
        else:
            if node.place is not None:
                return node.place
        return node.otherwise if node.otherwise is not _SEARCH else _search(self._root, segments)


# Stands for: it depends on the path, search for it.
_SEARCH: Final = Place()


def _search(root: Node, segments: Sequence[bytes]) -> Place | None:
    """The first place in the order of the tree, going back to captures that stand beside literals."""
    node, depth, end = root, 0, len(segments)
    # What to try where the way ends, the last first: a node with its depth, or a place that takes all
    # below it.
    others: list[tuple[Node, int] | Place] = []
    while True:
        while depth != end:
            literal, parameter = node.literals.get(segments[depth]), node.parameter
            depth += 1
            if node.rest is not None:
                others.append(node.rest)
            if literal is not None and parameter is not None:
                others.append((parameter, depth))
            following = literal or parameter
            if following is None:
                break
            node = following
        else:
            place = node.place or node.rest
            if place is not None:
                return place
        if not others:
            return None
        other = others.pop()
        if isinstance(other, Place):
            return other
        node, depth = other
