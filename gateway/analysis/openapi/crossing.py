"""Requests that match two path templates of a document, neither of which is more concrete than the other.

`/guilds/templates/audit` matches `/guilds/templates/{code}` and `/guilds/{id}/audit`. OpenAPI leaves the choice to the
tools, and the upstream's choice is unknown. A policy prefers the leftmost literal. Without a rule for these requests,
they would have to meet the requirements of one template only.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Final

from gateway.errors import CannotStart
from gateway.policy.patterns import Pattern, Segments, parse_pattern

_MOST: Final = 2000  # rules of crossings in one draft


def crossings(patterns: Iterable[Pattern]) -> Iterator[Pattern]:
    """Yield the patterns of requests that match two of these patterns, neither more concrete, each once.

    Patterns of a document have no `/**`. Raises CannotStart for more than _MOST crossings.
    """
    by_length: dict[int, dict[Segments, Pattern]] = {}
    for pattern in patterns:
        by_length.setdefault(len(pattern.segments), {})[pattern.segments] = pattern
    seen: set[Segments] = set()
    for alike in by_length.values():
        for one, other in combinations([each for each in alike.values() if None in each.segments], 2):
            if _cross(one.segments, other.segments):
                common = tuple(b if a is None else a for a, b in zip(one.segments, other.segments, strict=True))
                if common not in alike and common not in seen:
                    seen.add(common)
                    if len(seen) > _MOST:
                        raise CannotStart(
                            f"more than {_MOST} pairs of path templates match the same paths, such as {one.text} and "
                            f"{other.text} (one document for each part of the API)"
                        )
                    yield _common(one, other)


def covers(broad: Segments, narrow: Segments) -> bool:
    """Whether every path of `narrow` is one of `broad`."""
    return len(broad) == len(narrow) and all(a is None or a == b for a, b in zip(broad, narrow, strict=True))


def overlap(one: Segments, other: Segments) -> bool:
    """Return whether a path matches both."""
    return len(one) == len(other) and all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))


def candidates(segments: Segments, templates: Sequence[Segments]) -> list[Segments]:
    """Return the templates that a request for a crossing can mean: those that share a path with it, except templates
    with a more concrete one that matches every path of the crossing."""
    covering = [each for each in templates if covers(each, segments)]
    return [
        each
        for each in templates
        if overlap(each, segments) and not any(other != each and covers(each, other) for other in covering)
    ]


def preferred(segments: Segments, templates: Iterable[Segments]) -> Segments:
    """Return the template by which a policy decides on a crossing: the one with the leftmost literal."""
    return min(
        (each for each in templates if covers(each, segments)), key=lambda each: [segment is None for segment in each]
    )


def _cross(one: Segments, other: Segments) -> bool:
    narrower = wider = False
    for a, b in zip(one, other, strict=True):
        if a != b:
            if a is not None and b is not None:
                return False
            narrower |= b is None
            wider |= a is None
    return narrower and wider


def _common(one: Pattern, other: Pattern) -> Pattern:
    mine, its = one.text.split("/")[1:], other.text.split("/")[1:]
    parts = zip(other.segments, mine, its, strict=True)
    return parse_pattern("".join(f"/{own if segment is None else theirs}" for segment, own, theirs in parts))
