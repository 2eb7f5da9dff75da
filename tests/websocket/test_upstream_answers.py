"""Responses of an upstream to a handshake, and their effects."""

import asyncio

import pytest

from tests.support.faces import stock
from tests.support.processes import Account, Gateway
from tests.support.raw import MiB
from tests.support.recording import Exchange, RecordingUpstream, Script
from tests.support.scripts import HeldConnection, raw, response, silent
from tests.support.upstreams import Upstreams
from tests.support.waiting import eventually, within
from tests.support.websockets import (
    BINARY,
    FarEnd,
    Frame,
    Socket,
    bearing,
    close,
    echoing,
    encode,
    handshake,
    switching,
    text,
)
from tests.support.wording import request

PATH = "/public-sockets/x"


def answering(*fields: str, accept: bytes | None = None, without: bytes = b"", behind: bytes = b"") -> Script:
    """A 101 with an error, followed by bytes."""

    async def script(exchange: Exchange) -> None:
        head = switching(exchange.request, *fields, accept=accept)
        kept = [line for line in head.split(b"\r\n") if not (without and line.lower().startswith(without))]
        await exchange.send(b"\r\n".join(kept) + behind)
        await exchange.left()

    return script


# ---- responses other than 101


@pytest.mark.parametrize(
    ("status", "fields", "body"),
    [
        (403, ["Content-Type: application/json", "X-Why: rights"], b'{"no": "entry"}'),
        (401, ['WWW-Authenticate: Basic realm="x"'], b""),
        (404, [], b"nothing"),
        (426, ["Sec-WebSocket-Version: 13, 8", "Upgrade: websocket"], b""),
        (200, ["Content-Type: text/html"], b"<html>no sockets here</html>"),
        (500, [], b"x" * 100_000),
        (503, ["Retry-After: 3"], b"later"),
    ],
)
def test_an_upstream_that_refuses_the_websocket_answers_itself(
    gateway: Gateway, upstream: RecordingUpstream, status: int, fields: list[str], body: bytes
) -> None:
    upstream.on(PATH, raw(response(status, fields, body)))
    answer = gateway.ask(handshake(PATH))
    assert (answer.status, answer.body) == (status, body)
    for name, value in (field.split(": ", 1) for field in fields):
        if name != "Upgrade":
            assert answer.values(name) == [value.encode()]
    assert answer.values("upgrade") == []


def test_a_refusal_in_chunks_comes_whole(gateway: Gateway, upstream: RecordingUpstream) -> None:
    chunks = response(403, ["Transfer-Encoding: chunked"], None) + b"3\r\nabc\r\n"
    upstream.on(PATH, raw(chunks, b"3\r\ndef\r\n0\r\n\r\n", pause=0.05))
    answer = gateway.ask(handshake(PATH))
    assert (answer.status, answer.body, answer.whole) == (403, b"abcdef", True)


