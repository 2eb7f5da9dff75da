"""Iterating over a policy: every place once, and for a path all matching places, the winner first."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.policy import Policy
from gateway.policy.route import Route
from gateway.policy.trie_walk import places, places_for
from gateway.wire.paths import canonical_target
from tests.policy.policies import policy_of
from tests.policy.test_policy_properties import paths, policies, rank, split
from tests.support.scale import examples


def test_every_place_is_listed_with_its_position() -> None:
    policy = policy_of(
        [
            {"path": "/a/{id}/**"},
            {"path": "/a/{id}", "methods": ["GET"]},
            {"path": "/a/{other}", "methods": ["PUT"]},
            {"path": "/b", "host": "one.example"},
        ]
    )
    found = [(each.host, each.segments, each.has_rest, len(set(each.place.routes))) for each in places(policy)]
    assert found == [
        (None, (b"a", None), False, 2),
        (None, (b"a", None), True, 1),
        (b"one.example", (b"b",), False, 1),
    ]


def test_shadow_rules_have_no_place() -> None:
    policy = policy_of([{"path": "/a"}, {"path": "/b", "shadow": True}])
    assert [each.segments for each in places(policy)] == [(b"a",)]


@given(policies())
@examples(100)
def test_all_routes_have_a_place_and_stand_in_it(routes: list[Route]) -> None:
    policy = Policy(routes)
    found = {route: each for each in places(policy) for route in each.place.routes}
    assert set(found) == set(routes)
    for route, each in found.items():
        assert (each.host, each.segments, each.has_rest) == (route.host, *route.shape.shape)


@given(policies(), st.lists(paths, min_size=1, max_size=8))
@examples(200)
def test_the_places_for_a_path_are_those_that_match_it_and_the_first_one_wins(
    routes: list[Route], raws: list[bytes]
) -> None:
    policy = Policy(routes)
    for raw in raws:
        segments = split(canonical_target(raw, relaxed=False).path)
        for host in (None, b"one.example"):
            tree = policy.tree(host)
            found = list(places_for(tree, segments))
            assert (found[0] if found else None) is tree.find([b"", *segments])
            assert [set(place.routes) for place in found] == _by_rank(routes, host, segments)


def _by_rank(routes: Sequence[Route], host: bytes | None, segments: Sequence[bytes]) -> list[set[Route]]:
    seen = host if any(route.host == host for route in routes) else None
    groups: dict[tuple[int, ...], set[Route]] = {}
    for route in routes:
        found = rank(route, segments) if route.host == seen else None
        if found is not None:
            groups.setdefault(found, set()).add(route)
    return [groups[found] for found in sorted(groups)]
