"""A. Only the gateway sets the caller's identity."""

import random
from itertools import product

import pytest

from tests.support.expectations import passes, refuses, refuses_unparsed
from tests.support.gateways import SignIn
from tests.support.processes import Account, Gateway
from tests.support.recording import Received, RecordingUpstream
from tests.support.wording import chunked, request

NAMES = ("X-User-Id", "X-User-Email", "X-User-Roles")


def spellings(name: str) -> list[str]:
    """Spellings that some application normalises to this name: case, `_` or `.` for any of the hyphens, and every other
    allowed character (RFC 9110 5.6.2) for all of them."""
    words = name.split("-")
    joined = [words[0] + a + words[1] + b + words[2] for a, b in product("-_.", repeat=2)]
    odd = [name.replace("-", joint) for joint in "!#$%&'*+^`|~"]
    return [*joined, *odd, name.lower(), name.upper(), name.lower().replace("-", "_"), name.upper().replace("-", ".")]


FORGED = [f"{spelling}: root" for name in NAMES for spelling in spellings(name)]


def says_only(received: Received, account: Account | None, roles: str = "user") -> None:
    """The upstream sees exactly this account after any normalisation; None: it sees no identity."""
    for name, value in zip(NAMES, (account and account.id, account and account.email, roles), strict=True):
        expected = [str(value).encode()] if account else []
        assert received.seen_as(name) == expected, name
        assert received.values(name) == expected, name


@pytest.mark.parametrize("forged", FORGED)
def test_CVE_2025_64484_no_spelling_of_an_identity_header_survives(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, forged: str
) -> None:
    says_only(passes(gateway, upstream, request("/api/x", fields=[user.line, forged])), user)
    says_only(passes(gateway, upstream, request("/public/x", fields=[forged])), None)


def test_CVE_2025_64484_all_spellings_at_once(gateway: Gateway, upstream: RecordingUpstream, user: Account) -> None:
    fields: list[str | bytes] = [*FORGED[:20], user.line, *FORGED[20:]]
    says_only(passes(gateway, upstream, request("/api/x", fields=fields)), user)


@pytest.mark.parametrize("path", ["/public/x", "/optional/x", "/optional-forwarded/x", "/small/x", "/stripped/x"])
@pytest.mark.parametrize("credential", [[], ["Authorization: Bearer garbage"], ["Authorization: Basic cm9vdDpyb290"]])
def test_GHSA_7r4p_vjf4_gxv4_without_an_identity_every_identity_header_is_cleared(
    gateway: Gateway, upstream: RecordingUpstream, path: str, credential: list[str]
) -> None:
    says_only(passes(gateway, upstream, request(path, fields=[*FORGED, *credential])), None)


@pytest.mark.parametrize("alias", ["X.User.Id", "X_User.Id", "x.user_id", "X.USER.ID"])
def test_GHSA_f59h_q822_g45g_aliases_that_php_folds(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, alias: str
) -> None:
    says_only(passes(gateway, upstream, request("/api/x", fields=[user.line, f"{alias}: root"])), user)


@pytest.mark.parametrize("name", NAMES)
def test_CVE_2026_31908_every_configured_header_is_cleared_on_every_kind_of_route(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, name: str
) -> None:
    forged = f"{name}: root"
    says_only(passes(gateway, upstream, request("/optional/x", fields=[forged])), None)
    says_only(passes(gateway, upstream, request("/optional/x", fields=[forged, user.line])), user)
    says_only(passes(gateway, upstream, request("/forwarded/x", fields=[forged, user.line])), user)
    refuses(gateway, upstream, request("/api/x", fields=[forged]), 401, "token_missing")


