"""The matcher, compared with a naive reference and with all paths that a lenient upstream could read."""

import re
from collections.abc import Sequence
from urllib.parse import quote, unquote_to_bytes

from hypothesis import assume, event, example, given
from hypothesis import strategies as st

from gateway.errors import Refusal
from gateway.policy.patterns import PatternError, parse_pattern
from gateway.policy.policy import Policy
from gateway.policy.route import Route, with_head
from gateway.wire.paths import RequestTarget, canonical_target
from tests.policy.policies import matched, outcome, patterns
from tests.support.scale import examples

# ---- the reference tries every route and segment, and selects the best match


def rank(route: Route, segments: Sequence[bytes]) -> tuple[int, ...] | None:
    """The specificity of a match: 0 for a literal, 1 for a capture, 2 for the rest; smaller is better."""
    fixed, has_rest = route.shape.shape
    if len(segments) < len(fixed) or (len(segments) > len(fixed) and not has_rest):
        return None
    if any(want is not None and want != have for want, have in zip(fixed, segments, strict=False)):
        return None
    return (*(1 if want is None else 0 for want in fixed), *([2] if has_rest else []))


def naive(routes: Sequence[Route], host: bytes | None, segments: Sequence[bytes], method: bytes) -> str:
    """The name of the route for a request, or the error code."""
    named = {route.host for route in routes if route.host is not None}
    seen = [route for route in routes if route.host == (host if host in named else None)]
    ranked = [(found, route) for route in seen if (found := rank(route, segments)) is not None]
    if not ranked:
        return "no_route"
    best = min(found for found, _ in ranked)
    place = [route for found, route in ranked if found == best]
    return next((r.name for r in place if serves(r, method)), "method_not_allowed")


def serves(route: Route, method: bytes) -> bool:
    """A route without methods serves all methods except TRACE."""
    return method != b"TRACE" if route.methods is None else method in route.methods


def clash(one: Route, other: Route) -> bool:
    """Whether two routes of one place serve the same method."""
    return any(serves(one, method) and serves(other, method) for method in (b"GET", b"PUT", b"POST", b"TRACE"))


def split(path: bytes) -> list[bytes]:
    """The decoded segments of a path; a trailing slash makes no difference."""
    parts = path.strip(b"/").split(b"/") if path != b"/" else []
    return [unquote_to_bytes(part) for part in parts]


# ---- random policies and paths over a small alphabet, so that they match often

_LITERALS = ["a", "b", "admin", "a!", "v1.2", "é", "%7Ba", "x y", "50%25", "a+b"]
_segment = st.one_of(st.sampled_from(_LITERALS), st.just("{}"))
_pattern = st.tuples(st.lists(_segment, max_size=4), st.booleans())
_methods = st.one_of(
    st.none(), st.sets(st.sampled_from([b"GET", b"PUT", b"POST", b"TRACE"]), min_size=1, max_size=2).map(frozenset)
)
_hosts = st.sampled_from([None, None, b"one.example", b"two.example"])


def _text(segments: Sequence[str], has_rest: bool) -> str:
    parts = [f"{{c{number}}}" if part == "{}" else part for number, part in enumerate(segments)]
    return "/" + "/".join([*parts, "**"] if has_rest else parts)


@st.composite
def policies(draw: st.DrawFn) -> list[Route]:
    """Routes without conflicts."""
    kept: list[Route] = []
    for number, ((segments, has_rest), methods, host) in enumerate(
        draw(st.lists(st.tuples(_pattern, _methods, _hosts), max_size=12))
    ):
        route = Route(
            name=f"r{number}",
            shape=parse_pattern(_text(segments, has_rest)),
            methods=None if methods is None else with_head(methods),
            host=host,
            upstream="web",
        )
        same = [r for r in kept if (r.shape.shape, r.host) == (route.shape.shape, route.host)]
        if not any(clash(each, route) for each in same):
            kept.append(route)
    return kept


