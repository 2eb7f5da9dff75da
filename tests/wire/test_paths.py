"""The canonical path: accepted and refused forms, and properties of both."""

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gateway.errors import Refusal
from gateway.wire.paths import RequestTarget, canonical_path, canonical_target, decoded_segment, lenient_readings
from tests.support.scale import examples
from tests.support.waiting import cpu_within

BOTH = (False, True)


def refused(raw: bytes, *, relaxed: bool) -> bool:
    try:
        canonical_target(raw, relaxed=relaxed)
    except Refusal as refusal:
        assert refusal.code == "bad_path"
        assert refusal.status == 400
        assert refusal.reason
        return True
    return False


@pytest.mark.parametrize("relaxed", BOTH)
@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/", b"/"),
        (b"/a", b"/a"),
        (b"/a/", b"/a/"),
        (b"/a/b.c/d..e/...f", b"/a/b.c/d..e/...f"),
        (b"/%61%7E%2D%2e%5fx", b"/a~-._x"),
        (b"/caf%c3%a9", b"/caf%C3%A9"),
        (b"/a%20b%3a%40", b"/a%20b%3A%40"),
        (b"/a%21!", b"/a%21!"),
        (b"/%2a*", b"/%2A*"),
        (b"/100%25", b"/100%25"),
        (b"/%25zz", b"/%25zz"),
        (b'/"<>[]^`{|}', b'/"<>[]^`{|}'),
        (b"/.well-known/jwks.json", b"/.well-known/jwks.json"),
        (b"/%2ehidden", b"/.hidden"),
        (b"/%20", b"/%20"),
        (b"/a%20/b", b"/a%20/b"),
        (b"/=%3d==%3D=%20", b"/=%3D==%3D=%20"),
    ],
)
def test_a_path_has_one_canonical_form(raw: bytes, path: bytes, relaxed: bool) -> None:
    assert canonical_target(raw, relaxed=relaxed) == RequestTarget(path, None, False, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("relaxed", BOTH)
@pytest.mark.parametrize(
    ("raw", "path", "query", "authority"),
    [
        (b"/a?", b"/a", b"", None),
        (b"/a?x=1&y=%2e%2e/..//;", b"/a", b"x=1&y=%2e%2e/..//;", None),
        (b"/a?b?c", b"/a", b"b?c", None),
        (b"/a?%zz\\%5c%00", b"/a", b"%zz\\%5c%00", None),
        (b"/a?caf\xc3\xa9", b"/a", b"caf\xc3\xa9", None),
        (b"/%41?\xff", b"/A", b"\xff", None),
        (b"/?/public/x", b"/", b"/public/x", None),
        (b"http://example.com/a?b", b"/a", b"b", b"example.com"),
        (b"HTTPS://Example.com:443/%61", b"/a", None, b"Example.com:443"),
        (b"http://example.com", b"/", None, b"example.com"),
        (b"http://example.com?x", b"/", b"x", b"example.com"),
        (b"http://user@example.com/", b"/", None, b"user@example.com"),
        (b"http:///a", b"/a", None, b""),
    ],
)
def test_query_and_authority_are_handed_back_untouched(
    raw: bytes, path: bytes, query: bytes | None, authority: bytes | None, relaxed: bool
) -> None:
    target = canonical_target(raw, relaxed=relaxed)
    assert target == (path, query, False, authority)


ALWAYS_REFUSED = [
    # not a request target
    b"", b"*", b"a", b"a/b", b"?x", b"example.com:443", b"ftp://example.com/a", b"http:/a", b"http:a",
    b"://x/",
    # bad escapes
    b"/%", b"/%2", b"/%zz", b"/%2g", b"/a%/b", b"/%%32e", b"/%u002e", b"/a%2%46b",
    # control characters, spaces, fragments, bytes outside ASCII
    b"/a\x00", b"/a\tb", b"/a b", b"/a\r\nX: y", b"/a\x7f", b"/a#b", b"/a?b#c", b"/a?b c", b"/a?b\r\n",
    b"/a?\x00",
    b"/caf\xc3\xa9", b"/\xff", b"http://example.com/a b", b"http://exa mple.com/",
    # backslashes
    b"/a\\b", b"/a%5Cb", b"/a%5cb", b"\\a", b"/\\evil.example",
    # escaped controls
    b"/a%00", b"/%0a", b"/%0D%0A", b"/%1F", b"/%1f", b"/%7F", b"/%7f",
    # dot segments in every spelling
    b"/.", b"/..", b"/...", b"/./a", b"/../a", b"/a/.", b"/a/..", b"/a/../b", b"/a/.../b", b"/%2e",
    b"/%2e%2e/a",
    b"/.%2e/a", b"/%2E./a", b"/..%20/a", b"/%20../a", b"/.%20./a", b"/.%20", b"/..;/a", b"/..;x=y/a",
    b"/.;/a",
    b"/a/..%3b/b", b"/%2e%2e%3Bx/b", b"/...%20;", b"http://example.com/../a", b"/a/..?x",
    # ... with escaped separators, which are never a way to hide them
    b"/a%2F..", b"/..%2Fa", b"/a%2f..%2fb", b"/a%2F.%2Fb", b"/a/x%2F%2e%2e", b"/a%5C..", b"/a%2F%20..%2Fb",
    # ... and escaped again and again
    b"/%252e", b"/%252e%252e/a", b"/%25%32%65", b"/a%252F..%252Fb", b"/%25252e%25252e", b"/a%255C..",
    b"/..%253B/a",
    b"/..%3Fa", b"/..%23a", b"/%252%65/a", b"/.%2520./a", b"/" + b"%25" + b"25" * 20 + b"2e/",
    # doubly escaped control characters are refused in both modes
    b"/a%2500", b"/a%250A",
    # an escaped slash at an end of its segment, or two in a row
    b"/%2F", b"/%2Fa", b"/a%2F", b"/a/%2f/b", b"/a%2F/b", b"/a%2F%2Fb", b"/a%2f%2Fb", b"/a%2F;b",

    # escapes that are not UTF-8: a lone byte, an overlong slash and dot, a surrogate, beyond the last code point
    b"/%ff", b"/%c3", b"/%c0%af", b"/%c0%ae%c0%ae/", b"/%e0%80%af", b"/%ed%a0%80", b"/%f4%90%80%80",
    b"/%c3/%a9",
]  # fmt: skip


@pytest.mark.parametrize("relaxed", BOTH)
@pytest.mark.parametrize("raw", ALWAYS_REFUSED)
def test_ambiguous_forms_are_refused_in_both_modes(raw: bytes, relaxed: bool) -> None:
    assert refused(raw, relaxed=relaxed)


@pytest.mark.parametrize(
    ("raw", "relaxed_path"),
    [
        (b"//a", b"/a"),
        (b"/a//b", b"/a/b"),
        (b"/a/b///", b"/a/b/"),
        (b"//evil.example/x", b"/evil.example/x"),
        (b"http://example.com//a", b"/a"),
        (b"/a;x=1/b", b"/a;x=1/b"),
        (b"/a%3bx", b"/a%3Bx"),
        (b"/;", b"/;"),
        (b"/a%23b", b"/a%23b"),
        (b"/a%3fb", b"/a%3Fb"),
        (b"/a%2541", b"/a%2541"),
        (b"/a%252Fb", b"/a%252Fb"),
        (b"/a%25%34%31", b"/a%2541"),
        (b"/a%252%66b", b"/a%252fb"),
    ],
)
def test_strict_refuses_a_form_that_relaxed_accepts(raw: bytes, relaxed_path: bytes) -> None:
    assert refused(raw, relaxed=False)
    assert canonical_target(raw, relaxed=True).path == relaxed_path


@pytest.mark.parametrize("relaxed", BOTH)
def test_an_encoded_slash_inside_a_segment_is_kept_and_reported(relaxed: bool) -> None:
    assert canonical_target(b"/files/a%2fb?c", relaxed=relaxed) == (b"/files/a%2Fb", b"c", True, None)
    assert canonical_target(b"/files/a?%2f", relaxed=relaxed).has_encoded_slash is False


def test_a_doubly_escaped_slash_is_not_an_encoded_slash() -> None:
    assert canonical_target(b"/a%252Fb", relaxed=True).has_encoded_slash is False


# The path section of the advisories of similar systems, with the original paths.
@pytest.mark.parametrize("relaxed", BOTH)
@pytest.mark.parametrize(
    ("advisory", "raw"),
    [
        ("CVE-2026-33494", b"/public/../admin/secrets"),
        ("CVE-2026-33494", b"/public/%2e%2e/admin/x"),
        ("CVE-2026-33494", b"/public/.%2e/"),
        ("CVE-2026-33494", b"/./admin"),
        ("CVE-2021-29492", b"/public%2f..%2fadmin/x"),
        ("CVE-2021-29492", b"/public%5c..%5cadmin"),
        ("CVE-2021-29492", b"/public\\..\\admin"),
        ("CVE-2025-66490", b"/a%5cb"),
        ("CVE-2025-66490", b"/a%00b"),
        ("GHSA-pxq7-h93f-9jrg", b"/admin#/public/x"),
        ("CVE-2026-73553", b"/public/..;/admin/x"),
        ("CVE-2021-32637", b"/%zz"),
    ],
)
def test_the_path_of_the_advisory_is_refused(advisory: str, raw: bytes, relaxed: bool) -> None:
    assert refused(raw, relaxed=relaxed)


@pytest.mark.parametrize(
    ("advisory", "raw"),
    [
        ("CVE-2021-29492", b"//admin/x"),
        ("CVE-2026-26205", b"//public/admin/x"),
        ("CVE-2025-66490", b"/a%3bb"),
        ("CVE-2025-66490", b"/a%253bb"),
        ("CVE-2025-66490", b"/a%3fb"),
        ("GHSA-pxq7-h93f-9jrg", b"/admin%23/public"),
        ("CVE-2026-73511", b"/admin;a=b/x"),
    ],
)
def test_the_path_of_the_advisory_is_refused_by_default(advisory: str, raw: bytes) -> None:
    assert refused(raw, relaxed=False)


def test_the_reason_is_private_and_the_detail_is_the_tables_own() -> None:
    with pytest.raises(Refusal) as caught:
        canonical_target(b"/a/../b", relaxed=False)
    assert caught.value.reason == "a segment of dots"
    assert "dots" not in caught.value.detail


def test_a_path_alone_takes_no_query() -> None:
    assert canonical_path(b"/a%41", relaxed=False) == b"/aA"


@pytest.mark.parametrize(
    ("segment", "decoded"),
    [(b"plain", b"plain"), (b"a%2Fb", b"a/b"), (b"%2541", b"%41"), (b"caf%C3%A9", "café".encode())],
)
def test_a_segment_is_decoded_once(segment: bytes, decoded: bytes) -> None:
    assert decoded_segment(segment) == decoded


@pytest.mark.parametrize(
    ("path", "readings"),
    [
        (b"/admin;x=1/y", {(b"admin;x=1", b"y"), (b"admin", b"y")}),
        (b"/a/;x/b", {(b"a", b";x", b"b"), (b"a", b"b")}),
        (b"/admin%3Fx/y", {(b"admin?x", b"y"), (b"admin",)}),
        (b"/admin%23;z", {(b"admin#;z",), (b"admin#",), (b"admin",)}),
        (b"/a%252Fb", {(b"a%2Fb",), (b"a", b"b")}),
        (b"/a%255Cb", {(b"a%5Cb",), (b"a", b"b")}),
        (b"/a%2Fb%252Fc", {(b"a/b%2Fc",), (b"a/b", b"c")}),
        (b"/", {()}),
    ],
)
def test_lenient_readings_are_all_that_a_reader_may_see(path: bytes, readings: set[tuple[bytes, ...]]) -> None:
    canonical = canonical_target(path, relaxed=True).path
    found = lenient_readings(canonical, splits_first=False, most_segments=65)
    assert {tuple(reading[1:]) for reading in found} == readings


# ---- properties --------------------------------------------------------------------------------

_PIECES = [
    b"/", b"/", b"/", b"a", b"admin", b".", b"..", b"%2e", b"%2E", b"%2f", b"%2F", b"%5c", b"\\", b";",
    b"%3b", b"x=1",
    b"%25", b"25", b"2", b"e", b"%", b"%20", b" ", b"%23", b"%3f", b"?", b"#", b"%00", b"%c3%a9",
    b"%c0%ae", b"%41",
    b"!", b"%21", b"~", b"%7e", b":", b"@", b"\xe9", b"%2500", b"%252e", b"%ff",
]  # fmt: skip
nasty_targets = st.lists(st.sampled_from(_PIECES), max_size=12).map(lambda parts: b"/" + b"".join(parts))
any_targets = st.one_of(nasty_targets, st.binary(max_size=20).map(lambda tail: b"/" + tail), st.binary(max_size=20))


def accepted(raw: bytes, *, relaxed: bool) -> RequestTarget:
    try:
        return canonical_target(raw, relaxed=relaxed)
    except Refusal:
        assume(False)
        raise


@given(any_targets, st.booleans())
@examples(400)
def test_a_target_is_refused_or_understood_and_nothing_else_is_raised(raw: bytes, relaxed: bool) -> None:
    refused(raw, relaxed=relaxed)


@given(nasty_targets, st.booleans())
@examples(400)
@example(b"/a%252%65", True)
@example(b"//a//%2561", True)
def test_canonicalisation_is_idempotent(raw: bytes, relaxed: bool) -> None:
    target = accepted(raw, relaxed=relaxed)
    again = canonical_target(target.path, relaxed=relaxed)
    assert again == (target.path, None, target.has_encoded_slash, None)


@given(nasty_targets)
@examples(400)
def test_relaxed_accepts_the_strict_forms_unchanged(raw: bytes) -> None:
    target = accepted(raw, relaxed=False)
    assert canonical_target(raw, relaxed=True) == target


@given(nasty_targets, st.booleans())
@examples(400)
def test_an_accepted_path_is_clean_at_every_depth_of_decoding(raw: bytes, relaxed: bool) -> None:
    path: bytes = accepted(raw, relaxed=relaxed).path
    assert path.startswith(b"/")
    assert b"//" not in path
    assert all(escape == escape.upper() for escape in re.findall(rb"%..", path))
    for _ in range(10):
        assert not re.search(rb"[\x00-\x1f\x7f]", path)
        for segment in re.split(rb"[/\\]", path):
            plain = re.split(rb"[;?#]", segment)[0]
            assert not (set(plain) <= set(b". ") and b"." in plain)
        path = unquote_to_bytes(path)


_PCHAR = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,=:@"


@given(st.text(st.sampled_from(_PCHAR), min_size=1).filter(lambda text: set(text) != {"."}), st.booleans())
def test_every_clean_segment_is_its_own_canonical_form(segment: str, relaxed: bool) -> None:
    raw = b"/x/" + segment.encode()
    assert canonical_target(raw + b"?q", relaxed=relaxed) == (raw, b"q", False, None)


@given(st.text(min_size=1, max_size=8), st.booleans())
def test_an_escaped_text_has_the_same_meaning_after_canonicalisation(text: str, relaxed: bool) -> None:
    assume(not any(0xD800 <= ord(character) <= 0xDFFF for character in text))
    raw = "".join(f"%{octet:02x}" for octet in text.encode()).encode()
    target = accepted(b"/" + raw, relaxed=relaxed)
    assert decoded_segment(target.path[1:]).decode() == text


@pytest.mark.parametrize("relaxed", BOTH)
@pytest.mark.parametrize(
    "raw",
    [
        b"/" + b"a" * 32_000 + b"\\",
        b"/" + b"." * 32_000 + b";",
        b"/." * 16_000,
        b"/a." * 10_000 + b"%zz",
        b"/" + b"%20" * 10_000 + b".",
        b"/%" + b"25" * 16_000 + b"41",
        b"/" + b"%2541" * 6_000,
        b"/" + b"%25" * 10_000,
        b"/" + b"%c3%a9" * 5_000,
        b"/" + (b"%20" * 16 + b"a/") * 600,
        b"/" * 32_000,
        b"/a?" + b"x" * 32_000 + b"#",
    ],
    ids=lambda raw: repr(raw[:8]),
)
def test_no_path_takes_more_than_linear_time(raw: bytes, relaxed: bool) -> None:
    with cpu_within(0.05):  # 32 KiB of the worst case; a quadratic pass takes seconds
        refused(raw, relaxed=relaxed)
