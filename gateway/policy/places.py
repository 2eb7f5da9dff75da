"""Walking the trees of a policy: every place there is, and every place that would take a path.

Nothing here decides. It is for who wants to know what the matcher has to choose from: why a route lost, which routes
two policies have in common, what nobody ever reaches.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gateway.policy.matcher import Policy
from gateway.policy.patterns import Segments
from gateway.policy.trie import Node, Place, Tree


class Located(NamedTuple):
    """A place and where it is: on `host` (None: every host that no route names), at the end of `segments` (decoded
    literals, None for any one segment), and with `has_rest` for all that lies below them too."""

    host: bytes | None
    segments: Segments
    has_rest: bool
    place: Place


def places(policy: Policy) -> Iterator[Located]:
    """Every place of the enforced routes of the file, host by host, in each the more specific ones first."""
    for host in (None, *sorted(policy.hosts)):
        yield from places_in(policy.tree(host), host)


def places_in(tree: Tree, host: bytes | None = None) -> Iterator[Located]:
    """Every place of one tree, in the order in which a path that fits several is given to them."""
    yield from _below(tree.top, (), host)


def places_for(tree: Tree, segments: Sequence[bytes]) -> Iterator[Place]:
    """Every place whose pattern takes a path, the most specific first: the first one is what the matcher finds.

    `segments` are the decoded ones of a canonical path, without the empty one before the first slash and the empty
    one after the last.
    """
    yield from _taking(tree.top, segments, 0)


def _below(node: Node, segments: Segments, host: bytes | None) -> Iterator[Located]:
    for literal in sorted(node.literals):
        yield from _below(node.literals[literal], (*segments, literal), host)
    if node.parameter is not None:
        yield from _below(node.parameter, (*segments, None), host)
    for place, has_rest in ((node.place, False), (node.rest, True)):
        if place is not None:
            yield Located(host, segments, has_rest, place)


def _taking(node: Node, segments: Sequence[bytes], depth: int) -> Iterator[Place]:
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
