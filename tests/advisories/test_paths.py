"""C. One canonical path is matched and forwarded; ambiguous paths are refused."""

import random
import re
import string
import time
from urllib.parse import unquote_to_bytes

import pytest

from tests.support.expectations import passes, refuses, refuses_unparsed
from tests.support.faces import stock
from tests.support.gateways import Gateways
from tests.support.processes import Account, Gateway
from tests.support.recording import RecordingUpstream
from tests.support.wording import request

DOTS = {
    "CVE-2026-33494 plain": "/public/../admin/x",
    "CVE-2026-33494 encoded": "/public/%2e%2e/admin/x",
    "CVE-2026-33494 upper case": "/public/%2E%2E/admin/x",
    "CVE-2026-33494 half": "/public/.%2e/admin/x",
    "CVE-2026-33494 other half": "/public/%2e./admin/x",
    "CVE-2026-33494 single": "/./admin",
    "single inside": "/public/./x",
    "single encoded": "/public/%2e/x",
    "at the end": "/public/..",
    "single at the end": "/public/.",
    "at the start": "/../admin/x",
    "three": "/public/.../x",
    "many": "/public/....../x",
    "with a space": "/public/..%20/x",
    "space first": "/public/%20../x",
    "space between": "/public/.%20./x",
    "before a parameter": "/public/..;/admin/x",
    "CVE-2026-73553 before a named parameter": "/public/..;a=b/admin/x",
    "before an encoded parameter": "/public/%2e%2e%3ba=b/admin/x",
    "single before a parameter": "/public/.;/x",
    "escaped digit of an escape": "/public/%%32%65/x",
}
SEPARATORS = {
    "CVE-2021-29492 backslash": "/public\\..\\admin/x",
    "CVE-2021-29492 encoded backslash": "/public%5c..%5cadmin/x",
    "CVE-2021-31920 encoded slash": "/public%2f..%2fadmin/x",
    "CVE-2025-66490 slash": "/api/a%2fb",
    "CVE-2025-66490 slash, upper case": "/api/a%2Fb",
    "CVE-2025-66490 backslash": "/api/a%5cb",
    "raw backslash": "/api/a\\b",
}
CONTROLS = {f"CVE-2025-66490 %{byte:02x}": f"/api/a%{byte:02x}b" for byte in (0, 1, 9, 10, 13, 27, 31, 127)}
ESCAPES = {
    "lone percent": "/api/%",
    "percent and one digit": "/api/a%2",
    "not hexadecimal": "/api/%zz",
    "IIS unicode": "/api/%u002e",
    "overlong dot": "/api/%c0%ae%c0%ae/x",
    "overlong slash": "/api/%c0%af",
    "lone continuation": "/api/%80",
    "cut sequence": "/api/%c3",
    "latin-1": "/api/%ff",
    "surrogate": "/api/%ed%a0%80",
    "above Unicode": "/api/%f5%80%80%80",
}
ALWAYS = DOTS | SEPARATORS | CONTROLS | ESCAPES
STRICT = {
    "CVE-2021-29492 two slashes": "//admin/x",
    "CVE-2026-26205 an authority": "//public/admin/x",
    "two slashes inside": "/public//x",
    "two slashes at the end": "/public/x//",
    "CVE-2026-73511 matrix": "/admin;a=b/x",
    "matrix in a public path": "/public;x/y",
    "CVE-2025-66490 %3b": "/api/a%3bb",
    "CVE-2025-66490 %3f": "/api/a%3fb",
    "CVE-2025-66490 %23": "/api/a%23b",
    "CVE-2025-66490 %25": "/api/a%252eb",
    "CVE-2021-39156 %23": "/admin%23/public",
    "double escape": "/public/%252e%252e/admin/x",
    "double escaped slash": "/public/%252f",
    "escape made by an escape": "/public/%252%65%252%65/x",
}


@pytest.mark.parametrize("target", ALWAYS.values(), ids=ALWAYS)
def test_an_ambiguous_path_is_refused(
    gateway: Gateway, upstream: RecordingUpstream, admin: Account, target: str
) -> None:
    refuses(gateway, upstream, request(target, fields=[admin.line]), 400, "bad_path")


