"""The nearest routes for an unmatched path, and how they differ from it."""

import pytest

from gateway.analysis.candidates import nearest, segments_of
from gateway.wire.paths import canonical_target
from tests.policy.policies import patterns
from tests.support.calls import calls_here

POLICY = patterns("/api/v1/items", "/api/v1/items/{id}/parts", "/Files/{name}", "/files", "/deep/a/b/c/**", "/café/x")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/API/v1/items", {"/api/v1/items": "letter case counts: 'api', found 'API'"}),
        (b"/files/x", {"/Files/{name}": "letter case counts: 'Files', found 'files'"}),
        (b"/deep/A/b/c/d", {"/deep/a/b/c/**": "letter case counts: 'a', found 'A'"}),
        (
            b"/api/v2/items",
            {
                "/api/v1/items": "segment 2 is 'v1', found 'v2'",
                "/api/v1/items/{id}/parts": "segment 2 is 'v1', found 'v2'",
            },
        ),
        (b"/api/v1/items/7", {"/api/v1/items/{id}/parts": "it goes on with 'parts'"}),
        (b"/files/x/y", {"/files": "it ends before 'x', and only /** takes what lies below"}),
        (b"/deep/a/b", {"/deep/a/b/c/**": "it goes on with 'c'"}),
        (b"/caf%C3%A9/y", {"/caf%C3%A9/x": "segment 2 is 'x', found 'y'"}),
        (b"/", {}),
        (b"/nothing/like/it", {}),
    ],
)
def test_the_nearest_routes_are_listed_with_the_difference(path: bytes, expected: dict[str, str]) -> None:
    found = nearest(POLICY.tree(None), segments_of(canonical_target(path, relaxed=False).path))
    assert {route.name: why for route, why in found} == expected


def test_few_of_many_are_listed() -> None:
    policy = patterns(*(f"/a/{number}" for number in range(100)))
    assert len(nearest(policy.tree(None), (b"a", b"x"))) == 3


@pytest.mark.parametrize("segments", [(b"a", b"x"), (b"A", b"x"), (b"b", b"1", b"x"), (b"x",)])
def test_the_work_does_not_grow_with_the_routes(segments: tuple[bytes, ...]) -> None:
    counts = []
    for number in (30, 300):
        policy = patterns("/", *(f"/a/{each}/c" for each in range(number)), *(f"/b/{each}" for each in range(number)))
        with calls_here() as calls:
            nearest(policy.tree(None), segments)
        counts.append(len(calls))
    assert counts[0] == counts[1]
