"""Iterate over the trees of a policy: all places, or all places that match a path.

Used for explanations, comparisons and warnings. Decisions do not use it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gateway.policy.patterns import Segments
from gateway.policy.policy import Policy
from gateway.policy.trie import Node, RouteGroup, Tree


class Located(NamedTuple):
    """A place and its position: `host` (None: every host that no route names), `segments` (decoded literals, None for
    captures), and `has_rest` for a trailing `/**`."""

    host: bytes | None
    segments: Segments
    has_rest: bool
    place: RouteGroup


def places(policy: Policy) -> Iterator[Located]:
    """Every place of the enforced routes, by host, more specific ones first."""
    for host in (None, *sorted(policy.hosts)):
        yield from places_in(policy.tree(host), host)


def places_in(tree: Tree, host: bytes | None = None) -> Iterator[Located]:
    """Every place of one tree, in order of precedence."""
    yield from places_below(tree.top, (), host)


def places_for(tree: Tree, segments: Sequence[bytes]) -> Iterator[RouteGroup]:
    """Every place that matches a path, the most specific first. The matcher selects the first one.

    `segments` are the decoded segments of a canonical path, without empty ones at the start and the end.
    """
    yield from _taking(tree.top, segments, 0)


def places_below(node: Node, segments: Segments, host: bytes | None = None) -> Iterator[Located]:
    """Every place of a branch that begins with these segments, in the order of `places_in`."""
    for literal in sorted(node.literals):
        yield from places_below(node.literals[literal], (*segments, literal), host)
    if node.parameter is not None:
        yield from places_below(node.parameter, (*segments, None), host)
    for place, has_rest in ((node.place, False), (node.rest, True)):
        if place is not None:
            yield Located(host, segments, has_rest, place)


def _taking(node: Node, segments: Sequence[bytes], depth: int) -> Iterator[RouteGroup]:
    if depth == len(segments):
        if node.place is not None:
            yield node.place
    else:
        literal = node.literals.get(segments[depth])
        for following in (literal, node.parameter):
            if following is not None:
                yield from _taking(following, segments, depth + 1)
    if node.rest is not None:
        yield node.rest