@pytest.mark.parametrize("target", ALWAYS.values(), ids=ALWAYS)
def test_an_ambiguous_path_is_refused_where_paths_are_relaxed_too(
    relaxed: Gateway, upstream: RecordingUpstream, target: str
) -> None:
    refuses(relaxed, upstream, request(target), 400, "bad_path")


@pytest.mark.parametrize("target", STRICT.values(), ids=STRICT)
def test_strict_paths_are_refused_by_default(
    gateway: Gateway, upstream: RecordingUpstream, admin: Account, target: str
) -> None:
    refuses(gateway, upstream, request(target, fields=[admin.line]), 400, "bad_path")


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("/public//a///b", b"GET /public/a/b HTTP/1.1"),
        ("//public/a", b"GET /public/a HTTP/1.1"),
        ("/public/a;b=c", b"GET /public/a;b=c HTTP/1.1"),
        ("/public/a%3bb", b"GET /public/a%3Bb HTTP/1.1"),
        ("/public/a%23b%3fc", b"GET /public/a%23b%3Fc HTTP/1.1"),
        ("/public/a%252eb/x", b"GET /public/a%252eb/x HTTP/1.1"),
        ("/public/a%252%65b/x", b"GET /public/a%252eb/x HTTP/1.1"),
        ("/kept/%3b/x", b"GET /kept/%3B/x HTTP/1.1"),
        ("/kept/a%2f%3bb/x", b"GET /kept/a%2F%3Bb/x HTTP/1.1"),
        ("/kept/%23/x", b"GET /kept/%23/x HTTP/1.1"),
        ("/kept//a%252fb%3f/x", b"GET /kept/a%252fb%3F/x HTTP/1.1"),
    ],
)
def test_relaxed_paths_are_matched_and_sent_in_one_form(
    relaxed: Gateway, upstream: RecordingUpstream, target: str, line: bytes
) -> None:
    received = passes(relaxed, upstream, request(target))
    assert received.line.replace(b"%252E", b"%252e") == line


@pytest.mark.parametrize("target", ["//admin/x", "/public/..;/admin/x", "///admin//x", "/admin;/x", "/admin;a=b/x"])
def test_relaxed_paths_open_nothing(relaxed: Gateway, upstream: RecordingUpstream, target: str) -> None:
    upstream.requests.clear()
    answer = relaxed.ask(request(target))
    assert answer.status in (400, 401, 404), answer
    assert upstream.requests == []


@pytest.mark.parametrize(
    "target",
    [b"/public/a b", b"/public/\t", b"/public/\x01", b"/public/\x7f", b"/public/\x00", b"/public/\xc3\xa9",
     b"/public/\xff", b"/public/x?a b", b"/public/x?\x01", b"public/x", b"", b"?x", b"*/x"],
)  # fmt: skip
def test_bytes_that_no_target_may_hold_are_refused(
    gateway: Gateway, upstream: RecordingUpstream, target: bytes
) -> None:
    upstream.requests.clear()
    answer = gateway.ask(request(target))
    assert answer.status == 400, answer
    assert upstream.requests == []


@pytest.mark.parametrize("target", ["/admin#/public/x", "/admin/x#", "#/public/x", "/public/../admin#x"])
def test_GHSA_pxq7_h93f_9jrg_a_fragment_never_hides_the_path(
    gateway: Gateway, upstream: RecordingUpstream, target: str
) -> None:
    upstream.requests.clear()
    answer = gateway.ask(request(target))
    assert answer.status in ((400, 401, 404) if stock(gateway.face, "fragment") else (400,)), answer
    assert upstream.requests == []


@pytest.mark.parametrize("target", ["/public/x#y", "/public/x?a#b", "/public/x?#"])
def test_CVE_2021_32779_a_fragment_is_never_sent_on(gateway: Gateway, upstream: RecordingUpstream, target: str) -> None:
    if stock(gateway.face, "fragment"):
        assert b"#" not in passes(gateway, upstream, request(target)).line
    else:
        refuses(gateway, upstream, request(target), 400, {"bad_path", "bad_request"})


