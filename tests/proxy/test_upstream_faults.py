"""Upstreams that fail, send invalid data or hang: a refusal before the head was sent, an abort after it."""

import time

import pytest

from tests.proxy.conformance.responses import BROKEN, INVALID, Broken, Invalid, named
from tests.support.faces import stock
from tests.support.processes import Gateway
from tests.support.raw import Answer, BadAnswer, Caller, MiB, NoAnswer
from tests.support.recording import Exchange, RecordingUpstream
from tests.support.scripts import answer, raw, response, silent
from tests.support.upstreams import Upstreams
from tests.support.waiting import eventually, promised, within
from tests.support.wording import chunked, request

pytestmark = pytest.mark.every_variant

UNREACHABLE = (502, "upstream_unreachable")
UPSTREAM_INVALID = (502, "upstream_invalid")
TIMEOUT = (504, "upstream_timeout")


# ---- no upstream


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_upstream_that_refuses_is_unreachable(gateway: Gateway, method: str) -> None:
    with within(promised(1.0)):
        assert gateway.ask(request("/refusing/x", method=method)).refused() == UNREACHABLE


def test_an_upstream_that_does_not_answer_the_dial_is_a_timeout(gateway: Gateway) -> None:
    with within(promised(1.5)):
        assert gateway.get("/full-backlog/x").refused() == TIMEOUT


def test_an_upstream_that_went_away_is_unreachable_and_served_again_when_it_is_back(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    assert gateway.get("/public/x").status == 200
    upstream.refuse()
    try:
        for _ in range(3):
            assert gateway.get("/public/x").refused() == UNREACHABLE
    finally:
        upstream.accept()
    for method in ("GET", "POST"):
        assert gateway.ask(request("/public/x", method=method)).status == 200


# ---- TLS


def test_an_upstream_behind_tls_is_served(gateway: Gateway, upstreams: Upstreams, upstream: RecordingUpstream) -> None:
    body = b"x" * 300_000
    upstreams.secure.on("/secure/x", answer(200, ["X-A: 1"], body))
    for _ in range(3):
        got = gateway.ask(request("/secure/x", method="POST", body=body))
        assert (got.status, got.body) == (200, body)
    assert bytes(upstreams.secure.requests[-1].body) == body
    assert upstreams.secure.requests[-1].values("x-forwarded-proto") == [b"http"]


@pytest.mark.parametrize("path", ["/untrusted/x", "/misnamed/x"])
def test_an_upstream_that_cannot_prove_its_name_gets_nothing(
    gateway: Gateway, upstreams: Upstreams, upstream: RecordingUpstream, path: str
) -> None:
    with within(3.0):
        assert gateway.get(path).refused() == UNREACHABLE
    assert upstreams.secure.requests == []


# ---- invalid responses


@pytest.mark.parametrize("case", INVALID, ids=named)
def test_an_invalid_response_is_a_clear_refusal(gateway: Gateway, upstream: RecordingUpstream, case: Invalid) -> None:
    """The connection is not reused."""
    upstream.on("/public/x", raw(case.sent))
    assert gateway.get("/public/x").refused() == UPSTREAM_INVALID
    link = upstream.only.link
    eventually(lambda: link.ended)
    assert link.requests == upstream.requests[0].link.requests
    assert gateway.get("/public/y").body == b"upstream"


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"]
)
@pytest.mark.parametrize("then", ["fin", "reset"])
def test_a_head_that_never_ends_is_a_refusal(
    gateway: Gateway, upstream: RecordingUpstream, sent: bytes, then: str
) -> None:
    upstream.on("/public/x", raw(sent, then=then))  # type: ignore[arg-type]
    refused = gateway.ask(request("/public/x", method="POST", body=b"x")).refused()
    assert refused == UNREACHABLE if not sent else refused in (UNREACHABLE, UPSTREAM_INVALID)
    assert len(upstream.requests) == 1