def _spellings(literal: str) -> st.SearchStrategy[bytes]:
    """Spellings of a literal in requests: plain, or with bytes escaped."""
    decoded = unquote_to_bytes(quote(literal, safe="%!+"))
    canonical = quote(decoded, safe="!+").encode()
    return st.one_of(st.just(canonical), st.just(b"".join(b"%%%02x" % octet for octet in decoded)))


_path_segment = st.one_of(
    *(_spellings(literal) for literal in _LITERALS), st.sampled_from([b"other", b"%C3%A9", b"..a", b"A"])
)
paths = st.tuples(st.lists(_path_segment, max_size=5), st.booleans()).map(
    lambda drawn: b"/" + b"/".join(drawn[0]) + (b"/" if drawn[0] and drawn[1] else b"")
)


@given(
    policies(), st.lists(paths, min_size=1, max_size=8), st.sampled_from([b"GET", b"HEAD", b"PUT", b"PATCH", b"TRACE"])
)
@examples(400)
def test_the_matcher_agrees_with_trying_every_route(routes: list[Route], raws: list[bytes], method: bytes) -> None:
    policy = Policy(routes)
    for raw in raws:
        target = canonical_target(raw, relaxed=False)
        for host in (None, b"", b"one.example", b"three.example"):
            expected = naive(routes, host, split(target.path), method)
            event(expected if "_" in expected else "matched")
            try:
                match = policy.match(host, target, method)
            except Refusal as refusal:
                assert refusal.code == expected
                if refusal.code == "method_not_allowed":
                    assert refusal.allow == _allowed(routes, host, target)
            else:
                assert match.route.name == expected
                parts = target.path.split(b"/")
                assert match.captures == tuple((name, parts[n]) for name, n in match.route.shape.captures)


def _allowed(routes: Sequence[Route], host: bytes | None, target: RequestTarget) -> str:
    methods = [b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"TRACE"]
    served = [m for m in methods if naive(routes, host, split(target.path), m) != "method_not_allowed"]
    return ", ".join(method.decode() for method in served)


# ---- lenient upstreams


_PIECES = [
    b"/", b"/", b"/", b"a", b"b", b"admin", b"public", b"%61dmin", b"a!", b"%21", b".", b"%2e", b"..",
    b"%2f", b"%5c",
    b"%3b", b";x=1", b"%25", b"%2525", b"25", b"2e", b"2f", b"%20", b"%c3%a9", b"%3f", b"%23", b"?",
    b"%00", b"\\", b"x",
]  # fmt: skip
_raw_targets = st.lists(st.sampled_from(_PIECES), max_size=9).map(lambda parts: b"/" + b"".join(parts))
_quirks = st.fixed_dictionaries(
    {
        "decodings": st.integers(0, 3),
        "lower": st.booleans(),
        "backslash": st.booleans(),
        "parameters": st.sampled_from(["", "before", "after"]),
        "query": st.booleans(),
    }
)


def lenient(path: bytes, *, decodings: int, lower: bool, backslash: bool, parameters: str, query: bool) -> list[bytes]:
    """The segments that an upstream with these habits sees, with slashes merged and dot segments resolved."""
    if lower:
        path = re.sub(rb"%[0-9A-F]{2}", lambda escape: escape[0].lower(), path)
    if parameters == "before":
        path = re.sub(rb";[^/]*", b"", path)
    for _ in range(decodings):
        path = unquote_to_bytes(path)
    if query:
        path = re.split(rb"[?#]", path)[0]
    if backslash:
        path = path.replace(b"\\", b"/")
    if parameters == "after":
        path = re.sub(rb";[^/]*", b"", path)
    resolved: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del resolved[-1:]
        elif segment not in (b"", b"."):
            resolved.append(segment)
    # An upstream that decodes nothing compares with its own routes in any spelling.
    return [unquote_to_bytes(segment) for segment in resolved] if decodings == 0 else resolved