@pytest.mark.parametrize(
    "query",
    [
        "path=/public/x",
        "/../public/x",
        "a=%2e%2e%2f&b=..;//",
        "x=%zz&y=%",
        "q=a?b/c:d@e",
        "a=1&a=2&;=|",
        "%00",
        "a=%23",
    ],
)
def test_CVE_2025_54576_the_query_is_never_matched_and_never_touched(
    gateway: Gateway, upstream: RecordingUpstream, query: str
) -> None:
    refuses(gateway, upstream, request(f"/api/private?{query}"), 401, "token_missing")
    received = passes(gateway, upstream, request(f"/public/x?{query}"))
    assert received.target == f"/public/x?{query}".encode()


def test_a_lone_question_mark_is_sent_on(gateway: Gateway, upstream: RecordingUpstream) -> None:
    target = passes(gateway, upstream, request("/public/x?")).target
    assert target == (b"/public/x" if stock(gateway.face, "lone question mark") else b"/public/x?")


PCHAR = [*string.ascii_letters, *string.digits, *"-_~!$&'()*+,=:@"]


def test_CVE_2025_46821_every_path_character_is_matched_by_a_template(
    gateway: Gateway, upstream: RecordingUpstream, admin: Account
) -> None:
    for character in PCHAR:
        for segment in (character, f"a{character}b", f"{character}{character}"):
            refuses(gateway, upstream, request(f"/item/{segment}"), 401, "token_missing")
    every = "".join(PCHAR) + "a.b"
    received = passes(gateway, upstream, request(f"/item/{every}", fields=[admin.line]))
    assert received.target == f"/item/{every}".encode()


@pytest.mark.parametrize(
    "target", ["/literal/v1x2", "/literal/v1.2x", "/literal/xv1.2", "/literal/v1.", "/literal/V1.2"]
)
def test_CVE_2026_39350_a_literal_is_no_expression(gateway: Gateway, upstream: RecordingUpstream, target: str) -> None:
    refuses(gateway, upstream, request(target), 404, "no_route")
    assert passes(gateway, upstream, request("/literal/v1.2")).target == b"/literal/v1.2"


@pytest.mark.parametrize("target", ["/Public/x", "/PUBLIC/x", "/publicx", "/xpublic/x", "/x/public/x", "/publi", "/"])
def test_patterns_match_whole_paths_case_included(gateway: Gateway, upstream: RecordingUpstream, target: str) -> None:
    refuses(gateway, upstream, request(target), 404, "no_route")


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/public", "/public"),
        ("/public/", "/public/"),
        ("/public/%41%7a%7E%5f", "/public/Az~_"),
        ("/public/a%2a%3a", "/public/a%2A%3A"),
        ("/public/%c3%a9", "/public/%C3%A9"),
        ("/public/a%20b", "/public/a%20b"),
        ("/pub%6cic/x", "/public/x"),
        ("/public/.x", "/public/.x"),
        ("/public/x..", "/public/x.."),
        ("/public/..x/y", "/public/..x/y"),
    ],
)
def test_the_canonical_path_is_sent(gateway: Gateway, upstream: RecordingUpstream, target: str, sent: str) -> None:
    assert passes(gateway, upstream, request(target)).target == sent.encode()


def test_an_escaped_letter_does_not_hide_a_guarded_path(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for target in ("/%61dmin/x", "/a%64min", "/%61%64%6d%69%6e/x", "/admi%6E/"):
        refuses(gateway, upstream, request(target), 401, "token_missing")


@pytest.mark.parametrize("target", ["/stripped../x", "/guard../admin/x", "/api../admin/x", "/strippedx/y", "/guardx"])
def test_CVE_2026_48020_a_prefix_ends_where_its_segment_ends(
    gateway: Gateway, upstream: RecordingUpstream, admin: Account, target: str
) -> None:
    refuses(gateway, upstream, request(target, fields=[admin.line]), 404, "no_route")


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/stripped/a/b?c", "/a/b?c"),
        ("/stripped/", "/"),
        ("/stripped", "/"),
        ("/stripped?x", "/?x"),
        ("/stripped/stripped/a", "/stripped/a"),
        ("/stripped/%61", "/a"),
        ("/rewritten/7/x/y?z=1", "/v2/7/data/x/y?z=1"),
        ("/turned/x/y", "/admin/y/x"),
        ("/turned/%41/b%20c", "/admin/b%20c/A"),
        ("/turned/admin/turned", "/admin/turned/admin"),
    ],
)
def test_CVE_2023_33189_the_route_is_chosen_once_and_the_sent_path_is_not_matched_again(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, target: str, sent: str
) -> None:
    assert passes(gateway, upstream, request(target, fields=[user.line])).target == sent.encode()


