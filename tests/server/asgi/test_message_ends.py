"""The ASGI application under real servers: trailers are no header fields, and no body is lost.

The servers read the wire. uvicorn with httptools gives the application trailers among the header fields, and an empty
body where a request also asks for an upgrade.
"""

import contextlib
from collections.abc import Iterator

import pytest

from tests.server.asgi.servers import SERVERS, ServedApplication, installed
from tests.support.configurations import changed
from tests.support.gateways import Gateways, signed_in
from tests.support.raw import NoAnswer
from tests.support.recording import RecordingUpstream
from tests.support.waiting import eventually, within
from tests.support.websockets import handshake
from tests.support.wording import chunked, request

CHUNKED = "Transfer-Encoding: chunked"
SMUGGLED = request("/public/smuggled")


@pytest.fixture(scope="module", params=[name for name in SERVERS if name != "uvicorn, in a middleware"])
def server(
    request: pytest.FixtureRequest, gateways: Gateways, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedApplication]:
    if not installed(request.param):
        pytest.skip(f"{SERVERS[request.param][0]} is not installed")
    folder = tmp_path_factory.mktemp("served")
    (folder / "gateway.db").write_bytes(gateways.seed().read_bytes())
    configuration = changed(
        gateways.configuration(folder),
        server={"trusted_proxies": ["127.0.0.0/8"], "body_timeout": "1s"},
        observability={"operations_allow": ["127.0.0.2/32"]},
    )
    served = ServedApplication(request.param, configuration, folder)
    served.start()
    yield served
    served.stop()


# ---- trailers


@pytest.mark.parametrize("trailer", ["X-Forwarded-For: 127.0.0.2", "X-FORWARDED-FOR:127.0.0.2"])
@pytest.mark.parametrize("others", ["", "X-Other: 1\r\n"])
def test_a_trailer_cannot_change_the_origin_of_a_request(server: ServedApplication, trailer: str, others: str) -> None:
    head = request("/_gateway/metrics", fields=[CHUNKED])
    first, last = b"3\r\nabc\r\n0\r\n" + others.encode() + trailer.encode() + b"\r\n", others.encode() + b"\r\n"
    with server.caller() as at_once, server.caller() as in_two:
        assert at_once.send(head + first + last).receive().status in (400, 403)
        # The first packet lacks the end of the message, so the server does not know that it is complete.
        assert in_two.send(head + first).send(last).receive().status in (400, 403)
    assert server.get("/_gateway/metrics", "X-Forwarded-For: 127.0.0.2").status == 200


def test_a_trailer_does_not_sign_in(server: ServedApplication, upstream: RecordingUpstream) -> None:
    user = signed_in(server, "user@example.com")
    for path in ("/api/x", "/auth/me"):
        data = request(path, fields=[CHUNKED]) + chunked(b"abc", trailers=[user.line])
        assert server.ask(data).status in (400, 401)
    assert upstream.requests == []


@pytest.mark.parametrize(
    "name, value",
    [("X-Checksum", "7"), ("X-Request-Id", "chosen"), ("Host", "evil.example"), ("Via", "1.1 x"), ("Upgrade", "h2c")],
)
def test_a_trailer_is_not_sent_on(
    server: ServedApplication, upstream: RecordingUpstream, name: str, value: str
) -> None:
    head = request("/public/x", method="POST", fields=[CHUNKED]) + b"3\r\nabc\r\n"
    end = f"0\r\n{name}: {value}\r\n\r\n".encode()
    with server.caller() as at_once, server.caller() as in_two:
        got = at_once.send(head + end).receive("POST")
        assert got.status == (200 if server.delivers_chunks else 400)
        in_two.send(head)
        if server.delivers_chunks:
            upstream.arrived(2)
        assert in_two.send(end).receive("POST").status == got.status
    assert not any(value.encode() in one.values(name) for one in upstream.requests)


@pytest.mark.parametrize("trailer", ["Content-Length: 3", "Transfer-Encoding: gzip", "Connection: close"])
def test_a_trailer_frames_nothing(server: ServedApplication, upstream: RecordingUpstream, trailer: str) -> None:
    data = request("/public/x", method="POST", fields=[CHUNKED]) + chunked(b"abc", trailers=[trailer])
    with server.caller() as caller:
        assert caller.send(data + SMUGGLED).receive("POST").status in (200, 400, 501)
    received = [bytes(one.body) for one in upstream.requests if one.target == b"/public/x" and one.whole]
    assert received in ([], [b"abc"])


