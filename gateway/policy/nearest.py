"""Find the routes nearest to a path that matches none, to explain a 404."""

from collections.abc import Iterator, Sequence
from typing import Final

from gateway.policy.places import Located, places_in
from gateway.policy.route import Route
from gateway.policy.trie import Tree

_MOST: Final = 3


def nearest(tree: Tree, segments: Sequence[bytes]) -> list[tuple[Route, str]]:
    """The nearest routes, each with its difference from the path: those that differ only in letter case, else those
    with the longest common prefix. Empty if no route shares the first segment."""
    found = list(places_in(tree))
    alike = [(each, _case_differs(each, segments)) for each in found]
    near = [(each, why) for each, why in alike if why]
    if not near:
        reached = max((_agreeing(each, segments) for each in found), default=0)
        near = [(each, _parting(each, segments, reached)) for each in found if _agreeing(each, segments) == reached > 0]
    return [(next(each.place.routes), why) for each, why in near[:_MOST]]


def _case_differs(each: Located, segments: Sequence[bytes]) -> str:
    fits = len(segments) == len(each.segments) or (each.has_rest and len(segments) > len(each.segments))
    pairs = list(_pairs(each, segments))
    if not fits or any(want is not None and want.lower() != have.lower() for want, have in pairs):
        return ""
    want, have = next((pair for pair in pairs if pair[0] not in (None, pair[1])), (b"", b""))
    return f"letter case counts: '{_text(want)}', found '{_text(have)}'"


def _agreeing(each: Located, segments: Sequence[bytes]) -> int:
    """The number of leading segments that match."""
    agreeing = 0
    for want, have in _pairs(each, segments):
        if want is not None and want != have:
            break
        agreeing += 1
    return agreeing


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
