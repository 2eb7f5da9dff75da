"""G. Proxying mechanics that other proxies got wrong."""

import json
from pathlib import Path

import pytest

from tests.proxy.conformance.requests import REFUSED, SMUGGLED, Refused, framed, named
from tests.support.expectations import passes, refuses, refuses_unparsed
from tests.support.faces import stock
from tests.support.gateways import Gateways
from tests.support.processes import Account, Gateway, command, write_configuration
from tests.support.recording import RecordingUpstream
from tests.support.scripts import HeldConnection, answer, early, response
from tests.support.waiting import eventually, within
from tests.support.wording import chunked, request


def test_GHSA_7vwr_g6pm_9hc8_no_cookie_is_kept_for_the_next_caller(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, admin: Account
) -> None:
    upstream.on("/api/first", answer(200, ["Set-Cookie: session=of-user; Path=/"]))
    got = gateway.ask(request("/api/first", fields=[user.line]))
    assert got.values("set-cookie") == [b"session=of-user; Path=/"]
    for line in (admin.line, user.line):
        assert passes(gateway, upstream, request("/api/second", fields=[line])).values("cookie") == []


@pytest.mark.parametrize(
    "target",
    ["//evil.example/x", "//evil.example/public/x", "/\\evil.example/x", "http://evil.example/public/x",
     "https://evil.example:1/public/x", "//127.0.0.1:1/public/x", "http:///public/x", "http:public/x", "ftp://evil.example/public/x",
     "/public/http://evil.example/x", "evil.example/public/x", "gateway.test:80", "http://"],
)  # fmt: skip
def test_asgiproxy_urljoin_a_target_never_names_another_upstream(
    gateway: Gateway, upstream: RecordingUpstream, target: str
) -> None:
    upstream.requests.clear()
    got = gateway.ask(request(target))
    if stock(gateway.face, "authority") and target.partition("://")[0] in ("http", "https", "ftp"):
        assert got.status in (200, 400, 404), got
        assert all(received.target == b"/public/x" for received in upstream.requests)
    else:
        assert got.status == 400, got
        assert upstream.requests == []


H2C = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"]


def test_h2c_is_never_tunnelled(gateway: Gateway, upstream: RecordingUpstream, user: Account) -> None:
    """The request is an ordinary one: the policy decides, and the upgrade is not forwarded."""
    refuses(gateway, upstream, request("/admin/x", fields=H2C), 401, "token_missing")
    received = passes(gateway, upstream, request("/api/x", fields=[*H2C, user.line]))
    for name in ("upgrade", "http2-settings", "connection"):
        assert received.seen_as(name) in ([], [b"keep-alive"]), name


def test_h2c_requests_that_follow_on_the_connection_are_authorized(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    with gateway.caller() as caller:
        caller.send(request("/public/x", fields=H2C))
        assert caller.receive().status == 200
        try:
            caller.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + request("/admin/x"))
            assert caller.receive().status in (400, 401)
        except (OSError, AssertionError):
            caller.close()
    assert all(received.target == b"/public/x" for received in upstream.requests)


UPGRADES = {
    "h2c": H2C,
    "h2c among other options": ["Connection: x, Upgrade, HTTP2-Settings", *H2C[1:]],
    "another protocol": ["Connection: upgrade", "Upgrade: foo/2, bar"],
    "websocket by POST": ["Connection: Upgrade", "Upgrade: websocket"],
}
FRAMED = {
    "a length": (["Content-Length: 8"], b"the body"),
    "a chunk": (["Transfer-Encoding: chunked"], chunked(b"the body")),
    "chunks and trailers": (["Transfer-Encoding: chunked"], chunked(b"the ", b"body", trailers=["Upgrade: h2c"])),
}


@pytest.mark.parametrize("framing", FRAMED)
@pytest.mark.parametrize("fields", UPGRADES.values(), ids=UPGRADES)
def test_h2c_neither_its_body_nor_the_next_request_is_lost(
    gateway: Gateway, upstream: RecordingUpstream, fields: list[str], framing: str
) -> None:
    lines, body = FRAMED[framing]
    first = request("/public/one", method="POST", fields=[*fields, *lines]) + body
    if stock(gateway.face, "upgrade"):
        # Incomplete data is never treated as a complete message.
        assert gateway.ask(first + request("/public/two")).refused() == (400, "bad_request")
        upstream.settle()
        eventually(lambda: all(one.link.ended for one in upstream.requests))
        assert not any(one.whole for one in upstream.requests)
        return
    with gateway.caller() as caller:
        caller.send(first + request("/public/two"))
        assert (caller.receive("POST").status, caller.receive().status) == (200, 200)
    assert [(one.target, bytes(one.body)) for one in upstream.requests] == [
        (b"/public/one", b"the body"),
        (b"/public/two", b""),
    ]


WEBSOCKET = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
    "Origin: https://evil.example",
    "Cookie: session=1",
]


