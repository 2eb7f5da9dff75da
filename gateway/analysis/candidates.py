"""All routes that could match a request, and why each of them lost.

The matcher only finds the winner. This module walks the same trees in the matcher's order of preference and collects
every match. If no route matches the path, it lists the nearest routes instead, which explains a 404.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final, NamedTuple

from gateway.analysis.simulate import PolicyRequest, SimulationResult
from gateway.policy.patterns import Segments
from gateway.policy.policy import Policy, group_by_host
from gateway.policy.route import Route, allowed_methods
from gateway.policy.trie import Node, RouteGroup, Tree
from gateway.policy.trie_walk import Located, places_below, places_for
from gateway.wire.paths import CanonicalPath, decoded_segment

_MOST: Final = 3


def nearest(tree: Tree, segments: Sequence[bytes]) -> list[tuple[Route, str]]:
    """The nearest routes, each with its difference from the path: those that differ only in letter case, else those
    with the longest common prefix. Empty if no route shares the first segment.

    Walks only branches that begin like the path: a tree can have tens of thousands of routes."""
    near = [(each, why) for each in _alike(tree.top, segments, ()) if (why := _case_differs(each, segments))]
    if not near:
        ends = _ends([((), tree.top)], segments)
        reached = len(ends[0][0])
        found = chain.from_iterable(places_below(node, at) for at, node in ends if reached)
        near = [(each, _parting(each, segments, reached)) for each in islice(found, _MOST)]
    return [(next(each.place.routes), why) for each, why in near[:_MOST]]


_Branch = tuple[Segments, Node]


def _alike(node: Node, segments: Sequence[bytes], at: Segments) -> Iterator[Located]:
    """The places that take the path if letter case does not count."""
    if len(at) == len(segments):
        if node.place is not None:
            yield Located(None, at, False, node.place)
    else:
        lowered = segments[len(at)].lower()
        for literal in sorted(each for each in node.literals if each.lower() == lowered):
            yield from _alike(node.literals[literal], segments, (*at, literal))
        if node.parameter is not None:
            yield from _alike(node.parameter, segments, (*at, None))
    if node.rest is not None and len(segments) > len(at):
        yield Located(None, at, True, node.rest)


def _ends(branches: list[_Branch], segments: Sequence[bytes]) -> list[_Branch]:
    """The branches that go along with the path the farthest, all of the same length."""
    depth = len(branches[0][0])
    further: list[_Branch] = []
    for at, node in branches if depth < len(segments) else ():
        literal = node.literals.get(segments[depth])
        if literal is not None:
            further.append(((*at, segments[depth]), literal))
        if node.parameter is not None:
            further.append(((*at, None), node.parameter))
    return _ends(further, segments) if further else branches


def _case_differs(each: Located, segments: Sequence[bytes]) -> str:
    fits = len(segments) == len(each.segments) or (each.has_rest and len(segments) > len(each.segments))
    pairs = list(_pairs(each, segments))
    if not fits or any(want is not None and want.lower() != have.lower() for want, have in pairs):
        return ""
    want, have = next((pair for pair in pairs if pair[0] not in (None, pair[1])), (b"", b""))
    return f"letter case counts: '{_text(want)}', found '{_text(have)}'"


def _parting(each: Located, segments: Sequence[bytes], reached: int) -> str:
    if reached == len(segments):
        return f"it goes on with '{_text(each.segments[reached])}'"
    if reached == len(each.segments):
        return f"it ends before '{_text(segments[reached])}', and only /** takes what lies below"
    return f"segment {reached + 1} is '{_text(each.segments[reached])}', found '{_text(segments[reached])}'"


def _pairs(each: Located, segments: Sequence[bytes]) -> Iterator[tuple[bytes | None, bytes]]:
    return zip(each.segments, segments, strict=False)


def _text(segment: bytes | None) -> str:
    return "{…}" if segment is None else segment.decode("utf-8", "replace")


MOST: Final = 50  # The number of routes listed. A file can use one path for ten thousand hosts.


class RouteCandidate(NamedTuple):
    """A route that was considered. `lost` is the reason why it did not win, "" for the winner."""

    route: Route
    lost: str


def candidates(policy: Policy, request: PolicyRequest, verdict: SimulationResult) -> tuple[RouteCandidate, ...]:
    """The routes that match the path: the winner, then the others by preference, then routes of other hosts. If no
    route matches, the nearest ones. Empty if the path or the host was refused."""
    if verdict.target is None or (verdict.refusal is not None and verdict.refusal.code == "bad_host"):
        return ()
    segments = segments_of(verdict.target.path)
    found = tuple(islice(_considered(policy, request, verdict, segments), MOST))
    if found:
        return found
    tree = policy.tree(verdict.host)
    return tuple(RouteCandidate(route, f"does not take the path: {why}") for route, why in nearest(tree, segments))


def segments_of(path: CanonicalPath) -> tuple[bytes, ...]:
    """The decoded segments of a path. A trailing slash makes no difference."""
    parts = path.split(b"/")[1:]
    return tuple(decoded_segment(part) for part in (parts if parts[-1] else parts[:-1]))


def _considered(
    policy: Policy, request: PolicyRequest, verdict: SimulationResult, segments: Sequence[bytes]
) -> Iterator[RouteCandidate]:
    own = list(places_for(policy.own_tree, segments))[:1]
    in_order = [*own, *places_for(policy.tree(verdict.host), segments)]
    for place in in_order[:1]:
        yield from _of_the_place(place, _method_judged(request, verdict), verdict)
    for place in in_order[1:]:
        winner = verdict.route or next(in_order[0].routes)
        for route in _routes(place):
            yield RouteCandidate(route, "the gateway's own paths come first" if own else _why_later(winner, route))
    yield from _of_other_hosts(policy, verdict.host, segments)
    yield from _shadows(policy, segments)


def _method_judged(request: PolicyRequest, verdict: SimulationResult) -> bytes:
    """The method that decided: the requested one for an answered preflight, OPTIONS for one that no rule answers."""
    is_answer = verdict.answered or (verdict.refusal is not None and verdict.refusal.code == "origin_not_allowed")
    return request.method if is_answer or not request.preflight else b"OPTIONS"


def _routes(place: RouteGroup) -> list[Route]:
    """The distinct routes of a place."""
    return list(dict.fromkeys(place.routes))


def _of_the_place(place: RouteGroup, method: bytes, verdict: SimulationResult) -> Iterator[RouteCandidate]:
    """The routes at the matched place. The method picks one of them, and only that one can still refuse the path."""
    for route in sorted(_routes(place), key=lambda each: each is not verdict.route):
        if route is verdict.route:
            yield RouteCandidate(route, "")
        elif not route.serves(method):
            served = ", ".join(sorted(name.decode() for name in allowed_methods(route)))
            yield RouteCandidate(route, f"serves {served}, not {method.decode('ascii', 'replace')}")
        else:
            reason = verdict.refusal.reason if verdict.refusal is not None else "another route won"
            yield RouteCandidate(route, reason)


def _why_later(winner: Route, route: Route) -> str:
    """Why a less specific route lost."""
    mine, others = winner.shape, route.shape
    theirs = {number: name for name, number in others.captures}
    spelled = mine.text.split("/")
    for number, segment in enumerate(mine.segments, 1):
        if number > len(others.segments):
            return f"segment {number}: {_spelled(segment, spelled[number])} goes before /**"
        if segment is not None and others.segments[number - 1] is None:
            return f"segment {number}: {_spelled(segment, spelled[number])} goes before {{{theirs[number]}}}"
    return "the path itself goes before /**"


def _spelled(segment: bytes | None, text: str) -> str:
    return text if segment is None else f"the literal '{text}'"


def _of_other_hosts(policy: Policy, host: bytes | None, segments: Sequence[bytes]) -> Iterator[RouteCandidate]:
    seen = host if host in policy.hosts else None
    for other in (None, *sorted(policy.hosts)):
        if other != seen:
            for place in places_for(policy.tree(other), segments):
                for route in _routes(place):
                    yield RouteCandidate(route, _why_not_here(route, host))


def _why_not_here(route: Route, host: bytes | None) -> str:
    if route.host is not None:
        found = "the request has no host" if host is None else f"the request is for {host.decode()}"
        return f"only for the host {route.host.decode()}; {found}"
    assert host is not None, "a request without a host sees the routes without one"
    return f"has no host, and requests for {host.decode()} see only the routes that name it"


def _shadows(policy: Policy, segments: Sequence[bytes]) -> Iterator[RouteCandidate]:
    for tree in map(Tree, _grouped(route for route in policy.routes if route.shadow)):
        for place in places_for(tree, segments):
            for route in _routes(place):
                yield RouteCandidate(route, "a shadow rule: it decides nothing")


def _grouped(routes: Iterable[Route]) -> Iterable[list[Route]]:
    return group_by_host(routes).values()
