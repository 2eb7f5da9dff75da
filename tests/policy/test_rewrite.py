"""The path sent to the upstream."""

from functools import cache

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gateway.errors import Refusal
from gateway.policy.patterns import PatternError, parse_pattern
from gateway.policy.policy import Policy
from gateway.policy.rewrite import parse_strip, parse_template
from gateway.wire.paths import canonical_target
from tests.policy.policies import matched, outcome, policy_of
from tests.support.scale import examples


def sent(path: bytes, pattern: str, **rewrite: str) -> bytes:
    """The path sent to the upstream."""
    route, captures = matched(policy := policy_of([{"path": pattern, "encoded_slash": "keep", **rewrite}]), path)
    assert policy.routes == (route,)
    assert route.rewrite is not None
    return route.rewrite.apply(canonical_target(path, relaxed=False).path, captures)


@pytest.mark.parametrize(
    ("path", "pattern", "prefix", "result"),
    [
        (b"/users/7/x", "/users/{id}/**", "/users", b"/7/x"),
        (b"/users/7/x/", "/users/{id}/**", "/users", b"/7/x/"),
        (b"/users", "/users/**", "/users", b"/"),
        (b"/users/", "/users/**", "/users", b"/"),
        (b"/a/b/c", "/a/b/**", "/a/b", b"/c"),
        (b"/a/b", "/a/b", "/a/b", b"/"),
        (b"/api%21/x", "/api!/**", "/api%21", b"/x"),
        (b"/users/a%2fb", "/users/{id}", "/users", b"/a%2Fb"),
    ],
)
def test_a_prefix_is_taken_off_by_whole_segments(path: bytes, pattern: str, prefix: str, result: bytes) -> None:
    assert sent(path, pattern, strip_prefix=prefix) == result


@pytest.mark.parametrize(
    ("path", "pattern", "template", "result"),
    [
        (b"/users/7/a/b", "/users/{id}/**", "/v2/{id}/{**}", b"/v2/7/a/b"),
        (b"/users/7/a/", "/users/{id}/**", "/v2/{id}/{**}", b"/v2/7/a/"),
        (b"/users/7", "/users/{id}/**", "/v2/{id}/{**}", b"/v2/7"),
        (b"/users/7/", "/users/{id}/**", "/v2/{id}/{**}", b"/v2/7/"),
        (b"/users/7", "/users/{id}/**", "/{**}", b"/"),
        (b"/users/7/", "/users/{id}/**", "/{**}", b"/"),
        (b"/users/7/x", "/users/{id}/**", "/{**}", b"/x"),
        (b"/users/7/x", "/users/{id}/**", "/fixed", b"/fixed"),
        (b"/a/b", "/{x}/{y}", "/{y}/{x}/{y}", b"/b/a/b"),
        (b"/a/b/", "/{x}/{y}", "/{y}", b"/b"),
        (b"/a/b", "/{x}/{y}", "/{y}/", b"/b/"),
        (b"/a", "/a", "/", b"/"),
        (b"/a%2Fb", "/{x}", "/v2/{x}", b"/v2/a%2Fb"),
        (b"/x/y", "/**", "/v2/{**}", b"/v2/x/y"),
        (b"/", "/**", "/v2/{**}", b"/v2/"),
    ],
)
def test_a_template_puts_captures_and_the_rest_into_another_path(
    path: bytes, pattern: str, template: str, result: bytes
) -> None:
    assert sent(path, pattern, rewrite=template) == result


def test_a_template_is_canonicalised_like_a_pattern() -> None:
    template = parse_template("/v 2/caf\u00e9/%7e", parse_pattern("/a"))
    assert template.apply(canonical_target(b"/a", relaxed=False).path, ()) == b"/v%202/caf%C3%A9/~"


def test_a_route_without_a_rewrite_has_none() -> None:
    assert policy_of([{"path": "/a"}]).routes[0].rewrite is None


