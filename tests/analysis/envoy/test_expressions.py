"""The expressions for Envoy are equivalent to the gateway's own code."""

import re
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.analysis.envoy.messages import early_mutations
from gateway.analysis.envoy.paths import ACCEPTED, FORBIDDEN, HOST, after, matching
from gateway.errors import Refusal
from gateway.policy.patterns import parse_pattern
from gateway.policy.policy import Policy
from gateway.policy.route import Route
from gateway.wire.fields import Action, FieldRules
from gateway.wire.hosts import canonical_host
from gateway.wire.paths import canonical_path, canonical_target
from tests.advisories.test_paths import ALWAYS, STRICT

NAMES = ("X-User-Id", "X-User-Email", "X-User-Roles", "X-Identity-Token")


def accepts(target: str) -> bool:
    """Whether Envoy passes a target to the routes."""
    return re.fullmatch(ACCEPTED, target) is not None and not any(re.fullmatch(each, target) for each in FORBIDDEN)


def is_canonical(target: str) -> bool:
    try:
        path = canonical_path(target.partition("?")[0].encode("latin-1"), relaxed=False)
    except Refusal:
        return False
    return b"%2F" not in bytes(path)


PIECES = st.sampled_from(
    [
        "/",
        "/",
        "a",
        "Z",
        "0",
        ".",
        "..",
        "%",
        "%2",
        "%2e",
        "%2E",
        "%2f",
        "%5c",
        "%20",
        "%25",
        "%41",
        "%3b",
        "%3F",
        "%23",
        "%00",
        "%1f",
        "%7F",
        "%7e",
        "%c3%a9",
        "%C3",
        "%A9",
        "%e2%82%ac",
        "%ed%a0%80",
        "%f0%9f%98%80",
        "%f4%90%80%80",
        "%e0%80%80",
        "%31",
        "%34",
        "!",
        "$",
        "&",
        "'",
        "(",
        ")",
        "*",
        "+",
        ",",
        ";",
        "=",
        ":",
        "@",
        "~",
        "_",
        "-",
        "\\",
        "{",
        '"',
        "<",
        "[",
        "^",
        "`",
    ]
)


@given(st.lists(PIECES, max_size=8).map(lambda parts: "/" + "".join(parts)))
@example("/%25%34%31")
@example("/a/%2e%20./b")
@example("/%252%65")
@example("/%e2%82%61")
def test_the_paths_that_envoy_accepts_are_those_that_the_gateway_accepts(path: str) -> None:
    assert accepts(path) == is_canonical(path), path


@pytest.mark.parametrize("target", [*ALWAYS.values(), *STRICT.values()])
def test_envoy_refuses_the_requests_that_the_gateway_refuses(target: str) -> None:
    assert not accepts(target)


@given(st.lists(PIECES, max_size=3).map("".join))
def test_a_query_changes_nothing(query: str) -> None:
    assert accepts("/a/b?" + query)


PATTERNS = [
    "/",
    "/**",
    "/a",
    "/a/**",
    "/a/{x}",
    "/{x}/b",
    "/a/b/**",
    "/v1.2/{x}/**",
    "/caf%C3%A9",
    "/x!y",
    "/a b/{n}",
    "/~m,(1)",
]


@given(
    st.sampled_from(PATTERNS),
    st.lists(
        st.sampled_from(
            [
                "a",
                "%61",
                "b",
                "B",
                "v1.2",
                "v1x2",
                "v1%2E2",
                "caf%C3%A9",
                "caf%c3%a9",
                "x!y",
                "x%21y",
                "a%20b",
                "~m,(1)",
                "%7em%2C%281)",
                "c",
                "%E2%82%AC",
            ]
        ),
        max_size=4,
    ),
    st.sampled_from(["", "/", "?", "?a/b", "/?x"]),
)
def test_a_pattern_matches_the_same_paths_in_envoy(pattern: str, parts: list[str], end: str) -> None:
    target = "/" + "/".join(parts) + end
    if not accepts(target):
        return
    shape = parse_pattern(pattern)
    policy = Policy([Route(name="it", shape=shape, methods=None, upstream="web")])
    try:
        policy.match(None, canonical_target(target.encode(), relaxed=False), b"GET")
        matched = True
    except Refusal:
        matched = False
    assert (re.fullmatch(matching(shape), target) is not None) == matched, target


def test_a_prefix_is_taken_off_by_segments() -> None:
    assert re.sub(rf"{after(2)}/?([^?]*)", r"/\1", "/a/%62/c/d?e/f") == "/c/d?e/f"
    assert re.sub(rf"{after(1)}/?([^?]*)", r"/\1", "/a?x") == "/?x"


@given(
    st.lists(
        st.sampled_from(["a", "B", "-", ".", "_", "1", ":", "80", "[", "]", "::1", "@", "/", "%41", " ", ","]),
        max_size=6,
    )
)
def test_no_host_passes_envoy_that_the_gateway_refuses_for_its_form(parts: list[str]) -> None:
    text = "".join(parts)
    try:
        canonical_host(text.encode())
        good = True
    except Refusal:
        good = False
    if good:
        assert re.fullmatch(HOST, text), text
    elif re.fullmatch(HOST, text):
        assert text.startswith("[") or ":" in text, text  # numbers out of range


def removed(name: str) -> bool:
    """Whether Envoy removes a field of this name before all other processing."""
    mutations = early_mutations(NAMES)["typed_config"]["mutations"]
    removals = [each["remove_on_match"] for each in mutations if "remove_on_match" in each]
    expressions = [each["key_matcher"]["safe_regex"]["regex"] for each in removals]
    return any(re.fullmatch(expression, name.lower()) for expression in expressions)


@pytest.mark.parametrize("joints", list(product("-_.!'|~", repeat=2)))
def test_no_spelling_of_an_identity_header_reaches_an_upstream(joints: tuple[str, str]) -> None:
    for name in NAMES:
        one, two, three = name.split("-")
        spelled = f"{one}{joints[0]}{two}{joints[1]}{three}"
        assert removed(spelled)
        assert removed(spelled.upper())


@given(
    st.lists(
        st.sampled_from(
            [
                "X",
                "x",
                "User",
                "Id",
                "Request",
                "Forwarded",
                "For",
                "Real",
                "IP",
                "Original",
                "Host",
                "Content",
                "Length",
                "Transfer",
                "Encoding",
                "Proxy",
                "Client",
                "True",
                "HTTP",
                "Method",
                "Override",
                "Max",
                "Forwards",
                "-",
                "-",
                "-",
                "_",
                ".",
                "!",
                "`",
            ]
        ),
        min_size=1,
        max_size=6,
    )
)
def test_envoy_drops_the_headers_of_untrusted_clients_that_the_gateway_drops(parts: list[str]) -> None:
    name = "".join(parts)
    action = FieldRules(NAMES).action(name.encode())
    if action in (Action.DROP, Action.FORWARDING, Action.FORWARDED_PORT, Action.FORWARDED_PREFIX):
        assert removed(name), name
    if action in (Action.KEEP, Action.CONDITIONAL):
        assert not removed(name), name