def test_a_head_over_the_limit_is_a_refusal(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for fields in (["X-Large: " + "x" * 5000], [f"X-{n}: {n}" for n in range(600)]):
        upstream.on("/short-heads/x", answer(200, fields, b"ok"))
        assert gateway.get("/short-heads/x").refused() == UPSTREAM_INVALID
    upstream.on("/short-heads/x", answer(200, ["X-Large: " + "x" * 3000], b"ok"))
    assert gateway.get("/short-heads/x").body == b"ok"
    upstream.on("/public/x", answer(200, ["X-Large: " + "x" * 70_000], b"ok"))
    assert gateway.get("/public/x").refused() == UPSTREAM_INVALID
    upstream.on("/public/x", answer(200, ["X-Large: " + "x" * 60_000], b"ok"))
    assert gateway.get("/public/x").body == b"ok"


def test_a_head_without_end_is_cut_off(gateway: Gateway, upstream: RecordingUpstream) -> None:
    sent = 0

    async def endless(exchange) -> None:  # type: ignore[no-untyped-def]
        nonlocal sent
        await exchange.send(b"HTTP/1.1 200 OK\r\nX-A: ")
        while True:
            await exchange.send(b"x" * 65536)
            sent += 65536

    upstream.on("/public/x", endless)
    assert gateway.get("/public/x").refused() == UPSTREAM_INVALID
    eventually(lambda: upstream.only.link.ended)
    assert sent < 16 * 1024 * 1024


CHUNKED = response(200, ["Transfer-Encoding: chunked"], None)
# The first bytes of a response, and the bytes that the upstream sends after them while it is read.
ENDLESS = {
    "a field": (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536),
    "fields": (b"HTTP/1.1 200 OK\r\n", b"a:b\r\n" * 12_000),
    "a status line": (b"HTTP/1.1 200 ", b"x" * 65536),
    "interim responses": (b"", b"HTTP/1.1 102 P\r\n\r\n" * 4000),
    "empty lines": (b"", b"\r\n" * 32_000),
    "trailers": (CHUNKED + b"2\r\nok\r\n0\r\n", b"a:b\r\n" * 12_000),
    "a trailer": (CHUNKED + b"2\r\nok\r\n0\r\nX: ", b"x" * 65536),
    "a chunk extension": (CHUNKED + b"2;a=", b"x" * 65536),
    "chunks with extensions": (CHUNKED, b"2;abc=def\r\nok\r\n" * 4000),
    "a chunk size": (CHUNKED, b"0" * 65536),
}


@pytest.mark.parametrize(("first", "on_and_on"), ENDLESS.values(), ids=ENDLESS)
def test_an_endless_part_of_a_response_is_cut_off_and_delays_no_other(
    gateway: Gateway, upstream: RecordingUpstream, first: bytes, on_and_on: bytes
) -> None:
    sent = 0

    async def endless(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(first)
        while sent < 64 * MiB:
            await exchange.send(on_and_on)
            sent += len(on_and_on)

    upstream.on("/public/endless", endless)
    waits: list[float] = []
    with gateway.caller() as other, gateway.caller() as one:
        assert other.send(request("/public/x")).receive().status == 200
        memory = gateway.memory()
        one.send(request("/public/endless"))
        link = upstream.arrived(2).link
        while not (link.ended and len(waits) > 5):
            asked = time.monotonic()
            assert other.send(request("/public/x")).receive().status == 200
            waits.append(time.monotonic() - asked)
            time.sleep(0.005)
        got, _ = cut_off_at(one)
        assert got is None or got.refused() == UPSTREAM_INVALID or not got.whole
    assert sent < 16 * MiB
    assert max(waits) < promised(0.25)
    assert gateway.memory() - memory < 8 * MiB


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("part", ["trailers", "extensions"])
def test_trailers_and_extensions_have_the_limit_of_a_head(
    gateway: Gateway, upstream: RecordingUpstream, part: str, fits: bool
) -> None:
    filler = b"x" * (4000 if fits else 4100)
    tail = b"2\r\nok\r\n0\r\nX: %b\r\n\r\n" if part == "trailers" else b"2;a=%b\r\nok\r\n0\r\n\r\n"
    upstream.on("/short-heads/x", raw(CHUNKED, tail % filler, pause=0.02))
    with gateway.caller() as caller:
        got, _ = cut_off_at(caller.send(request("/short-heads/x")))
    assert got is not None
    assert got.whole is fits
    assert gateway.get("/short-heads/y").body == b"upstream"


# ---- silence


@pytest.mark.parametrize("path", ["/impatient/x", "/hasty/x"])
def test_a_response_that_does_not_come_is_a_timeout(gateway: Gateway, upstream: RecordingUpstream, path: str) -> None:
    upstream.on(path, silent())
    started = time.monotonic()
    assert gateway.get(path).refused() == TIMEOUT
    assert 0.2 <= time.monotonic() - started <= promised(1.2)
    assert len(upstream.requests) == 1, "a response that did not come in time is never asked for again"
    eventually(lambda: upstream.only.link.ended)


def test_half_a_head_is_none(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/hasty/x", raw(b"HTTP/1.1 200 OK\r\nContent-", *[b"x"] * 100, pause=0.05))
    assert gateway.get("/hasty/x").refused() == TIMEOUT


def test_the_time_of_the_upload_is_not_the_upstreams(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """`response_timeout` starts when the request has been forwarded completely."""
    for path in ("/hasty/x", "/impatient/x"):
        with gateway.caller() as caller:
            caller.send(request(path, method="POST", fields=["Content-Length: 4"]))
            for byte in (b"a", b"b", b"c", b"d"):
                time.sleep(0.12)
                caller.send(byte)
            assert caller.receive("POST").status == 200


# ---- after the head was sent


def cut_off(gateway: Gateway, upstream: RecordingUpstream, data: bytes) -> tuple[Answer | None, str]:
    """The received part of the response, and the end of its connection."""
    with gateway.caller() as caller:
        caller.send(data)
        got, ending = cut_off_at(caller)
        return got, ending or caller.ended()[0]


def cut_off_at(caller: Caller) -> tuple[Answer | None, str | None]:
    """The received part of the response, and the end of its connection if that truncated it."""
    try:
        got = caller.receive()
    except NoAnswer as none:
        return None, none.ending
    except BadAnswer:
        return None, "reset"
    return got, got.ending


@pytest.mark.parametrize("case", BROKEN, ids=named)
def test_a_broken_response_is_never_a_truncated_success(
    gateway: Gateway, upstream: RecordingUpstream, case: Broken
) -> None:
    upstream.on("/public/x", raw(case.sent, then=case.then))
    with within(3.0):
        got, _ = cut_off(gateway, upstream, request("/public/x"))
    if got is not None:
        assert got.refused()[0] == 502 or not got.whole, got
    eventually(lambda: upstream.only.link.ended)
    assert gateway.get("/public/y").body == b"upstream"


@pytest.mark.parametrize("case", BROKEN, ids=named)
def test_a_broken_response_of_unknown_length_is_a_reset(
    gateway: Gateway, upstream: RecordingUpstream, case: Broken
) -> None:
    """HTTP/1.0: without a length a FIN is a clean end."""
    if stock(gateway.face, "aborting"):
        pytest.skip("a stock ASGI server ends by FIN whatever happened")
    upstream.on("/public/x", raw(case.sent, then=case.then))
    got, ending = cut_off(gateway, upstream, request("/public/x", version="1.0"))
    assert ending == "reset" or (got is not None and (got.status == 502 or (got.framing == "length" and not got.whole)))


def test_a_body_that_stops_is_given_up_on(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/impatient/x", raw(response(200, ["Content-Length: 100"], None) + b"half", b"x" * 96, pause=4.0))
    started = time.monotonic()
    got, _ = cut_off(gateway, upstream, request("/impatient/x"))
    assert got is not None
    assert (got.status, got.body, got.whole) == (200, b"half", False)
    assert 0.45 <= time.monotonic() - started <= 2.0


def test_a_slow_body_is_not(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """`idle_timeout` applies between bytes, not to the whole body."""
    upstream.on("/impatient/x", raw(response(200, ["Content-Length: 6"], None), *[b"x"] * 6, pause=0.15))
    assert gateway.get("/impatient/x").body == b"xxxxxx"


def test_an_event_stream_may_be_silent(gateway: Gateway, upstream: RecordingUpstream) -> None:
    head = response(200, ["Content-Type: text/event-stream; charset=utf-8", "Transfer-Encoding: chunked"], None)
    upstream.on("/impatient/x", raw(head, chunked(b"data: x\n\n"), pause=0.9))
    got = gateway.get("/impatient/x")
    assert (got.body, got.whole) == (b"data: x\n\n", True)


def test_an_early_end_of_the_upload_side_does_not_hang_the_caller(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    """The upstream resets while the body is still arriving, without a response: the client gets a refusal."""

    async def slam(exchange) -> None:  # type: ignore[no-untyped-def]
        exchange.reset()

    upstream.on("/public/x", slam)
    with gateway.caller() as caller, within(3.0):
        caller.send(request("/public/x", method="POST", fields=["Content-Length: 1000000"]) + b"x" * 1000)
        assert caller.receive("POST").refused() == UNREACHABLE