@pytest.mark.parametrize(
    ("target", "sent"), [("/kept/a%2Fb/x", "/kept/a%2Fb/x"), ("/kept/a%2fb%2fc/x", "/kept/a%2Fb%2Fc/x")]
)
def test_GHSA_r9fw_vxmp_hwf2_a_kept_slash_is_data_of_its_segment(
    gateway: Gateway, upstream: RecordingUpstream, target: str, sent: str
) -> None:
    assert passes(gateway, upstream, request(target)).target == sent.encode()


@pytest.mark.parametrize(
    "target",
    ["/kept/%2F/x", "/kept/a%2F/x", "/kept/%2Fa/x", "/kept/a%2F%2Fb/x", "/kept/a%2F..%2Fb/x", "/kept/..%2Fb/x",
     "/kept/a%2F./x", "/kept/a%2f%2e%2e/x", "/kept/a%5cb/x", "/kept/a%2F..;%2Fb/x"],
)  # fmt: skip
def test_a_kept_slash_still_counts_where_dots_are_looked_for(
    gateway: Gateway, upstream: RecordingUpstream, target: str
) -> None:
    refuses(gateway, upstream, request(target), 400, "bad_path")


def test_a_kept_slash_is_no_separator_for_the_matcher(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for target in ("/public%2Fx", "/kept%2Fa/x", "/admin%2Fx", "/kept/a%2Fx"):
        upstream.requests.clear()
        answer = gateway.ask(request(target))
        assert answer.status in (400, 404), (target, answer)
        assert upstream.requests == []


@pytest.mark.parametrize("method", ["get", "Get", "FOO", "GETX", "G", "PROPFINDX", "ADMIN"])
@pytest.mark.parametrize("path", ["/admin/x", "/public/x", "/auth/me"])
def test_caddy_f45006846_an_unknown_method_is_not_implemented(
    gateway: Gateway, upstream: RecordingUpstream, method: str, path: str
) -> None:
    data = request(path, method=method)
    if stock(gateway.face, "unknown methods"):
        refuses_unparsed(gateway, upstream, data)
    else:
        refuses(gateway, upstream, data, 501, "method_not_implemented")


@pytest.mark.parametrize("cut", [1, 2, 5, 8, 9])
def test_an_unknown_method_is_not_implemented_wherever_its_head_is_cut(gateways: Gateways, cut: int) -> None:
    """The parser gives up at the first character that no method contains, before the end of the method."""
    data = request("/public/x", method="PROPPINK")
    with gateways.gateway("standard", "serve").caller() as caller:
        caller.send(data[:cut])
        time.sleep(0.02)
        caller.send(data[cut:])
        assert caller.receive().refused() == (501, "method_not_implemented")


@pytest.mark.parametrize("target", ["/admin/x", "/public/x", "gateway.test:443", "admin:80"])
def test_traefik_3_7_9_connect_is_not_implemented(gateway: Gateway, upstream: RecordingUpstream, target: str) -> None:
    upstream.requests.clear()
    answer = gateway.ask(request(target, method="CONNECT"))
    assert answer.status in ((400, 501) if gateway.face == "asgi" else (501,)), answer
    if answer.status == 501:
        assert answer.code == "method_not_implemented"
    assert upstream.requests == []


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "PUT", "DELETE", "PATCH", "PROPFIND", "PURGE", "LINK"])
def test_every_method_is_guarded_alike(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, method: str
) -> None:
    upstream.requests.clear()
    for fields, status in (([], 401), ([user.line], 403)):
        answer = gateway.ask(request("/admin/x", method=method, fields=fields))
        assert answer.status == status, answer
    assert upstream.requests == []


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-Method"])
def test_no_header_changes_the_method(gateway: Gateway, upstream: RecordingUpstream, name: str) -> None:
    data = request("/methods/x", method="POST", fields=[f"{name}: GET"], body=b"")
    refuses(gateway, upstream, data, 401, "token_missing")


