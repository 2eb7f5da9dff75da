"""The request line: exactly one form is accepted, and the bytes around it are not part of it."""

import contextlib

import pytest

from tests.support.expectations import passes, refuses_unparsed
from tests.support.faces import stock
from tests.support.processes import Gateway
from tests.support.raw import NoAnswer
from tests.support.recording import RecordingUpstream
from tests.support.wording import request

REST = b"\r\nHost: gateway.test\r\n\r\n"

# Stock ASGI servers read some of them as a GET of /public/x, which is safe: the gateway decides on that request.
MALFORMED = {
    "two spaces before the target": b"GET  /public/x HTTP/1.1",
    "two spaces before the version": b"GET /public/x  HTTP/1.1",
    "many spaces": b"GET     /public/x     HTTP/1.1",
    "a tab before the target": b"GET\t/public/x HTTP/1.1",
    "a tab before the version": b"GET /public/x\tHTTP/1.1",
    "a tab and a space": b"GET \t/public/x HTTP/1.1",
    "a space at the start": b" GET /public/x HTTP/1.1",
    "a space at the end": b"GET /public/x HTTP/1.1 ",
    "a tab at the end": b"GET /public/x HTTP/1.1\t",
    "a CR at the end": b"GET /public/x HTTP/1.1\r",
    "a lone LF before it": b"\nGET /public/x HTTP/1.1",
    "two LF before it": b"\n\nGET /public/x HTTP/1.1",
    "a lone CR before it": b"\rGET /public/x HTTP/1.1",
    "an empty line and a lone LF before it": b"\r\n\nGET /public/x HTTP/1.1",
    "LF CR before it": b"\n\rGET /public/x HTTP/1.1",
    "a NUL before it": b"\0GET /public/x HTTP/1.1",
    "a vertical tab in it": b"GET\x0b/public/x HTTP/1.1",
    "a form feed in it": b"GET /public/x\x0cHTTP/1.1",
    "a NUL in it": b"GET /public/x\0 HTTP/1.1",
    "a space in the target": b"GET /public/x y HTTP/1.1",
    "a bare CR in the target": b"GET /public/x\ry HTTP/1.1",
    "no version": b"GET /public/x",
    "a version in lower case": b"GET /public/x http/1.1",
    "a version of two digits": b"GET /public/x HTTP/1.10",
    "another version": b"GET /public/x HTTP/1.2",
    "two versions": b"GET /public/x HTTP/1.1 HTTP/1.1",
    "another protocol": b"GET /public/x RTSP/1.0",
}


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED)
def test_any_other_form_of_a_request_line_is_refused(
    gateway: Gateway, upstream: RecordingUpstream, line: bytes
) -> None:
    if stock(gateway.face, "request lines"):
        with contextlib.suppress(NoAnswer):
            assert gateway.ask(line + REST, method="GET").status in (200, 400)
    else:
        refuses_unparsed(gateway, upstream, line + REST)


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED)
def test_it_is_refused_byte_by_byte_and_behind_another_request(
    gateway: Gateway, upstream: RecordingUpstream, line: bytes
) -> None:
    if stock(gateway.face, "request lines"):
        return
    with gateway.caller() as caller:
        caller.send(request("/public/first"))
        assert caller.receive().status == 200
        caller.send_until_refused([bytes((byte,)) for byte in line + REST])
        assert caller.receive().refused() == (400, "bad_request")
        caller.ended()
    assert [one.target for one in upstream.requests] == [b"/public/first"]


@pytest.mark.parametrize("empty", [b"\r\n", b"\r\n\r\n", b"\r\n" * 20])
def test_empty_lines_before_a_request_line_are_passed_over_however_they_are_cut(
    gateway: Gateway, upstream: RecordingUpstream, empty: bytes
) -> None:
    passes(gateway, upstream, empty + request("/public/x"))
    with gateway.caller() as caller:
        for byte in empty:
            caller.send(bytes((byte,)))
        assert caller.send(request("/public/x")).receive().status == 200
        # Some clients send one after the body of a POST.
        caller.send(request("/public/x", method="POST", body=b"abc") + b"\r")
        assert caller.receive("POST").status == 200
        assert caller.send(b"\n" + request("/public/x")).receive().status == 200


# ---- Connection in HTTP/1.0


@pytest.mark.parametrize(
    "fields",
    [
        ["Connection: close, keep-alive"],
        ["Connection: keep-alive, close"],
        ["Connection: keep-alive,close"],
        ["Connection: Close", "Connection: Keep-Alive"],
        ["Connection: Keep-Alive", "Connection: x, CLOSE"],
        ["Connection: keep-alive, ,close "],
        ["Proxy-Connection: keep-alive"],
        ["Connection: close", "Proxy-Connection: keep-alive"],
        ["Connection: x-keep-alive"],
        ["Keep-Alive: timeout=5"],
        [],
    ],
    ids=", ".join,
)
@pytest.mark.parametrize("path", ["/public/x", "/nowhere", "/_gateway/health"])
def test_an_http_1_0_connection_ends_unless_keep_alive_stands_alone(
    gateway: Gateway, upstream: RecordingUpstream, fields: list[str], path: str
) -> None:
    with gateway.caller() as caller:
        got = caller.send(request(path, version="1.0", fields=fields)).receive()
        assert [value.lower() for value in got.values("connection")] in ([b"close"], [])
        assert caller.ended() == ("fin", b"")


@pytest.mark.parametrize("value", ["keep-alive", "Keep-Alive", "x, keep-alive", "\tkeep-alive "])
def test_an_http_1_0_connection_stays_where_the_client_asks_for_it(
    gateway: Gateway, upstream: RecordingUpstream, value: str
) -> None:
    with gateway.caller() as caller:
        got = caller.send(request("/public/x", version="1.0", fields=[f"Connection: {value}"])).receive()
        if stock(gateway.face, "HTTP/1.0 framing"):
            return
        assert got.values("connection") == [b"keep-alive"]
        assert caller.send(request("/public/x", version="1.0")).receive().status == 200


@pytest.mark.parametrize("fields", [["Connection: close, keep-alive"], ["Connection: keep-alive", "Connection: close"]])
def test_close_wins_in_http_1_1_too(gateway: Gateway, upstream: RecordingUpstream, fields: list[str]) -> None:
    with gateway.caller() as caller:
        got = caller.send(request("/public/x", fields=fields)).receive()
        assert [value.lower() for value in got.values("connection")] == [b"close"]
        assert caller.ended() == ("fin", b"")