def test_a_websocket_handshake_meets_the_same_policy(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    """The route must also allow WebSocket, which is off by default."""
    for path, fields, status, codes in (
        ("/admin/ws", [], 403, {"websocket_not_allowed"}),
        ("/admin/ws", [user.line], 403, {"forbidden", "websocket_not_allowed"}),
        ("/nowhere", [], 404, {"no_route"}),
        ("/public/../admin/ws", [], 400, {"bad_path"}),
        ("/public/ws", [], 403, {"websocket_not_allowed"}),
        ("/api/ws", [user.line], 403, {"websocket_not_allowed"}),
        ("/auth/me", [], 403, {"websocket_not_allowed"}),
    ):
        refuses(gateway, upstream, request(path, fields=[*WEBSOCKET, *fields]), status, codes)


@pytest.mark.parametrize("protocol", ["websocket", "WebSocket", "h2c, websocket", "websocket, h2c"])
def test_no_upgrade_is_ever_sent_on(gateway: Gateway, upstream: RecordingUpstream, protocol: str) -> None:
    upstream.requests.clear()
    gateway.ask(request("/public/x", fields=["Connection: Upgrade", f"Upgrade: {protocol}", *WEBSOCKET[2:]]))
    for received in upstream.requests:
        assert received.seen_as("upgrade") == []
        assert received.seen_as("connection") in ([], [b"keep-alive"])


# ---- request smuggling


@pytest.mark.parametrize("case", REFUSED, ids=named)
def test_request_smuggling_one_reading_or_none(gateway: Gateway, upstream: RecordingUpstream, case: Refused) -> None:
    """The request is refused, the connection closed, and later bytes are not read as a request."""
    if case.unlike is not None and stock(gateway.face, case.unlike):
        return
    upstream.requests.clear()
    with gateway.caller() as caller:
        caller.send(case.sent)
        got = caller.receive("POST")
        assert got.status == 400, got
        if gateway.face == "serve":
            assert got.code == "bad_request", got
        caller.send_until_refused([SMUGGLED.replace(b"admin", b"public")])
        _, rest = caller.ended()
        assert b"HTTP/1.1 200" not in rest
    upstream.settle()
    assert not any(received.whole for received in upstream.requests), upstream.lines()
    assert not any(b"smuggled" in received.line for received in upstream.requests)


def test_a_bad_chunk_amid_a_body_breaks_the_upstream_request_and_never_ends_it(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    """An upstream with half of a body must never treat it as complete."""
    held = HeldConnection(after=response())
    upstream.on("/public/half", held)
    with gateway.caller() as caller:
        head = request("/public/half", method="POST", fields=["Transfer-Encoding: chunked"])
        caller.send(head + b"5\r\nhello\r\n")
        received = upstream.arrived()
        requests = received.link.requests
        caller.send(b"zz\r\nworld\r\n0\r\n\r\n" + SMUGGLED)
        caller.ended()
    eventually(lambda: received.link.ended)
    assert not received.whole
    assert received.link.requests == requests
    assert upstream.only is received


@pytest.mark.parametrize(
    "lines", [["Connection: content-length"], ["Connection: Transfer-Encoding, Content-Length, Host"]]
)
def test_connection_cannot_name_the_framing_away(
    gateway: Gateway, upstream: RecordingUpstream, lines: list[str]
) -> None:
    body = b"GET /admin/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    for data in (
        request("/public/x", method="POST", fields=lines, body=body),
        request("/public/x", method="POST", fields=[*lines, "Transfer-Encoding: chunked"]) + chunked(body),
    ):
        upstream.requests.clear()
        got = gateway.ask(data)
        assert got.status in (200, 400), got
        assert all((one.target, bytes(one.body)) == (b"/public/x", body) for one in upstream.requests), upstream.lines()


def test_an_upstream_connection_is_not_reused_after_an_error(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/public/early", early(response(401, [], b"no"), then="keep"))
    with gateway.caller() as caller:
        caller.send(framed("Content-Length: 100000").replace(b"/public/x", b"/public/early") + b"x" * 10)
        assert caller.receive("POST").status == 401
    first = upstream.arrived().link
    eventually(lambda: first.ended)
    assert passes(gateway, upstream, request("/public/x")).link is not first


def test_heimdall_3424_a_refused_request_is_refused_before_its_body(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    """The gateway does not wait for a body that it will not use, and sends no 100 Continue."""
    for path, status in (("/admin/x", 401), ("/nowhere", 404), ("/small/x", 413)):
        data = request(path, method="POST", fields=["Content-Length: 1000000", "Expect: 100-continue"])
        with gateway.caller() as caller:
            got = caller.send(data).receive("POST")
            assert got.status == status
            assert got.interim == ()
    assert upstream.requests == []


def test_CVE_2025_62727_a_monstrous_range_costs_nothing(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    """Built-in endpoints ignore ranges; for proxied requests the field is forwarded unchanged."""
    ranges = "bytes=" + ",".join(f"{n}-" for n in range(2500))
    with within(1.0):
        assert gateway.get("/auth/me", user.line, f"Range: {ranges}").status == 200
        assert gateway.get("/.well-known/jwks.json", f"Range: {ranges}").status == 200
        assert passes(gateway, upstream, request("/public/x", fields=[f"Range: {ranges}"])).values("range") == [
            ranges.encode()
        ]


# ---- CVE-2022-24797, CVE-2020-11710, CVE-2020-13945, CVE-2022-24112: internals are not exposed


@pytest.mark.parametrize(
    "path",
    ["/metrics", "/docs", "/openapi.json", "/admin", "/debug/pprof", "/debug/vars", "/status", "/health", "/ready",
     "/server-info", "/config_dump", "/apisix/admin/routes", "/actuator/gateway/routes", "/.env", "/redoc", "/_gateway",
     "/_gateway/", "/_gateway/x", "/_gateway/../metrics", "/.well-known/openid-configuration"],
)  # fmt: skip
def test_CVE_2022_24797_nothing_of_ours_lies_at_a_guessable_path(
    gateway: Gateway, upstream: RecordingUpstream, path: str
) -> None:
    upstream.requests.clear()
    got = gateway.get(path)
    assert got.status in (400, 401, 404), got
    assert upstream.requests == []


def test_CVE_2020_13945_no_default_key_exists(gateways: Gateways, tmp_path: Path) -> None:
    """Two gateways without configured keys do not accept each other's tokens."""
    keys = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        configuration = gateways.configuration(folder)
        configuration["tokens"]["keys"] = []
        gateway = Gateway("serve", configuration, folder).start()
        try:
            keys.append(gateway.get("/.well-known/jwks.json").json()["keys"])
            token = gateway.newcomer().line
        finally:
            gateway.stop()
        private = [path for path in folder.iterdir() if b"PRIVATE KEY" in path.read_bytes()]
        assert private, "the key made once must outlive the process"
        assert all(path.stat().st_mode & 0o077 == 0 for path in private)
        assert token
    assert len(keys[0]) == len(keys[1]) == 1
    assert keys[0][0]["x"] != keys[1][0]["x"]


def test_CVE_2025_41253_a_configuration_is_data_and_reads_nothing_it_does_not_name(
    gateways: Gateways, tmp_path: Path
) -> None:
    configuration = gateways.configuration(tmp_path)
    configuration["tokens"]["issuer"] = "${os.environ[HOME]}"
    done = command(write_configuration(tmp_path, configuration), "check")
    assert done.returncode == 2
    assert "tokens.issuer" in done.stdout + done.stderr


@pytest.mark.parametrize("path", ["/admin/x", "/api/x", "/auth/me", "/public/%00", "/nowhere"])
def test_GO_2024_2965_no_error_contains_a_secret(gateway: Gateway, user: Account, path: str) -> None:
    bad = user.token[:-3] + "abc"
    for token in (bad, "secret-looking-token", "Bearer"):
        got = gateway.get(path, f"Authorization: Bearer {token}", "Cookie: secret=cookie")
        text = json.dumps([[name.decode(), value.decode()] for name, value in got.fields]) + got.body.decode()
        for secret in (token, bad.split(".")[1], "secret=cookie", "127.0.0.1", "Traceback", ".py", user.id):
            if secret != "Bearer":
                assert secret not in text, (secret, text)


def test_GO_2024_2965_nor_does_the_log(gateway: Gateway, upstream: RecordingUpstream, user: Account) -> None:
    passes(gateway, upstream, request(f"/api/x?access_token={user.token}", fields=[user.line, "Cookie: secret=cookie"]))
    gateway.post("/auth/login", {"email": "user@example.com", "password": "a password nobody may read"})
    gateway.get("/api/x", f"Authorization: Bearer {user.token[:-3]}abc")
    login = gateway.post("/auth/login", {"email": user.email, "password": user.password}).json()
    log = gateway.log()
    for secret in (user.token, user.token.split(".")[2], user.password, "a password nobody may read", "secret=cookie"):
        assert secret not in log
    assert login["access_token"] not in log
    assert login["refresh_token"] not in log


def test_GO_2022_0783_no_answer_redirects_or_puts_a_token_into_an_address(gateway: Gateway, user: Account) -> None:
    for got in (
        gateway.post("/auth/login", {"email": user.email, "password": user.password}),
        gateway.get("/auth/me", user.line),
        gateway.get("/admin/x", "Accept: text/html"),
    ):
        assert got.status < 300 or got.status >= 400
        assert not got.head.has("location")
        assert not got.head.has("set-cookie")


def test_unparsed_requests_leave_the_next_connection_alone(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for _ in range(5):
        refuses_unparsed(gateway, upstream, b"\r\n\r\nnonsense\r\n\r\n")
    passes(gateway, upstream, request("/public/x"))