def test_the_path_picks_the_place_and_then_the_method(
    gateway: Gateway, upstream: RecordingUpstream, admin: Account
) -> None:
    """A method that is not served there gives 405, and never falls through to the broader pattern beside it."""
    for method in ("DELETE", "PATCH", "OPTIONS"):
        answer = refuses(gateway, upstream, request("/methods/x", method=method), 405, "method_not_allowed")
        allow = (answer.value("allow") or b"").replace(b" ", b"").split(b",")
        assert sorted(allow) == [b"GET", b"HEAD", b"POST", b"PUT"]
        passes(gateway, upstream, request("/methods/other", method=method))
    assert passes(gateway, upstream, request("/methods/x", method="HEAD")).method == b"HEAD"
    passes(gateway, upstream, request("/methods/x", method="POST", body=b"", fields=[admin.line]))


@pytest.mark.parametrize("name", ["X-Note", "Cookie", "User-Agent", "Accept"])
def test_GHSA_9g5w_hqr3_w2ph_bytes_outside_utf_8_change_no_decision(
    gateway: Gateway, upstream: RecordingUpstream, name: str
) -> None:
    line = name.encode() + b": a\xff\xc3(\x80"
    refuses(gateway, upstream, request("/admin/x", fields=[line]), 401, "token_missing")
    assert passes(gateway, upstream, request("/public/x", fields=[line])).values(name) == [b"a\xff\xc3(\x80"]


def test_GHSA_9g5w_hqr3_w2ph_nor_in_the_credential(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for value in (b"Bearer \xff\xfe", b"\xff", b"Bearer a.b.\xc3\xa9"):
        upstream.requests.clear()
        answer = gateway.ask(request("/admin/x", fields=[b"Authorization: " + value]))
        assert answer.status == 401, answer
        assert upstream.requests == []


# ---- CVE-2021-32637 and everything not listed above: no spelling of a path reaches another route.

PIECES = [
    *("/", "//", "/", "\\", "..", ".", "...", "admin", "public", "x", ";", ";a=b", "?", "#", "*", "~", "%", "%2", "@"),
    *("%2e", "%2E", "%2f", "%5c", "%252e", "%252f", "%00", "%20", "%09", "%3b", "%23", "%3f"),
    *("%c0%ae", "%61dmin", "%70ublic", ":"),
]  # fmt: skip


def lenient(target: bytes, decodings: int) -> set[bytes]:
    """The first segments seen by careless applications that decode a path up to that many times."""
    path = target.partition(b"?")[0]
    texts = [path]
    for _ in range(decodings):
        texts.append(unquote_to_bytes(texts[-1]))
    readings = set()
    for text in texts:
        for cut in (text, re.sub(rb";[^/]*", b"", text), text.partition(b"#")[0], text.partition(b"\0")[0]):
            segments: list[bytes] = []
            for segment in cut.replace(b"\\", b"/").split(b"/"):
                bare = segment.strip(b" \t")
                if bare == b"..":
                    del segments[-1:]
                elif bare not in (b"", b"."):
                    segments.append(bare.lower())
            readings.add(segments[0] if segments else b"")
    return readings


def test_CVE_2021_32637_nothing_that_reads_as_another_route_is_ever_sent(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    _send_odd_targets(gateway, upstream, decodings=2)


def test_CVE_2021_32637_nor_where_paths_are_relaxed(relaxed: Gateway, upstream: RecordingUpstream) -> None:
    _send_odd_targets(relaxed, upstream, decodings=1)


def _send_odd_targets(gateway: Gateway, upstream: RecordingUpstream, *, decodings: int) -> None:
    chance = random.Random(20260101)
    sent = 0
    for _ in range(600):
        start = chance.choice(["/public", "/public/", "/admin", "/", "/stripped/../public/"])
        target = start + "".join(chance.choices(PIECES, k=chance.randint(1, 6)))
        upstream.requests.clear()
        answer = gateway.ask(request(target), method="GET")
        assert answer.status in (200, 400, 401, 404), (target, answer)
        for received in upstream.requests:
            sent += 1
            assert lenient(received.target, decodings) == {b"public"}, (target, received.target)
    assert sent > 20
