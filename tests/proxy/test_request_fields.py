"""Request fields: forwarded, removed, and added by the gateway."""

import pytest

from tests.support.expectations import passes
from tests.support.processes import Account, Gateway
from tests.support.recording import Received, RecordingUpstream
from tests.support.wording import chunked, request

OURS = {
    b"host",
    b"x-request-id",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"via",
}
OURS |= {b"x-user-id", b"x-user-email", b"x-user-roles", b"connection"}


def theirs(received: Received) -> list[tuple[bytes, bytes]]:
    """The client's fields as received by the upstream: names in lower case, order and duplicates kept."""
    fields = ((name.lower(), value) for name, value in received.fields)
    return [field for field in fields if field[0] not in OURS]


def test_end_to_end_fields_are_sent_on_in_order_with_duplicates(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    sent = [
        ("Accept", "text/html"),
        ("X-B", "2"),
        ("Cookie", "a=b; c=d"),
        ("X-A", "1"),
        ("accept", "application/json;q=0.5"),
        ("X-B", "1"),
        ("X-Empty", ""),
        ("Cookie", "e=f"),
        ("X-Spaces", "a  b\tc"),
        ("User-Agent", "a-caller/1.0 (x)"),
        ("Accept-Encoding", "br"),
        ("X-B", "2"),
        ("If-None-Match", 'W/"x", "y"'),
        ("Range", "bytes=0-1,5-"),
        ("Referer", "http://gateway.test/?q=a,b"),
    ]
    lines = [f"{name}: {value}" for name, value in sent]
    received = passes(gateway, upstream, request("/api/x", fields=[*lines[:7], user.line, *lines[7:]]))
    assert theirs(received) == [(name.lower().encode(), value.encode()) for name, value in sent]


def test_no_field_is_added_that_the_client_did_not_send(gateway: Gateway, upstream: RecordingUpstream) -> None:
    received = passes(gateway, upstream, request("/public/x"))
    assert theirs(received) == []
    names = [name.lower() for name, _ in received.fields]
    assert sorted(set(names) - {b"connection"}) == sorted(name for name in names if name != b"connection")
    assert set(names) <= OURS - {b"x-user-id", b"x-user-email", b"x-user-roles"}


def test_white_space_around_a_value_is_no_part_of_it(gateway: Gateway, upstream: RecordingUpstream) -> None:
    received = passes(gateway, upstream, request("/public/x", fields=["X-A: \t a b \t ", "X-B:c"]))
    assert received.values("x-a") == [b"a b"]
    assert b"X-A: a b\r\n" in received.head.replace(b"x-a", b"X-A") + b"\r\n"
    assert received.values("x-b") == [b"c"]


def test_white_space_around_a_value_changes_no_decision(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    fields: list[str | bytes] = [
        user.line + b" \t ",
        "X-Request-Id:  mine\t",
        "Connection: \tX-One ,\tkeep-alive \t",
        "X-One: 1 ",
        "Host:\tgateway.test \t",
    ]
    received = passes(gateway, upstream, request("/api/x", host=None, fields=fields))
    assert received.values("x-user-id") == [user.id.encode()]
    assert received.values("x-request-id") == [b"mine"]
    assert received.values("x-one") == []
    assert received.values("x-forwarded-host") == [b"gateway.test"]
    body = passes(
        gateway, upstream, request("/public/x", method="POST", fields=["Content-Length: \t5 \t"]) + b"hello"
    ).body
    assert bytes(body) == b"hello"


@pytest.mark.parametrize(
    "line",
    [
        "Connection: keep-alive",
        "Connection: close",
        "Keep-Alive: timeout=5, max=100",
        "Proxy-Connection: keep-alive",
        "TE: trailers, deflate;q=0.5",
        "Upgrade: foo/2",
    ],
)
def test_hop_by_hop_fields_end_here(gateway: Gateway, upstream: RecordingUpstream, line: str) -> None:
    name, _, value = line.partition(": ")
    received = passes(gateway, upstream, request("/public/x", fields=[line]))
    if name == "Connection":
        assert received.values(name) in ([], [b"keep-alive"])
    elif name == "TE":
        assert received.values(name) in ([], [b"trailers"])  # the gateway's own field, not the client's
    else:
        assert received.values(name) == []
        assert value.encode() not in received.head


def test_fields_named_by_connection_are_not_forwarded(gateway: Gateway, upstream: RecordingUpstream) -> None:
    fields = [
        "X-One: 1",
        "Connection: X-One, keep-alive ,x-TWO,,",
        "X-Two: 2",
        "X-Three: 3",
        "connection: X-Three",
        "X-One: again",
        "X-Four: 4",
        "Connection: not-there",
    ]
    assert theirs(passes(gateway, upstream, request("/public/x", fields=fields))) == [(b"x-four", b"4")]


def test_connection_does_not_name_end_to_end_fields_of_the_gateway_away(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    fields = ["Connection: host, content-length, x-request-id, via", "X-Request-Id: mine"]
    received = passes(gateway, upstream, request("/public/x", method="POST", fields=fields, body=b"hello"))
    assert bytes(received.body) == b"hello"
    assert len(received.values("host")) == 1
    assert len(received.values("x-request-id")) == 1


# ---- Host


def test_host_is_the_clients(gateway: Gateway, upstream: RecordingUpstream) -> None:
    received = passes(gateway, upstream, request("/public/x", host="some.name:81"))
    assert received.values("host") == [b"some.name:81"]


def test_host_is_the_targets_own_without_preserve_host(gateway: Gateway, upstream: RecordingUpstream) -> None:
    received = passes(gateway, upstream, request("/own-host/x", host="some.name:81"))
    assert received.values("host") == [upstream.url.removeprefix("http://").encode()]


def test_host_is_the_targets_own_for_a_client_of_http_1_0_without_one(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    received = passes(gateway, upstream, request("/public/x", version="1.0", host=None))
    assert received.values("host") == [upstream.url.removeprefix("http://").encode()]


def test_an_absolute_target_is_sent_on_in_origin_form(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for target, sent in (
        ("http://gateway.test/public/x?a=b", b"/public/x?a=b"),
        ("http://GATEWAY.test/public/%61", b"/public/a"),
        ("HTTP://gateway.test/public", b"/public"),
    ):
        assert passes(gateway, upstream, request(target)).target == sent


# ---- X-Forwarded-*, Forwarded, Via


def test_identity_headers_are_set_again(gateway: Gateway, upstream: RecordingUpstream) -> None:
    received = passes(gateway, upstream, request("/public/x", host="gateway.test:8443"))
    assert received.values("x-forwarded-for") == [b"127.0.0.1"]
    assert received.values("x-forwarded-proto") == [b"http"]
    assert received.values("x-forwarded-host") == [b"gateway.test:8443"]


def listed(received: Received, name: str) -> list[bytes]:
    """The members of a list field over all its lines (RFC 9110 5.3)."""
    return [member.strip() for value in received.values(name) for member in value.split(b",")]


def test_forwarding_fields_of_a_trusted_proxy_are_kept_and_continued(
    trusting: Gateway, upstream: RecordingUpstream
) -> None:
    fields = [
        "X-Forwarded-For: 203.0.113.7",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: api.example.com",
        "X-Forwarded-For: 198.51.100.2",
        "X-Forwarded-Port: 443",
        "Forwarded: for=203.0.113.7;proto=https",
        "X-Real-IP: 203.0.113.7",
    ]
    received = passes(trusting, upstream, request("/public/x", fields=fields))
    assert listed(received, "x-forwarded-for") == [b"203.0.113.7", b"198.51.100.2", b"127.0.0.1"]
    assert listed(received, "x-forwarded-proto")[0] == b"https"
    assert listed(received, "x-forwarded-host")[0] == b"api.example.com"
    assert received.values("x-forwarded-port") == [b"443"]
    assert received.values("forwarded") == [b"for=203.0.113.7;proto=https"]
    assert received.values("x-real-ip") == [b"203.0.113.7"]


def test_even_a_trusted_proxy_cannot_set_identity_headers(trusting: Gateway, upstream: RecordingUpstream) -> None:
    fields = ["X-User-Id: root", "x_user_roles: admin", "X.User.Email: a@b"]
    received = passes(trusting, upstream, request("/public/x", fields=fields))
    for name in ("x-user-id", "x-user-roles", "x-user-email"):
        assert received.seen_as(name) == []


def test_even_a_trusted_proxy_does_not_spell_ours_otherwise(trusting: Gateway, upstream: RecordingUpstream) -> None:
    """One name, one value: other spellings of a gateway field would be a second, contradicting value."""
    fields = [
        "X_Forwarded_For: 10.0.0.1",
        "x.forwarded.proto: https",
        "X_Request.Id: other",
        "X-Forwarded-For: 203.0.113.7",
    ]
    received = passes(trusting, upstream, request("/public/x", fields=fields))
    assert received.seen_as("x-forwarded-for") == [b"203.0.113.7, 127.0.0.1"]
    assert received.seen_as("x-forwarded-proto") == [b"http"]
    assert len(received.seen_as("x-request-id")) == 1


def test_via_names_the_protocol_that_was_received(gateway: Gateway, upstream: RecordingUpstream) -> None:
    assert listed(passes(gateway, upstream, request("/public/x")), "via")[-1].startswith(b"1.1 ")
    assert listed(passes(gateway, upstream, request("/public/x", version="1.0")), "via")[-1].startswith(b"1.0 ")


def test_via_of_earlier_hops_is_continued(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """RFC 9110 7.6.3: each intermediary appends; an incomplete chain cannot reveal a loop."""
    received = passes(gateway, upstream, request("/public/x", fields=["Via: 1.0 fred", "Via: 1.1 p.example.net"]))
    members = listed(received, "via")
    assert members[:2] == [b"1.0 fred", b"1.1 p.example.net"]
    assert len(members) == 3
    assert received.seen_as("via") == received.values("via")


# ---- X-Forwarded-Port, X-Forwarded-Prefix


@pytest.mark.parametrize(
    ("host", "port"),
    [("gateway.test", b"80"), ("gateway.test:8443", b"8443"), ("gateway.test.:81", b"81"), ("127.0.0.1", b"80"),
     ("[::1]", b"80"), ("[::1]:8080", b"8080"), ("gateway.test:", b"80")],
)  # fmt: skip
def test_the_port_is_the_one_that_the_caller_named(
    gateway: Gateway, upstream: RecordingUpstream, host: str, port: bytes
) -> None:
    for path in ("/public/x", "/stripped/x"):
        received = passes(
            gateway, upstream, request(path, host=host, fields=["X-Forwarded-Port: 1", "X_Forwarded_Port: 2"])
        )
        assert received.seen_as("x-forwarded-port") == [port]


def test_without_a_host_the_port_is_that_of_the_scheme(gateway: Gateway, upstream: RecordingUpstream) -> None:
    received = passes(gateway, upstream, request("/public/x", host=None, version="1.0"))
    assert received.values("x-forwarded-port") == [b"80"]
    assert received.values("x-forwarded-host") == []


@pytest.mark.parametrize(
    ("lines", "port"),
    [
        ([], b"80"),
        (["X-Forwarded-Port: 444"], b"444"),
        (["X-Forwarded-Proto: https"], b"443"),
        (["X-Forwarded-Proto: https, http", "X-Forwarded-Host: api.example.com, inner:81"], b"443"),
        (["X-Forwarded-Proto: http", "X-Forwarded-Host: api.example.com:8443"], b"8443"),
        (["X!Forwarded!Port: 444"], b"80"),
    ],
)
def test_behind_a_trusted_proxy_the_port_is_that_of_its_callers(
    trusting: Gateway, upstream: RecordingUpstream, lines: list[str], port: bytes
) -> None:
    received = passes(trusting, upstream, request("/public/x", fields=lines))
    assert received.seen_as("x-forwarded-port") == [port]


def test_a_prefix_that_is_stripped_is_passed_on(gateway: Gateway, upstream: RecordingUpstream) -> None:
    forged = ["X-Forwarded-Prefix: /evil", "X|Forwarded|Prefix: /evil"]
    for path, sent in (("/stripped/a/b", b"/a/b"), ("/stripped", b"/"), ("/%73tripped/a", b"/a")):
        received = passes(gateway, upstream, request(path, fields=forged))
        assert received.target == sent
        assert received.seen_as("x-forwarded-prefix") == [b"/stripped"]
    assert passes(gateway, upstream, request("/public/x", fields=forged)).seen_as("x-forwarded-prefix") == []


@pytest.mark.parametrize(("given", "passed_on"), [("/outer", b"/outer/stripped"), ("/outer/", b"/outer/stripped")])
def test_the_prefix_of_a_trusted_proxy_stands_before_it(
    trusting: Gateway, upstream: RecordingUpstream, given: str, passed_on: bytes
) -> None:
    fields = [f"X-Forwarded-Prefix: {given}"]
    received = passes(trusting, upstream, request("/stripped/x", fields=fields))
    assert received.values("x-forwarded-prefix") == [passed_on]
    received = passes(trusting, upstream, request("/public/x", fields=fields))
    assert received.values("x-forwarded-prefix") == [b"/outer"]


# ---- fields that change the method, and the variable of CGI programs


OVERRIDES = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")


@pytest.mark.parametrize("name", OVERRIDES)
def test_a_method_override_goes_on_only_to_an_upstream_that_asks_for_it(
    gateway: Gateway, upstream: RecordingUpstream, name: str
) -> None:
    lines = ["A: 1", f"{name}: DELETE", "B: 2", f"{name.replace('-', '_')}: PUT", f"{name.replace('-', '!')}: PUT"]
    received = passes(gateway, upstream, request("/public/x", method="POST", fields=lines))
    assert received.seen_as(name) == []
    received = passes(gateway, upstream, request("/overridable/x", method="POST", fields=lines))
    assert theirs(received) == [(b"a", b"1"), (name.lower().encode(), b"DELETE"), (b"b", b"2")]
    assert received.seen_as(name) == [b"DELETE"]


def test_a_header_block_that_comes_again_is_sorted_for_its_own_upstream(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    with gateway.caller() as caller:
        for path in ("/overridable/x", "/public/x", "/overridable/x", "/public/x"):
            caller.send(request(path, fields=["X-HTTP-Method: DELETE"]))
            assert caller.receive().status == 200
    assert [each.values("x-http-method") for each in upstream.requests] == [[b"DELETE"], []] * 2


def test_connection_can_name_a_method_override_away(gateway: Gateway, upstream: RecordingUpstream) -> None:
    fields = ["X-HTTP-Method: DELETE", "Connection: x-http-method"]
    assert passes(gateway, upstream, request("/overridable/x", fields=fields)).seen_as("x-http-method") == []


@pytest.mark.parametrize("path", ["/public/x", "/overridable/x"])
def test_httpoxy_the_proxy_of_a_cgi_program_is_never_set(
    gateway: Gateway, upstream: RecordingUpstream, path: str
) -> None:
    received = passes(gateway, upstream, request(path, fields=["Proxy: http://evil.example", "PROXY: x"]))
    assert received.seen_as("proxy") == []


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "Path-Info", "X_Script-Name", "X-Script-Name", "daphne-root-path"])
@pytest.mark.parametrize("path", ["/public/x", "/overridable/x", "/stripped/x"])
def test_a_base_path_for_the_application_server_is_never_set(
    gateway: Gateway, upstream: RecordingUpstream, path: str, name: str
) -> None:
    assert passes(gateway, upstream, request(path, fields=[f"{name}: /public"])).seen_as(name.replace("_", "-")) == []


# ---- X-Request-Id


@pytest.mark.parametrize("good", ["a", "x" * 128, "0123-abcd", "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~", "a,b"])
def test_a_good_request_id_is_kept(gateway: Gateway, upstream: RecordingUpstream, good: str) -> None:
    received = passes(gateway, upstream, request("/public/x", fields=[f"X-Request-Id: {good}"]))
    assert received.values("x-request-id") == [good.encode()]


@pytest.mark.parametrize("bad", ["", "x" * 129, "a b", "a\tb", "\xe9", "a\xffb"])
def test_a_bad_request_id_is_replaced(gateway: Gateway, upstream: RecordingUpstream, bad: str) -> None:
    (made,) = passes(gateway, upstream, request("/public/x", fields=[f"X-Request-Id: {bad}"])).values("x-request-id")
    assert made != bad.encode("latin-1")
    assert 1 <= len(made) <= 128
    assert all(0x21 <= byte <= 0x7E for byte in made)


def test_two_request_ids_are_none(gateway: Gateway, upstream: RecordingUpstream) -> None:
    fields = ["X-Request-Id: one", "x-request-id: two", "X_Request_Id: three"]
    assert len(passes(gateway, upstream, request("/public/x", fields=fields)).seen_as("x-request-id")) == 1


def test_made_request_ids_are_never_the_same(gateway: Gateway, upstream: RecordingUpstream) -> None:
    with gateway.caller() as caller:
        for _ in range(100):
            caller.send(request("/public/x"))
            caller.receive()
    seen = {value for received in upstream.requests for value in received.values("x-request-id")}
    assert len(seen) == 100


# ---- credentials


@pytest.mark.parametrize(
    ("path", "forwarded"),
    [
        ("/api/x", False),
        ("/optional/x", False),
        ("/admin/x", False),
        ("/forwarded/x", True),
        ("/public-forwarded/x", True),
        ("/public-unforwarded/x", False),
        ("/optional-forwarded/x", True),
        ("/public/x", True),
    ],
)
def test_the_callers_credential_goes_on_only_where_the_route_lets_it(
    gateway: Gateway, upstream: RecordingUpstream, admin: Account, path: str, forwarded: bool
) -> None:
    received = passes(gateway, upstream, request(path, fields=[admin.line]))
    assert received.values("authorization") == ([admin.line.partition(b": ")[2]] if forwarded else [])


def test_credentials_that_go_on_keep_their_places_among_the_other_fields(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    lines = [
        "Authorization: 1",
        "X-A: a",
        "Authorization: 2",
        "authorization: 3",
        "X-B: b",
        "X-C: c",
        "Authorization: 4",
    ]
    received = passes(gateway, upstream, request("/public/x", fields=lines))
    sent = [line.lower().encode().split(b": ") for line in lines]
    assert [list(field) for field in theirs(received)] == sent


@pytest.mark.parametrize("value", ["Basic cm9vdDpyb290", "Bearer garbage"])
def test_a_bad_credential_on_an_optional_route_is_anonymous(
    gateway: Gateway, upstream: RecordingUpstream, value: str
) -> None:
    received = passes(gateway, upstream, request("/optional/x", fields=[f"Authorization: {value}"]))
    assert received.values("authorization") == []
    assert received.seen_as("x-user-id") == []


def test_a_good_credential_on_an_optional_route_is_an_identity(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    received = passes(gateway, upstream, request("/optional/x", fields=[user.line]))
    assert received.values("x-user-id") == [user.id.encode()]
    assert received.values("x-user-email") == [user.email.encode()]
    assert received.values("x-user-roles") == [b"user"]


# ---- bodies


@pytest.mark.parametrize("body", [b"", b"x", b"a" * 70000, bytes(range(256)) * 100])
def test_a_body_of_known_length_is_sent_on_with_it(gateway: Gateway, upstream: RecordingUpstream, body: bytes) -> None:
    received = passes(gateway, upstream, request("/public/x", method="POST", body=body))
    assert received.values("content-length") == [b"%d" % len(body)]
    assert received.values("transfer-encoding") == []
    assert bytes(received.body) == body


@pytest.mark.parametrize("pieces", [[], [b"x"], [b"abc", b"defg", b"\r\n0\r\n\r\n"], [b"a" * 70000, b"b" * 7]])
def test_a_chunked_body_is_sent_on_in_chunks(
    gateway: Gateway, upstream: RecordingUpstream, pieces: list[bytes]
) -> None:
    data = request("/public/x", method="POST", fields=["Transfer-Encoding: chunked"]) + chunked(*pieces)
    received = passes(gateway, upstream, data)
    assert received.values("transfer-encoding") == [b"chunked"]
    assert received.values("content-length") == []
    assert bytes(received.body) == b"".join(pieces)


def test_chunk_extensions_end_here(gateway: Gateway, upstream: RecordingUpstream) -> None:
    head = request("/public/x", method="POST", fields=["Transfer-Encoding: Chunked"])
    received = passes(gateway, upstream, head + b'5;a=b;c="d"\r\nhello\r\n0;e\r\n\r\n')
    assert bytes(received.body) == b"hello"


def test_request_trailers_are_no_fields_of_the_head(gateway: Gateway, upstream: RecordingUpstream) -> None:
    head = request("/public/x", method="POST", fields=["Transfer-Encoding: chunked", "Trailer: X-Checksum"])
    received = passes(gateway, upstream, head + chunked(b"abc", trailers=["X-Checksum: 7"]))
    assert bytes(received.body) == b"abc"
    assert received.values("x-checksum") == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_a_method_that_has_no_body_may_have_one(gateway: Gateway, upstream: RecordingUpstream, method: str) -> None:
    received = passes(gateway, upstream, request("/public/x", method=method, body=b"body"))
    assert (received.method, bytes(received.body)) == (method.encode(), b"body")


def test_a_request_without_a_body_has_no_body_framing(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for method in ("GET", "POST", "DELETE"):
        received = passes(gateway, upstream, request("/public/x", method=method))
        assert received.framing in (("none",) if method != "POST" else ("none", "length"))
        assert bytes(received.body) == b""
