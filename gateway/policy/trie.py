"""The tree of path segments that finds the place of a request.

    node ── literals ──▶ node for each literal segment       tried first
         ── parameter ─▶ node for any one segment            second
         ── place        the routes whose pattern ends here  (precedes the rest that begins here)
         ── rest         the routes whose pattern ends here in `/**`, last

The first place in this order is the most specific one, compared segment by segment from the left. Nearly every path
needs a single walk that takes the literal wherever one exists. If that walk fails, a search backtracks to captures
beside literals. `max_steps` bounds its steps for any path, so that a policy with too many alternatives can be
rejected when it is loaded.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from gateway.policy.patterns import TRACE, USUAL_METHODS
from gateway.policy.route import Route


class RouteGroup:
    """The routes of one pattern: one for all methods but TRACE, or one per method. TRACE is only in `by_method`."""

    __slots__ = ("allow", "by_method", "for_all")

    def __init__(self) -> None:
        self.for_all: Route | None = None
        self.by_method: dict[bytes, Route] = {}
        self.allow = ""

    @property
    def routes(self) -> Iterator[Route]:
        """Every route here, repeated for each method that it serves."""
        if self.for_all is not None:
            yield self.for_all
        yield from self.by_method.values()

    def add(self, route: Route) -> Route | None:
        """Add a route. If it conflicts with a route here, return that route and change nothing."""
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
        return self.for_all if self.for_all is not None and method != TRACE else self.by_method.get(method)


class Node:
    """A tree node: the segments that can follow a path, and the places where it ends.

    `otherwise` is the place of a path that reaches this node by literals where possible and matches nothing further. It
    is computed in advance unless a capture stands beside a literal on the way.
    """

    __slots__ = ("literals", "otherwise", "parameter", "place", "rest")

    def __init__(self) -> None:
        self.literals: dict[bytes, Node] = {}
        self.parameter: Node | None = None
        self.place: RouteGroup | None = None
        self.rest: RouteGroup | None = None
        self.otherwise: RouteGroup | None = None

    def insert(self, route: Route) -> Route | None:
        """Add a route below this node. Returns the route that it conflicts with, if any."""
        node = self
        for segment in route.shape.segments:
            node = node._child(segment)
        if route.shape.has_rest:
            node.rest = node.rest or RouteGroup()
            return node.rest.add(route)
        node.place = node.place or RouteGroup()
        return node.place.add(route)

    def settle(self, inherited: RouteGroup | None = None) -> None:
        """Compute `otherwise` for this node and all nodes below."""
        self.otherwise = self.rest or inherited
        for child in self.literals.values():
            child.settle(self.otherwise if self.parameter is None else _SEARCH)
        if self.parameter is not None:
            self.parameter.settle(self.otherwise)

    def max_steps(self) -> int:
        """The maximum number of nodes that a search visits here and below."""
        literal = max((child.max_steps() for child in self.literals.values()), default=0)
        return 1 + literal + (self.parameter.max_steps() if self.parameter is not None else 0)

    def worst_case_route(self) -> Route:
        """A route in the part of this subtree where a search can take the most steps."""
        node = self
        while True:
            following = max(node.literals.values(), key=Node.max_steps, default=node.parameter)
            if following is None:
                place = node.place or node.rest
                assert place is not None, "every leaf has a place"
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
    """A complete tree of routes without conflicts."""

    __slots__ = ("_root", "_top", "heads", "max_steps")

    def __init__(self, routes: Iterable[Route]) -> None:
        """Raises ValueError if two routes match the same path and method."""
        top = Node()
        for route in routes:
            rival = top.insert(route)
            if rival is not None:
                raise ValueError(f"{route.name!r} and {rival.name!r} match the same requests")
        top.settle()
        self.max_steps = top.max_steps()
        self.heads = frozenset(top.literals)
        # Split at slashes, a path begins with an empty part.
        self._root = Node()
        self._root.literals[b""] = self._top = top

    @property
    def top(self) -> Node:
        """The node of the path `/`, the ancestor of all others."""
        return self._top

    def worst_case_route(self) -> Route:
        """A route in the part of the tree where a search can take the most steps. Needs a tree with routes."""
        return self._top.worst_case_route()

    def find(self, segments: Sequence[bytes]) -> RouteGroup | None:
        """The most specific place for a path, given as decoded segments after an empty first one."""
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


# Marks nodes whose answer depends on the path and needs a search.
_SEARCH: Final = RouteGroup()


def _search(root: Node, segments: Sequence[bytes]) -> RouteGroup | None:
    """The first place in tree order, backtracking to captures beside literals."""
    node, depth, end = root, 0, len(segments)
    # Alternatives, tried last in first out: a node with its depth, or a `/**` place.
    others: list[tuple[Node, int] | RouteGroup] = []
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
        if isinstance(other, RouteGroup):
            return other
        node, depth = other
