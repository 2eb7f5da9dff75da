"""Partition all requests into regions that each of two policies answers uniformly.

The trees of both policies are walked in parallel, like two automata reading the same path. After a prefix of the path
each policy has a *front*: the nodes and places still possible, the most specific first. From a front the path can end,
continue with a literal that either policy knows, or continue with any other segment. These cases are exhaustive. If
both fronts have the same fingerprint, they answer every continuation alike and the walk stops there.
"""

from collections.abc import Callable, Container, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote

from gateway.policy.patterns import TRACE
from gateway.policy.policy import Policy
from gateway.policy.route import Route
from gateway.policy.trie import Node, RouteGroup, Tree

# All methods that no route of the place names, except TRACE.
OTHER_METHODS: Final = b"*"

Meaning = Callable[[Route], Hashable]
StateSet = tuple[Node | RouteGroup, ...]


class RegionResult(NamedTuple):
    """A policy's answer to the requests of a region: the route, or the code of the refusal. `at` is a route of the
    place where they end; its pattern identifies the place."""

    route: Route | None
    code: str = ""
    at: Route | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """A set of requests that each of the two policies answers uniformly.

    `methods` can contain OTHER_METHODS, i.e. every method not in `named`. `example` is a path in which all captures
    differ from each other and from every literal.
    """

    host: bytes | None
    methods: frozenset[bytes]
    named: frozenset[bytes]
    old: RegionResult
    new: RegionResult
    example: str


class PolicyView(NamedTuple):
    """A policy and the meaning of its routes. Routes with equal meaning are not distinguished."""

    policy: Policy
    semantics: Meaning


def differing_regions(old: PolicyView, new: PolicyView) -> Iterator[Region]:
    """The regions in which the policies differ, each once. Paths of one place with the same two routes form one region.
    Hosts that neither policy names are the host None."""
    walk = _Walk(old, new)
    for host in (None, *sorted(old.policy.hosts | new.policy.hosts)):
        yield from walk.of_host(host)


def front_of(policy: Policy, host: bytes | None) -> StateSet:
    """The front of the empty path. Built-in endpoints precede the routes."""
    return policy.own_tree.top, policy.tree(host).top


def place_of_path(front: StateSet, segments: Iterable[bytes]) -> RouteGroup | None:
    """The place of a path, given as decoded segments."""
    for segment in segments:
        front = _after(front, segment)
    return _end(front)


def ends_of(front: StateSet) -> Iterator[RouteGroup]:
    """Every place that some path reaches, possibly repeated."""
    seen: set[StateSet] = set()
    waiting = [front]
    while waiting:
        front = waiting.pop()
        if front in seen:
            continue
        seen.add(front)
        place = _end(front)
        if place is not None:
            yield place
        waiting += [step.old for step in _following(_Step(front, (), ()))]


class _Step(NamedTuple):
    old: StateSet
    new: StateSet
    read: tuple[bytes, ...]


class _Walk:
    def __init__(self, old: PolicyView, new: PolicyView) -> None:
        self._old = old
        self._new = new
        trees = [tree for side in (old, new) for tree in _trees(side.policy)]
        self._literals = frozenset(literal for tree in trees for literal in _literals_below(tree.top))
        interned: dict[Hashable, int] = {}
        self._old_prints = _Fingerprints(old.semantics, interned)
        self._new_prints = _Fingerprints(new.semantics, interned)

    def of_host(self, host: bytes | None) -> Iterator[Region]:
        """The differing regions of one host."""
        met: set[tuple[RouteGroup | None, RouteGroup | None]] = set()
        seen: set[tuple[StateSet, StateSet]] = set()
        waiting = [_Step(front_of(self._old.policy, host), front_of(self._new.policy, host), ())]
        while waiting:
            step = waiting.pop()
            pair = step.old, step.new
            if pair in seen or self._old_prints.of_front(step.old) == self._new_prints.of_front(step.new):
                continue
            seen.add(pair)
            ends = _end(step.old), _end(step.new)
            if ends not in met:
                met.add(ends)
                yield from self._compared(host, ends, step.read)
            waiting += _following(step, self._literals)

    def _compared(
        self, host: bytes | None, ends: tuple[RouteGroup | None, RouteGroup | None], read: tuple[bytes, ...]
    ) -> Iterator[Region]:
        named = frozenset((TRACE, *(method for place in ends if place is not None for method in place.by_method)))
        groups: dict[tuple[RegionResult, RegionResult], set[bytes]] = {}
        for method in (*sorted(named), OTHER_METHODS):
            old, new = (_answer(place, method) for place in ends)
            if _meaning(old, self._old.semantics) != _meaning(new, self._new.semantics):
                groups.setdefault((old, new), set()).add(method)
        example = "/" + "/".join(quote(segment, safe="!$&'()*+,;=:@~") for segment in read)
        for (old, new), methods in groups.items():
            yield Region(host, frozenset(methods), named, old, new, example)