def test_a_chunked_body_without_trailers_is_delivered(server: ServedApplication, upstream: RecordingUpstream) -> None:
    # A path of its own: a request that an earlier test broke off can reach the upstream during this one.
    head = request("/public/delivered", method="POST", fields=[CHUNKED])
    with server.caller() as caller:
        for data in (head + chunked(b"abc"), head + chunked(b"ab", b"c")):
            got = caller.send(data).receive("POST")
            if not server.delivers_chunks:
                assert got.refused() == (400, "bad_request")
                return
            assert got.status == 200
    delivered = [one for one in upstream.requests if one.target == b"/public/delivered"]
    assert [bytes(one.body) for one in delivered] == [b"abc", b"abc"]


# ---- upgrades

FRAMINGS = {
    "a length": (f"Content-Length: {len(SMUGGLED)}", SMUGGLED),
    "a chunk": (CHUNKED, chunked(SMUGGLED)),
}
# The WebSocket library of uvicorn never answers a handshake with a body; the corrected protocol does not ask it.
CORRECT = pytest.mark.parametrize("server", ["uvicorn with httptools", "hypercorn"], indirect=True)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("protocol", ["h2c", "TLS/1.0, foo/2"])
@pytest.mark.parametrize("path", ["/public/x", "/auth/logout", "/_gateway/health", "/nowhere"])
def test_the_body_of_a_request_for_an_upgrade_is_delivered_or_refused(
    server: ServedApplication, upstream: RecordingUpstream, path: str, protocol: str, framing: str
) -> None:
    line, body = FRAMINGS[framing]
    fields = [line, "Connection: Upgrade", f"Upgrade: {protocol}"]
    head = request(path, method="POST", fields=fields)
    for parts in ((head + body,), (head, body)):
        with server.caller() as caller:
            for part in parts:
                caller.send_until_refused([part])
            try:
                got = caller.receive("POST")
            except NoAnswer:  # uvicorn ends a connection on which such a body arrives before the response
                assert server.server.startswith("uvicorn")
                continue
            if got.status == 200 and path == "/public/x":
                assert bytes(upstream.arrived(1).body) == SMUGGLED
            if server.server == "uvicorn with httptools":
                assert (got.refused(), got.value("connection")) == ((400, "bad_request"), b"close")
            with contextlib.suppress(OSError, NoAnswer):  # the connection has ended
                assert caller.send(request("/last")).receive().refused() == (404, "no_route")
    assert not any(one.target == b"/public/smuggled" for one in upstream.requests)


def test_a_request_for_an_upgrade_without_a_body_is_served(
    server: ServedApplication, upstream: RecordingUpstream
) -> None:
    upgrade = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"]
    for fields in (upgrade, [*upgrade, "Content-Length: 0"]):
        assert server.get("/public/x", *fields).status in (200, 101)  # hypercorn handles the upgrade to HTTP/2


def test_a_body_that_does_not_come_behind_an_upgrade_is_not_waited_for_without_end(server: ServedApplication) -> None:
    fields = ["Content-Length: 5", "Connection: Upgrade", "Upgrade: h2c"]
    with server.caller() as caller, within(3):
        assert caller.send(request("/public/x", method="POST", fields=fields)).receive("POST").status in (400, 408)


@CORRECT
def test_a_websocket_handshake_with_a_body_is_refused(server: ServedApplication, upstream: RecordingUpstream) -> None:
    for framing, body in FRAMINGS.values():
        with server.caller(timeout=1) as caller:
            caller.send(handshake("/public-sockets/x", framing) + body)
            assert caller.receive().status == 400
            with contextlib.suppress(OSError, NoAnswer):  # the connection has ended, or is silent
                assert caller.send(request("/last")).receive().refused() == (404, "no_route")
    assert upstream.requests == []


@CORRECT
def test_a_websocket_handshake_by_post_loses_no_body(server: ServedApplication, upstream: RecordingUpstream) -> None:
    for framing, body in FRAMINGS.values():
        with server.caller() as caller:
            caller.send(handshake("/public/x", framing, method="POST") + body)
            assert caller.receive("POST").status in (200, 400)
    assert all(bytes(one.body) == SMUGGLED for one in upstream.requests if one.whole)


# ---- limits

TOO_LARGE = {
    "a trailer without end": b"0\r\nX-Large: " + b"x" * 60_000,
    "many trailers": b"0\r\n" + b"a:b\r\n" * 12_000,
    "an extension without end": b"3;a=" + b"x" * 60_000,
}


@pytest.mark.parametrize("server", ["uvicorn with httptools"], indirect=True)
@pytest.mark.parametrize("body", TOO_LARGE.values(), ids=TOO_LARGE)
def test_uvicorn_limits_trailers_and_extensions(
    server: ServedApplication, upstream: RecordingUpstream, body: bytes
) -> None:
    with server.caller() as caller:
        caller.send(request("/public/x", method="POST", fields=[CHUNKED]))
        upstream.arrived()
        caller.send_until_refused([body])
        assert caller.receive("POST").status == 431
        caller.ended()
    eventually(lambda: upstream.only.link.ended)
    assert not upstream.only.whole