@pytest.mark.parametrize(
    ("prefix", "pattern", "wrong"),
    [
        ("/api", "/users/**", "must be the beginning"),
        ("/api", "/{x}/**", "must be the beginning"),
        ("/ap", "/api/**", "must be the beginning"),
        ("/a/b", "/a", "must be the beginning"),
        ("/a", "/**", "must be the beginning"),
        ("/{x}", "/{x}/a", "must be literal"),
        ("/a/**", "/a/**", "must be literal"),
        ("/..", "/a/**", "can never match"),
    ],
)
def test_a_prefix_that_is_not_that_of_the_path_is_refused(prefix: str, pattern: str, wrong: str) -> None:
    with pytest.raises(PatternError, match=wrong):
        parse_strip(prefix, parse_pattern(pattern))


@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        ("v2", "must begin with '/'"),
        ("/v2?x=1", "query"),
        ("/v2#x", "query"),
        ("//v2", "empty segment"),
        ("/v2//", "empty segment"),
        ("/{unknown}", "'unknown', which is no capture"),
        ("/{}", "'', which is no capture"),
        ("/u-{id}", "only a part of a segment"),
        ("/{id", "unbalanced"),
        ("/{**}/x", "at its end only"),
        ("/{**}/{**}", "at its end only"),
        ("/**", "no wildcard"),
        ("/../x", "a segment of dots"),
        ("/%2e/x", "a segment of dots"),
        ("/a;b", "a semicolon"),
        ("/a%2Fb", "escaped slash"),
        ("/a%", "a percent sign without two hexadecimal digits"),
    ],
)
def test_a_template_that_makes_no_path_is_refused(template: str, wrong: str) -> None:
    with pytest.raises(PatternError, match=wrong.replace("*", r"\*")):
        parse_template(template, parse_pattern("/users/{id}/**"))


def test_the_rest_needs_a_pattern_that_has_one() -> None:
    with pytest.raises(PatternError, match=r"only where the route's path ends in /\*\*"):
        parse_template("/v2/{**}", parse_pattern("/users/{id}"))


def test_the_stripped_prefix_of_the_advisory_leaves_no_dots() -> None:
    """CVE-2026-48020: stripping `/api` from `/api../admin/x` left `/../admin/x`."""
    policy = policy_of([{"path": "/api/**", "strip_prefix": "/api", "name": "api"}])
    assert outcome(policy, b"/api../admin/x") == "no_route"
    assert outcome(policy, b"/api/../admin/x") == "bad_path"


_SEGMENTS = st.lists(
    st.sampled_from([b"a", b"api", b"..", b".", b"api..", b"%2e", b"%20", b"%2Fx", b"x%2Fy", b";", b"%25", b"", b"41"]),
    max_size=5,
)


@cache
def keeping(template: str) -> Policy:
    """A policy with both kinds of rewrite that keeps encoded slashes."""
    return policy_of(
        [
            {"path": "/api/**", "strip_prefix": "/api", "encoded_slash": "keep"},
            {"path": "/api/{x}/{y}/**", "rewrite": template, "encoded_slash": "keep"},
        ]
    )


@given(_SEGMENTS, st.booleans(), st.sampled_from(["/v2/{x}/{**}", "/{**}", "/{x}", "/{y}/{x}/", "/"]))
@examples(400)
@example([b"api..", b"x"], False, "/{**}")
@example([b"%25", b"41"], True, "/{y}/{x}/")
def test_the_sent_path_is_canonical_again(segments: list[bytes], slash: bool, template: str) -> None:
    try:
        target = canonical_target(b"/api/" + b"/".join(segments) + (b"/" if slash else b""), relaxed=False)
    except Refusal:
        assume(False)
    route, captures = keeping(template).match(None, target, b"GET")
    assert route.rewrite is not None
    result = route.rewrite.apply(target.path, captures)
    assert canonical_target(result, relaxed=False).path == result
