"""Path patterns: parsing, and the errors of invalid ones."""

import pytest

from gateway.policy.patterns import PatternError, parse_pattern


@pytest.mark.parametrize(
    ("text", "canonical", "segments", "names", "has_rest"),
    [
        ("/", "/", (), (), False),
        ("/**", "/**", (), (), True),
        ("/a", "/a", (b"a",), (), False),
        ("/a/b/", "/a/b", (b"a", b"b"), (), False),
        ("/a/**", "/a/**", (b"a",), (), True),
        ("/a/**/", "/a/**", (b"a",), (), True),
        ("/orders/{order_id}", "/orders/{order_id}", (b"orders", None), ("order_id",), False),
        ("/{a}/x/{b-2}/**", "/{a}/x/{b-2}/**", (None, b"x", None), ("a", "b-2"), True),
        ("/{_}", "/{_}", (None,), ("_",), False),
        ("/café", "/caf%C3%A9", ("café".encode(),), (), False),
        ("/caf%c3%a9", "/caf%C3%A9", ("café".encode(),), (), False),
        ("/a b", "/a%20b", (b"a b",), (), False),
        ("/%61dmin", "/admin", (b"admin",), (), False),
        ("/admin!", "/admin!", (b"admin!",), (), False),
        ("/admin%21", "/admin%21", (b"admin!",), (), False),
        ("/a%2Ab", "/a%2Ab", (b"a*b",), (), False),
        ("/%7Bx%7D", "/%7Bx%7D", (b"{x}",), (), False),
        ("/v1.2", "/v1.2", (b"v1.2",), (), False),
        ("/a%2Fb", "/a%2Fb", (b"a/b",), (), False),
        ("/.well-known/x", "/.well-known/x", (b".well-known", b"x"), (), False),
    ],
)
def test_a_pattern_means_its_decoded_segments(
    text: str, canonical: str, segments: tuple[bytes | None, ...], names: tuple[str, ...], has_rest: bool
) -> None:
    pattern = parse_pattern(text)
    assert (pattern.text, pattern.segments, pattern.names, pattern.has_rest) == (
        canonical,
        segments,
        names,
        has_rest,
    )
    assert parse_pattern(pattern.text) == pattern


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "must begin with '/'"),
        ("a/b", "must begin with '/'"),
        ("/a?x=1", "query or a fragment"),
        ("/a#b", "query or a fragment"),
        ("//a", "empty segment"),
        ("/a//b", "empty segment"),
        ("/a//", "empty segment"),
        ("/**/a", "at its end only"),
        ("/**/**", "at its end only"),
        ("/a*", "'*', which is no wildcard"),
        ("/*", "'*', which is no wildcard"),
        ("/a/***", "'*', which is no wildcard"),
        ("/a**", "'*', which is no wildcard"),
        ("/{a", "unbalanced brace"),
        ("/a}", "unbalanced brace"),
        ("/}a{", "unbalanced brace"),
        ("/{{a}", "unbalanced brace"),
        ("/{a/b}", "unbalanced brace"),
        ("/a{b}", "only a part of a segment"),
        ("/{a}b", "only a part of a segment"),
        ("/{a}{b}", "only a part of a segment"),
        ("/{a}-{b}", "only a part of a segment"),
        ("/{{a}}", "only a part of a segment"),
        ("/{}", "without a name"),
        ("/{**}", "in braces"),
        ("/{*}", "in braces"),
        ("/{a b}", "named 'a b'"),
        ("/{1a}", "named '1a'"),
        ("/{a:int}", "named 'a:int'"),
        ("/{é}", "named 'é'"),
        ("/{id}/x/{id}", "two captures named 'id'"),
        ("/..", "a segment of dots"),
        ("/a/%2e%2e/b", "a segment of dots"),
        ("/a%", "a percent sign without two hexadecimal digits"),
        ("/a\\b", "a backslash"),
        ("/a%00", "control character"),
        ("/a\tb", "control character"),
        ("/a;b", "a semicolon"),
        ("/a%3Bb", "a semicolon"),
        ("/a%3Fb", "an escaped question mark"),
        ("/a%23b", "an escaped number sign"),
        ("/a%2541", "a double escape"),
        ("/%ff", "not valid UTF-8"),
        ("/\ud800", "not valid UTF-8"),
        ("/%2Fa", "an escaped slash at an end"),
        ("/x" * 65, "65 segments"),
    ],
)
def test_an_invalid_pattern_is_refused_with_its_reason(text: str, wrong: str) -> None:
    with pytest.raises(PatternError) as caught:
        parse_pattern(text)
    assert wrong in caught.value.wrong
    assert caught.value.right


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/a/{x}", "/a/{y}", True),
        ("/a/{x}", "/a/{x}/", True),
        ("/admin!", "/admin%21", True),
        ("/a/{x}", "/a/x", False),
        ("/a", "/a/**", False),
        ("/A", "/a", False),
    ],
)
def test_the_names_of_captures_and_the_spelling_are_no_part_of_the_shape(one: str, other: str, same: bool) -> None:
    assert (parse_pattern(one).shape == parse_pattern(other).shape) is same


@pytest.mark.parametrize(
    ("one", "other", "covers"),
    [
        ("/users/{id}", "/users/me", True),
        ("/users/{id}", "/users/{name}", True),
        ("/users/{id}", "/users/{id}/x", False),
        ("/users/{id}", "/users/**", False),
        ("/users/me", "/users/{id}", False),
        ("/users/me", "/users/me", True),
    ],
)
def test_a_pattern_covers_the_paths_that_it_always_matches(one: str, other: str, covers: bool) -> None:
    assert parse_pattern(one).covers(parse_pattern(other)) is covers