def _trees(policy: Policy) -> Iterator[Tree]:
    yield policy.own_tree
    yield from map(policy.tree, (None, *policy.hosts))


def _literals_below(node: Node) -> Iterator[bytes]:
    yield from node.literals
    for child in (*node.literals.values(), *(() if node.parameter is None else (node.parameter,))):
        yield from _literals_below(child)


def _following(step: _Step, elsewhere: Container[bytes] = ()) -> Iterator[_Step]:
    """The next steps from a pair of fronts.

    The segment for captures differs from all segments read so far and from every literal in `elsewhere`. The walk pops
    the last step first.
    """
    literals = _literals(step.old) | _literals(step.new)
    if not literals and not _may_go_on(step.old) and not _may_go_on(step.new):
        return
    other = _other_than(literals, step.read, elsewhere)
    yield _Step(_after(step.old, other), _after(step.new, other), (*step.read, other))
    for segment in literals:
        yield _Step(_after(step.old, segment), _after(step.new, segment), (*step.read, segment))


def _literals(front: StateSet) -> dict[bytes, None]:
    found: dict[bytes, None] = {}
    for each in front:
        if isinstance(each, Node):
            found |= dict.fromkeys(each.literals)
    return found


def _may_go_on(front: StateSet) -> bool:
    """Whether a continuation makes a difference: a `/**` place accepts all of them."""
    return any(isinstance(each, Node) for each in front)


def _other_than(*taken: Container[bytes]) -> bytes:
    """A segment contained in none of the arguments."""
    number, segment = 0, b"x"
    while any(segment in each for each in taken):
        number += 1
        segment = b"x%d" % number
    return segment


def _after(front: StateSet, segment: bytes) -> StateSet:
    """The front after one more segment. Entries after a `/**` place are unreachable and dropped."""
    following: list[Node | RouteGroup] = []
    for each in front:
        if isinstance(each, RouteGroup):
            return (*following, each)
        following += [child for child in (each.literals.get(segment), each.parameter) if child is not None]
        if each.rest is not None:
            return (*following, each.rest)
    return tuple(following)


def _end(front: StateSet) -> RouteGroup | None:
    """The place of a path that ends here."""
    for each in front:
        place = each if isinstance(each, RouteGroup) else each.place or each.rest
        if place is not None:
            return place
    return None


def _answer(place: RouteGroup | None, method: bytes) -> RegionResult:
    if place is None:
        return RegionResult(None, "no_route")
    at = next(place.routes)
    if not any(route.is_served for route in place.routes):
        return RegionResult(None, "no_route", at)  # reserved for a built-in endpoint that is not served
    route = place.route_for(method)
    return RegionResult(None, "method_not_allowed", at) if route is None else RegionResult(route, at=route)


def _meaning(answer: RegionResult, semantics: Meaning) -> Hashable:
    return None if answer.route is None else semantics(answer.route)


class _Fingerprints:
    """Numbers subtrees. Two subtrees have the same number only if they answer all paths alike."""

    def __init__(self, semantics: Meaning, interned: dict[Hashable, int]) -> None:
        self._meaning = semantics
        self._interned = interned
        self._known: dict[Node | RouteGroup, int] = {}

    def of_front(self, front: StateSet) -> tuple[int, ...]:
        """The numbers of the entries of a front."""
        return tuple(map(self._of, front))

    def _of(self, each: Node | RouteGroup) -> int:
        known = self._known.get(each)
        if known is None:
            shape = self._of_place(each) if isinstance(each, RouteGroup) else self._of_node(each)
            known = self._known[each] = self._interned.setdefault(shape, len(self._interned))
        return known

    def _of_place(self, place: RouteGroup) -> Hashable:
        methods = (*place.by_method, TRACE, OTHER_METHODS)
        meant = {method: _meaning(_answer(place, method), self._meaning) for method in methods}
        # A method with the same answer as unnamed methods makes no difference.
        usual = meant.pop(OTHER_METHODS)
        return "place", usual, frozenset((method, answer) for method, answer in meant.items() if answer != usual)

    def _of_node(self, node: Node) -> Hashable:
        children = frozenset((segment, self._of(child)) for segment, child in node.literals.items())
        others = (None if each is None else self._of(each) for each in (node.parameter, node.place, node.rest))
        return ("node", children, *others)
