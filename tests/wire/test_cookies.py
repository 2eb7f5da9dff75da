"""The gateway's own cookies in Cookie and Set-Cookie fields."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.credential_fields import OwnCookies, set_cookie, without_clearing_cookies
from gateway.wire.fields import FieldRules
from tests.support.waiting import cpu_within

COOKIES = OwnCookies("session", secure=True)
LOCAL = OwnCookies("session", secure=False)
NAME = b"__Host-Http-session"


@pytest.mark.parametrize(
    ("sent", "rest", "values"),
    [
        (b"__Host-Http-session=v", b"", [b"v"]),
        (b"a=1; __Host-Http-session=v; b=2", b"a=1; b=2", [b"v"]),
        (b"__Host-Http-session=v; a=1", b"a=1", [b"v"]),
        (b"a=1;__Host-Http-session=v", b"a=1", [b"v"]),
        (b"__Host-Http-session=v;", b"", [b"v"]),
        (b"__Host-Http-session=v; ;", b"", [b"v"]),
        (b"__Host-Http-session=a=b=", b"", [b"a=b="]),
        (b'__Host-Http-session="v"', b"", [b'"v"']),
        (b"__Host-Http-session=", b"", [b""]),
        (b"__Host-Http-session=v; __Host-Http-session=w", b"", [b"v", b"w"]),
        # Another spelling is no credential, but an upstream could read it as the cookie.
        (b"__host-http-session=v; a=1", b"a=1", []),
        (b"__HOST-HTTP-SESSION=v", b"", []),
        (b"__Host-Http-session =v; a=1", b"a=1", []),
        (b"__Host-Http-session\t=v", b"", []),
        (b"__Host-Http-session-flow=v; a=1", b"a=1", []),
        (b"__Host-Http-Session-Flow=v; __Host-Http-session=v", b"", [b"v"]),
        # Another name.
        (b'"__Host-Http-session"=v', None, []),
        (b"=__Host-Http-session=v", None, []),
        (b"__Host-Http-session", None, []),
        (b"Host__Http-session=v", None, []),
        (b"__Host-session=v; session=w", None, []),
        (b"x__Host-Http-session=v", None, []),
        (b"__Host-Http-session2=v", None, []),
        (b"a=__Host-Http-session=v", None, []),
        (b"a=1;; b=2 ;\tc", None, []),
        (b"", None, []),
    ],
)
def test_own_cookies_are_removed_and_all_others_stay_as_they_are(
    sent: bytes, rest: bytes | None, values: list[bytes]
) -> None:
    assert COOKIES.split(sent) == (sent if rest is None else rest, values)


def test_on_http_the_names_have_no_prefix() -> None:
    assert LOCAL.split(b"session=v; session-flow=w; __Host-Http-session=x") == (b"__Host-Http-session=x", [b"v"])


pair = st.text('abS="\\ \t-_', max_size=12).map(str.encode)


@given(st.lists(pair | st.sampled_from([NAME + b"=v", NAME.upper() + b"=w", NAME]), max_size=6))
def test_the_rest_holds_exactly_the_pairs_that_are_not_own(pairs: list[bytes]) -> None:
    rest, values = COOKIES.split(b"; ".join(pairs).strip(b" \t"))
    pieces = [piece.partition(b"=") for piece in b";".join(pairs).split(b";")]
    others = [b"".join(each).strip() for each in pieces if not each[1] or each[0].strip().lower() != NAME.lower()]
    assert [each.strip() for each in rest.split(b";") if each.strip()] == [each for each in others if each]
    assert values == [b"v" for each in pairs if each == NAME + b"=v"]


@pytest.mark.parametrize(
    "filling", [b"\\" * 32_768, b"=" * 32_768, b";" * 32_768, b'; "' * 8_192, (NAME + b"=;") * 1_500, NAME * 1_700]
)
def test_cve_2024_7592_parsing_is_linear(filling: bytes) -> None:
    with cpu_within(0.02):
        COOKIES.split(NAME + b"=v; a=" + filling)


FIELDS = {
    "one": ([b"__Host-Http-session=v; a=1"], [b"a=1"], b"v"),
    "in the second field": ([b"a=1", b"__Host-Http-session=v"], [b"a=1"], b"v"),
    "another field behind it": ([b"__Host-Http-session=v", b"a=1"], [b"a=1"], b"v"),
    "two in one field": ([b"__Host-Http-session=v; __Host-Http-session=v"], [], None),
    "two in two fields": ([b"__Host-Http-session=v", b"__Host-Http-session=w"], [], None),
    "three": ([b"__Host-Http-session=v"] * 3, [], None),
    "two and one": ([b"__Host-Http-session=v; __Host-Http-session=w", b"__Host-Http-session=v"], [], None),
    "one and an empty one": ([b"__Host-Http-session=v", b"__Host-Http-session="], [], None),
    "none": ([b"a=1", b"b=2"], [b"a=1", b"b=2"], None),
}


@pytest.mark.parametrize("case", FIELDS)
@pytest.mark.parametrize("name", [b"Cookie", b"cookie", b"COOKIE"])
def test_of_several_session_cookies_none_counts(case: str, name: bytes) -> None:
    lines, kept, value = FIELDS[case]
    fields = FieldRules((), COOKIES).sort([(b"X-First", b"1"), *((name, line) for line in lines), (b"X-Last", b"2")])
    assert fields.kept == [(b"X-First", b"1"), *((name, line) for line in kept), (b"X-Last", b"2")]
    assert fields.session_cookie == value


def test_without_sessions_the_field_is_one_like_any_other() -> None:
    fields = FieldRules(()).sort([(b"Cookie", b"__Host-Http-session=v")])
    assert fields.kept == [(b"Cookie", b"__Host-Http-session=v")]
    assert fields.session_cookie is None


@pytest.mark.parametrize(
    ("sets", "own"),
    [
        (b"__Host-Http-session=v; Path=/; Secure", True),
        (b"__host-http-SESSION=v", True),
        (b" __Host-Http-session =v", True),
        (b"__Host-Http-session-flow=v", True),
        (b"__Host-Http-session=", True),
        # Browsers send a cookie without a name as its value alone.
        (b"__Host-Http-session", True),
        (b"=__Host-Http-session=v", True),
        (b"=v", True),
        (b"; Path=/", True),
        (b"session=v", False),
        (b'"__Host-Http-session"=v', False),
        (b"a=__Host-Http-session=v", False),
        (b"a=1; Path=/", False),
    ],
)
def test_an_upstream_that_sets_an_own_cookie_is_recognised(sets: bytes, own: bool) -> None:
    assert COOKIES.is_set_by(sets) is own


ALL_OTHERS = b'"cache", "clientHints", "executionContexts", "prefetchCache", "prerenderCache", "storage"'


@pytest.mark.parametrize(
    ("sent", "left"),
    [
        (b'"cookies"', b""),
        (b'"cookies", "COOKIES"', b""),
        (b'"cache", "cookies","storage"', b'"cache", "storage"'),
        (b'"*"', ALL_OTHERS),
        (b'"storage", "*"', b'"storage", ' + ALL_OTHERS),
        (b'"cache","storage"', b'"cache","storage"'),
        (b"cookies", b"cookies"),  # no type: browsers need the quotes
        (b",,", b",,"),
    ],
)
def test_a_field_that_clears_cookies_clears_only_the_rest(sent: bytes, left: bytes) -> None:
    assert without_clearing_cookies(sent) == left


def test_the_attributes_are_exactly_those_that_the_prefix_asks_for() -> None:
    assert set_cookie(COOKIES, "v", same_site="lax") == (
        "__Host-Http-session=v; Path=/; Secure; HttpOnly; SameSite=Lax"
    )
    assert set_cookie(LOCAL, "", same_site="strict", max_age=0) == (
        "session=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"
    )