def test_oauth2_proxy_skip_routes_are_stripped_too(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    """On a route with `auth: none` no user is looked up, even with a valid token."""
    says_only(passes(gateway, upstream, request("/public/x", fields=["X-User-Id: root", user.line])), None)


def test_traefik_51f6b0435f_duplicates_are_replaced(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    fields: list[str | bytes] = ["X-User-Id: root", user.line, "X-User-Id: toor", f"X-User-Id: {user.id}"]
    says_only(passes(gateway, upstream, request("/api/x", fields=fields)), user)


@pytest.mark.parametrize(
    "connection",
    [
        "close, X-User-Id",
        "x-USER-id, x-user-email, x-user-roles",
        "keep-alive, X_User_Id, x-forwarded-for, x-forwarded-proto, x-forwarded-host, x-request-id, via, host",
    ],
)
def test_CVE_2024_45410_connection_cannot_name_our_headers_away(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, connection: str
) -> None:
    received = passes(gateway, upstream, request("/api/x", fields=[f"Connection: {connection}", user.line]))
    says_only(received, user)
    for ours in ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id", "via", "host"):
        assert len(received.values(ours)) == 1, ours


def test_CVE_2024_45410_nor_by_several_connection_lines(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    fields: list[str | bytes] = [
        "Connection: keep-alive",
        "X-User-Id: root",
        "Connection: x-user-id",
        user.line,
        "connection: X-User-Email",
    ]
    says_only(passes(gateway, upstream, request("/api/x", fields=fields)), user)


@pytest.mark.parametrize(
    "trailer", ["X-User-Id: root", "x_user_id: root", "X-User-Roles: admin", "X.User.Email: a@b.c"]
)
def test_traefik_86b5642f00_request_trailers_carry_no_identity(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, trailer: str
) -> None:
    name = trailer.partition(":")[0]
    fields: list[str | bytes] = [user.line, "Transfer-Encoding: chunked", f"Trailer: {name}"]
    sent = request("/api/x", method="POST", fields=fields) + chunked(b"body", trailers=[trailer])
    received = passes(gateway, upstream, sent)
    says_only(received, user)
    assert bytes(received.body) == b"body"


def test_traefik_86b5642f00_a_trailer_does_not_sign_in(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    head = request("/api/x", method="POST", fields=["Transfer-Encoding: chunked", "Trailer: Authorization"])
    refuses(gateway, upstream, head + chunked(b"body", trailers=[user.line]), 401, "token_missing")


def test_CVE_2026_41181_credentials_are_not_forwarded_unless_the_route_allows_it(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    fields: list[str | bytes] = [user.line, "Cookie: a=b"]
    for path in ("/api/x", "/optional/x"):
        received = passes(gateway, upstream, request(path, fields=fields))
        assert received.seen_as("authorization") == []
        assert received.values("cookie") == [b"a=b"]
    received = passes(gateway, upstream, request("/forwarded/x", fields=fields))
    assert received.values("authorization") == [user.line.partition(b": ")[2]]


@pytest.mark.parametrize(
    "misleading",
    [
        "X-Original-URL: /public/x",
        "X-Rewrite-URL: /public/x",
        "X-Forwarded-Uri: /public/x",
        "X-Envoy-Original-Path: /public/x",
        "X-Original-URI: /public/x",
        "X-Forwarded-Path: /public/x",
        "X-Forwarded-Prefix: /public",
        "X-Original-Method: OPTIONS",
        "X-Forwarded-Method: OPTIONS",
    ],
)
def test_CVE_2023_27487_no_header_chooses_the_path(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, misleading: str
) -> None:
    refuses(gateway, upstream, request("/admin/x", fields=[misleading]), 401, "token_missing")
    refuses(gateway, upstream, request("/admin/x", fields=[misleading, user.line]), 403, "forbidden")


@pytest.mark.parametrize(
    "line",
    [
        b"X-User-Id : root",
        b"X-User-Id\t: root",
        b"X-User Id: root",
        b"X-User-Id\x00: root",
        b"X-User-Id\x0b: root",
        b"\xd8-User-Id: root",
        b"X-Other: a\r\n X-User-Id: root",
        b"X-Other: a\nX-User-Id: root",
        b"X-Other: a\rX-User-Id: root",
    ],
)
def test_no_malformed_line_smuggles_a_header(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, line: bytes
) -> None:
    refuses_unparsed(gateway, upstream, request("/api/x", fields=[user.line, line]))


NAME_PIECES = [
    "X",
    "x",
    "User",
    "user",
    "USER",
    "Id",
    "id",
    "Email",
    "Roles",
    "Forwarded",
    "For",
    "Request",
    "-",
    "-",
    "_",
    ".",
    "~",
    "!",
    "'",
    "|",
]
VALUE_PIECES = ["root", "admin", ",", ";", " ", "\t", "\xff", '"', "0", ":", "X-User-Id: root"]


def test_no_mixture_of_names_and_values_makes_an_identity(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    """For any set of header lines the upstream sees this user once, or the request is refused."""
    chance = random.Random(20260102)
    served = 0
    for _ in range(300):
        lines: list[bytes] = []
        for _ in range(chance.randint(1, 8)):
            name = "".join(chance.choices(NAME_PIECES, k=chance.randint(1, 6)))
            value = "".join(chance.choices(VALUE_PIECES, k=chance.randint(0, 4)))
            lines.append(f"{name}: {value}".encode("latin-1"))
        lines.insert(chance.randint(0, len(lines)), user.line)
        upstream.requests.clear()
        answer = gateway.ask(request("/api/x", fields=lines))
        assert answer.status in (200, 400), (lines, answer)
        for received in upstream.requests:
            served += 1
            says_only(received, user)
    assert served > 100


def test_values_of_identity_headers_are_ascii_and_encoded(
    gateway: Gateway, upstream: RecordingUpstream, sign_in: SignIn
) -> None:
    odd = sign_in("50%off+x")
    received = passes(gateway, upstream, request("/api/x", fields=[odd.line]))
    assert received.values("x-user-email") == [b"50%25off+x@example.com"]


def test_roles_are_sorted_and_include_the_implied_ones(
    gateway: Gateway, upstream: RecordingUpstream, admin: Account, sign_in: SignIn
) -> None:
    received = passes(gateway, upstream, request("/api/x", fields=[admin.line]))
    says_only(received, admin, roles="admin,editor,user")
    received = passes(gateway, upstream, request("/api/x", fields=[sign_in("both").line]))
    assert received.values("x-user-roles") == [b"auditor,editor,user"]