SHARP = patterns("/admin/**", "/admin", "/a!/{x}", "/{x}/admin", "/public/**", "/a/b", "/é/{x}/**", "/**")
SHARP_RELAXED = patterns(
    "/admin/**", "/admin", "/a!/{x}", "/{x}/admin", "/public/**", "/a/b", "/é/{x}/**", "/**", relaxed=True
)


def _match(policy: Policy, raw: bytes, *, relaxed: bool) -> tuple[RequestTarget, Route]:
    try:
        target = canonical_target(raw, relaxed=relaxed)
        return target, policy.match(None, target, b"GET").route
    except Refusal:
        assume(False)
        raise


@given(_raw_targets, _quirks)
@examples(500)
@example(b"/public/%2e%2e/admin", {"decodings": 1, "lower": 0, "backslash": 0, "parameters": "", "query": 0})
@example(b"/a%21/x", {"decodings": 1, "lower": 0, "backslash": 0, "parameters": "", "query": 0})
def test_no_lenient_upstream_sees_another_route_than_the_one_that_decided(
    raw: bytes, quirks: dict[str, object]
) -> None:
    target, route = _match(SHARP, raw, relaxed=False)
    seen = lenient(target.path, **quirks)  # type: ignore[arg-type]
    assert naive(SHARP.routes, None, seen, b"GET") == route.name


@given(_raw_targets, _quirks)
@examples(500)
@example(b"/admin;a=b/x", {"decodings": 1, "lower": 0, "backslash": 0, "parameters": "before", "query": 0})
@example(b"/admin%252Fx", {"decodings": 2, "lower": 0, "backslash": 0, "parameters": "", "query": 0})
@example(b"/%c3%a9;x=1/%3b", {"decodings": 0, "lower": 0, "backslash": 0, "parameters": "before", "query": 0})
def test_the_same_holds_for_relaxed_paths(raw: bytes, quirks: dict[str, object]) -> None:
    target, route = _match(SHARP_RELAXED, raw, relaxed=True)
    seen = lenient(target.path, **quirks)  # type: ignore[arg-type]
    assert naive(SHARP_RELAXED.routes, None, seen, b"GET") == route.name


# ---- captures match every valid segment

_PCHAR = st.sampled_from("ABCXYZabcxyz0189-._~!$&'()*+,=:@")


@given(st.text(_PCHAR, min_size=1, max_size=12).filter(lambda text: text.strip(".")))
def test_all_that_a_segment_may_hold_is_matched_by_a_capture(text: str) -> None:
    """CVE-2025-46821: the matcher did not accept `*` in paths, so a denying rule was bypassed."""
    policy = patterns("/admin/{x}", "/**")
    match = matched(policy, b"/admin/" + text.encode())
    assert match.route.name == "/admin/{x}"
    assert match.captures == (("x", text.encode()),)


@given(st.characters(exclude_categories=["Cs"]))
def test_every_character_that_may_be_escaped_is_matched_by_a_capture(character: str) -> None:
    raw = b"/admin/" + b"".join(b"%%%02X" % octet for octet in ("x" + character).encode())
    policy = patterns("/admin/{x}", "/**")
    try:
        assert matched(policy, raw).route.name == "/admin/{x}"
    except Refusal as refusal:
        assert refusal.code == "bad_path"
        assert character in "/\\;?#" or not character.isprintable()


@given(st.text(st.sampled_from(".+*?^$()[]|{}\\ab"), min_size=1, max_size=6))
def test_a_literal_matches_itself_only(text: str) -> None:
    """CVE-2026-39350: a dot in a rule matched any character."""
    literal = quote(text, safe=".+^$()[]|ab!")
    try:
        policy = Policy([Route(name="it", shape=parse_pattern(f"/{literal}"), methods=None)])
    except PatternError:
        assume(False)
    for other in (b"a", b"b", b"ab", b"aab", b"", b"axb", literal.encode()):
        assert (outcome(policy, b"/" + other) == "it") is (unquote_to_bytes(other) == text.encode())