def test_the_connection_goes_on_after_a_refusal(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on(PATH, raw(response(403, [], b"no")))
    with gateway.caller() as caller:
        assert caller.send(handshake(PATH)).receive().body == b"no"
        if stock(gateway.face, "handshakes"):
            caller.ended()
        else:
            assert caller.send(request("/public/x")).receive().status == 200
    first = upstream.requests[0].link
    assert gateway.get("/public/x").status == 200
    assert upstream.requests[-1].link is first, "a refused handshake is an ordinary exchange: its connection is reused"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(
    gateway: Gateway, upstream: RecordingUpstream, upstreams: Upstreams, status: int
) -> None:
    """It could name any host that the gateway can reach and the client cannot."""
    public = {"/elsewhere": "/elsewhere", upstreams.web.url + "/elsewhere": "http://gateway.test/elsewhere"}
    for location, shown in public.items():
        upstream.requests.clear()
        upstream.on(PATH, raw(response(status, [f"Location: {location}"], b"")))
        answer = gateway.ask(handshake(PATH))
        assert (answer.status, answer.value("location")) == (status, shown.encode())
        assert [received.target for received in upstream.requests] == [PATH.encode()]


def test_a_refusal_that_breaks_off_is_none(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on(PATH, raw(response(403, ["Content-Length: 100"], None) + b"half", then="fin"))
    with gateway.caller() as caller:
        answer = caller.send(handshake(PATH)).receive()
        if gateway.face == "serve":
            assert (answer.status, answer.whole) == (403, False)
        else:  # the response is collected before it is sent
            assert answer.refused() == (502, "upstream_invalid")


def test_a_refusal_without_end_is_not_collected_without_end(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """ASGI servers buffer the whole response. `gateway serve` streams it."""
    before = gateway.memory()
    upstream.on(PATH, raw(response(200, [], b"x" * 8 * MiB)))
    answer = gateway.ask(handshake(PATH), timeout=15)
    if gateway.face == "serve":
        assert (answer.status, len(answer.body)) == (200, 8 * MiB)
    else:
        assert answer.refused() == (502, "upstream_invalid")
        assert gateway.memory() - before < 8 * MiB


def test_an_event_stream_answers_no_handshake(gateway: Gateway, upstream: RecordingUpstream) -> None:
    held = HeldConnection(before=response(200, ["Content-Type: text/event-stream"], None) + b"data: 1\n\n")
    upstream.on(PATH, held)
    with gateway.caller() as caller:
        head = caller.send(handshake(PATH)).receive_head()
    assert head.status == (200 if gateway.face == "serve" else 502)
    eventually(lambda: upstream.only.link.ended)


# ---- an invalid 101


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(answering(accept=b"AAAAAAAAAAAAAAAAAAAAAAAAAAA="), id="the answer to another key"),
        pytest.param(answering(accept=b"S3PPLMBITXAQ9KYGZZHZRBK+XOO="), id="in another case"),
        pytest.param(answering(without=b"sec-websocket-accept"), id="no accept"),
        pytest.param(answering("Sec-WebSocket-Accept: AAAA"), id="two accepts"),
        pytest.param(answering(without=b"upgrade:"), id="no Upgrade"),
        pytest.param(answering(without=b"connection:"), id="no Connection"),
        pytest.param(answering(without=b"upgrade:", behind=encode(text("hello"))), id="no Upgrade, and frames behind"),
        pytest.param(answering("Transfer-Encoding: gzip"), id="a coding"),
        pytest.param(raw(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), id="nothing but the status"),
        pytest.param(raw(b"nonsense\r\n\r\n"), id="nonsense"),
        pytest.param(raw(b"\x81\x05hello"), id="frames without a handshake"),
    ],
)
def test_an_invalid_switch_is_502(gateway: Gateway, upstream: RecordingUpstream, script: Script) -> None:
    """RFC 6455 4.1: a client must fail the connection, and the gateway is the upstream's client."""
    upstream.on(PATH, script)
    answer = gateway.ask(handshake(PATH))
    assert answer.refused() == (502, "upstream_invalid")
    eventually(lambda: upstream.only.link.ended)


@pytest.mark.parametrize("target", ["/public/x", "/uploads/x"])
@pytest.mark.parametrize(
    "fields",
    [
        ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="],
        ["Upgrade: h2c", "Connection: Upgrade"],
        [],
    ],
)
def test_an_unrequested_switch_is_502(
    gateway: Gateway, upstream: RecordingUpstream, target: str, fields: list[str]
) -> None:
    """RFC 9110 7.8. The client would read frames as responses, and the pool would read them as the next response."""
    head = "\r\n".join(["HTTP/1.1 101 Switching Protocols", *fields]).encode() + b"\r\n\r\n"
    upstream.on(target, raw(head + response(200, [], b"smuggled")))
    with gateway.caller() as caller:
        assert caller.send(request(target)).receive().refused() == (502, "upstream_invalid")
    upstream.on(target, raw(response(200, [], b"honest")))
    assert gateway.get(target).body == b"honest"


OFFERED = {
    "no protocol offered": ([], "Sec-WebSocket-Protocol: chat"),
    "another protocol": (["Sec-WebSocket-Protocol: chat"], "Sec-WebSocket-Protocol: admin"),
    "the protocol in another case": (["Sec-WebSocket-Protocol: chat"], "Sec-WebSocket-Protocol: Chat"),
    "two protocols": (["Sec-WebSocket-Protocol: chat, log"], "Sec-WebSocket-Protocol: chat, log"),
    "two protocols on two lines": (
        ["Sec-WebSocket-Protocol: chat, log"],
        "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: log",
    ),
    "one protocol twice": (
        ["Sec-WebSocket-Protocol: chat"],
        "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat",
    ),
    "an empty protocol": (["Sec-WebSocket-Protocol: chat"], "Sec-WebSocket-Protocol:"),
    "no extension offered": ([], "Sec-WebSocket-Extensions: permessage-deflate"),
    "no extension offered, a parameter": ([], "Sec-WebSocket-Extensions: permessage-deflate; a=b"),
    "another extension": (["Sec-WebSocket-Extensions: x-webkit"], "Sec-WebSocket-Extensions: permessage-deflate"),
    "another extension behind one that was offered": (
        ["Sec-WebSocket-Extensions: permessage-deflate"],
        "Sec-WebSocket-Extensions: permessage-deflate, x-webkit",
    ),
    "an extension twice": (
        ["Sec-WebSocket-Extensions: permessage-deflate"],
        "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Extensions: permessage-deflate",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("offered", "chosen"), OFFERED.values(), ids=OFFERED)
def test_a_choice_that_was_not_offered_is_502(
    gateway: Gateway, upstream: RecordingUpstream, offered: list[str], chosen: str
) -> None:
    """RFC 6455 4.1: the client must fail the connection. Over ASGI no extension is offered to the upstream."""
    upstream.on(PATH, answering(*chosen.split("\r\n")))
    assert gateway.ask(handshake(PATH, *offered)).refused() == (502, "upstream_invalid")
    eventually(lambda: upstream.only.link.ended)


def test_the_word_for_the_token_is_no_offer_to_the_upstream(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    upstream.on("/sockets/x", answering("Sec-WebSocket-Protocol: bearer"))
    assert gateway.ask(handshake("/sockets/x", bearing(user.token))).refused() == (502, "upstream_invalid")
    upstream.on("/sockets/x", answering("Sec-WebSocket-Protocol: chat"))
    answer = gateway.ask(handshake("/sockets/x", bearing(user.token, "chat")))
    assert (answer.status, answer.values("sec-websocket-protocol")) == (101, [b"chat"])


@pytest.mark.parametrize(
    "chosen", ["Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10", "X-A: 1"]
)
def test_an_extension_that_was_offered_is_passed_on(gateway: Gateway, upstream: RecordingUpstream, chosen: str) -> None:
    if stock(gateway.face, "handshakes"):
        pytest.skip("the server negotiates extensions itself")
    upstream.on(PATH, answering(chosen))
    answer = gateway.ask(handshake(PATH, "Sec-WebSocket-Extensions: x-one, permessage-deflate; client_max_window_bits"))
    name, _, value = chosen.partition(": ")
    assert (answer.status, answer.values(name)) == (101, [value.encode()])


def test_an_upstream_that_closes_or_resets_is_502(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for then in ("fin", "reset"):
        upstream.on(PATH, raw(b"", then=then))
        assert gateway.ask(handshake(PATH)).refused() == (502, "upstream_unreachable")


def test_an_upstream_that_does_not_answer_is_504(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/sockets-in-haste/x", silent())
    with within(2.0):
        assert gateway.ask(handshake("/sockets-in-haste/x")).refused() == (504, "upstream_timeout")


def test_the_response_time_limit_ends_with_the_handshake(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """An idle limit does not apply either: a WebSocket can be silent for hours."""
    far = FarEnd()
    upstream.on("/sockets-in-haste/x", far)
    with Socket(gateway, "/sockets-in-haste/x") as socket:
        assert socket.is_open(after=1.2)
        far.say(text("still here"))
        assert socket.frame().payload == b"still here"


def test_interim_responses_may_come_before_the_switch(gateway: Gateway, upstream: RecordingUpstream) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.sleep(0.05)
        await echoing()(exchange)

    upstream.on(PATH, script)
    with Socket(gateway, PATH) as socket:
        interim = [] if stock(gateway.face, "interim responses") else [102]
        assert [head.status for head in socket.answer.interim] == interim
        assert socket.say(text("x")).frame().payload == b"x"


def test_an_upstream_over_tls_is_spoken_to_over_tls(
    gateway: Gateway, upstream: RecordingUpstream, upstreams: Upstreams
) -> None:
    upstreams.secure.on("/sockets-over-tls/x", echoing())
    with Socket(gateway, "/sockets-over-tls/x") as socket:
        for message in (b"", b"short", b"x" * 300_000):
            assert socket.say(Frame(BINARY, message)).message() == message
        assert socket.say(close(3000, "bye")).closed() == (3000, "bye")
        assert socket.ended() == ("fin", b"")


# ---- early bytes


def test_frames_right_behind_the_switch_arrive(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on(PATH, answering(behind=encode(text("first"), Frame(BINARY, b"x" * 70_000), text("last"))))
    with Socket(gateway, PATH) as socket:
        assert [socket.message() for _ in range(3)] == [b"first", b"x" * 70_000, b"last"]


def test_frames_right_behind_the_handshake_arrive(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """RFC 6455 4.1 asks a client to wait for the response; bytes of a client that does not wait are not lost."""
    if stock(gateway.face, "handshakes"):
        pytest.skip("uvicorn loses bytes behind a handshake")
    upstream.on(PATH, echoing())
    with gateway.caller() as caller:
        early = encode(Frame(BINARY, b"early"), Frame(BINARY, b"y" * 50_000), masked=True)
        caller.send(handshake(PATH) + early)
        assert caller.receive().status == 101
        expected = encode(Frame(BINARY, b"early"), Frame(BINARY, b"y" * 50_000))
        assert caller.read(len(expected)) == expected


def test_a_client_that_disconnects_during_the_handshake_cancels_it(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    held = HeldConnection()
    upstream.on(PATH, held)
    with gateway.caller() as caller:
        caller.send(handshake(PATH))
        held.reached()
    assert eventually(lambda: upstream.only.link.ended, timeout=2.0) in ("fin", "reset")


def test_a_client_that_disconnects_right_after_the_switch_is_not_awaited(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    for _ in range(5):
        upstream.requests.clear()
        upstream.on(PATH, FarEnd())
        with gateway.caller() as caller:
            caller.send(handshake(PATH))
            link = upstream.arrived().link
        assert eventually(lambda link: link.ended, link, timeout=3.0)
