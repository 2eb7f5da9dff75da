"""Find the routes nearest to a path that matches none, to explain a 404."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Final

from gateway.policy.patterns import Segments
from gateway.policy.route import Route
from gateway.policy.trie import Node, Tree
from gateway.policy.trie_walk import Located, places_below

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
        wanted = segments[len(at)].lower()
        for literal in sorted(each for each in node.literals if each.lower() == wanted):
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
