"""Connections to upstreams: reused and retried if safe, bounded, and released with the client."""

import signal
import time

import pytest

from tests.support.engines import lacks
from tests.support.processes import Gateway
from tests.support.recording import Exchange, RecordingUpstream, Script
from tests.support.scripts import HeldConnection, UploadCounter, answer, in_turn, raw, response, silent
from tests.support.small import metric
from tests.support.waiting import eventually, promised, within
from tests.support.wording import chunked, request

pytestmark = pytest.mark.every_variant


def hang_up(then: str) -> Script:
    """Accept the request and end the connection without a byte."""
    return raw(then=then)  # type: ignore[arg-type]


# ---- reuse


def test_connections_are_reused(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """The client sends all requests at once: after a pause, a POST does not take a connection a second time."""
    links = len(upstream.links)
    kinds = [(("GET", None), ("POST", b"x" * number), ("HEAD", None))[number % 3] for number in range(30)]
    with gateway.caller() as caller:
        caller.send(b"".join(request("/tight/x", method=method, body=body) for method, body in kinds))
        for method, _ in kinds:
            assert caller.receive(method).status == 200
    if lacks(gateway.engine, "reuse"):
        assert len(upstream.links) - links == 30
        eventually(lambda: all(link.ended for link in upstream.links[links:]))
    else:
        assert len(upstream.links) - links <= 1 + 10, "only the ten HEADs may cost a connection each"


def test_a_connection_the_upstream_closed_is_not_used_again(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """Its FIN arrived before the next request, so even a POST is safe."""
    upstream.on("/tight/x", raw(response(200, [], b"ok"), then="fin"))
    for _ in range(5):
        assert gateway.ask(request("/tight/x", method="POST", body=b"body")).body == b"ok"
        time.sleep(0.02)
    assert len({one.link for one in upstream.requests}) == 5


@pytest.mark.parametrize("closing", ["Connection: close", "Connection: X-A, Close", "connection: foo, CLOSE"])
def test_a_connection_that_is_about_to_close_is_not_used_again(
    gateway: Gateway, upstream: RecordingUpstream, closing: str
) -> None:
    upstream.on("/tight/x", raw(response(200, [closing], b"ok")))
    for _ in range(3):
        assert gateway.ask(request("/tight/x", method="POST", body=b"body")).body == b"ok"
    assert len({one.link for one in upstream.requests}) == 3


def test_no_caller_is_tied_to_a_connection(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for _ in range(3):
        assert gateway.get("/tight/x").status == 200
    assert len({one.link for one in upstream.requests}) == (3 if lacks(gateway.engine, "reuse") else 1)


# ---- stale connections
#
# After each, the gateway uses an idle connection to this target for a shorter time, down to 50 ms. So these tests use
# another upstream than the others, and the client sends both requests at once.


@pytest.mark.parametrize("then", ["fin", "reset"])
@pytest.mark.parametrize(
    ("method", "body"), [("GET", None), ("HEAD", None), ("DELETE", None), ("OPTIONS", None), ("PUT", b"")]
)
def test_a_stale_connection_costs_an_idempotent_request_nothing(
    gateway: Gateway, upstream: RecordingUpstream, method: str, body: bytes | None, then: str
) -> None:
    upstream.on("/single/x", in_turn(answer(200, [], b"first"), hang_up(then), answer(200, [], b"third")))
    with gateway.caller() as caller:
        caller.send(request("/single/x") + request("/single/x", method=method, body=body))
        assert caller.receive().body == b"first"
        got = caller.receive(method)
    assert got.status == 200
    assert got.body == (b"" if method == "HEAD" else b"third")
    first, second, third = upstream.requests
    assert (first.link is second.link) != lacks(gateway.engine, "stale connections")
    assert second.link is not third.link
    assert second.head == third.head


@pytest.mark.parametrize("then", ["fin", "reset"])
@pytest.mark.parametrize(("method", "body"), [("POST", None), ("POST", b"body"), ("PATCH", b"body"), ("PUT", b"body")])
def test_a_request_that_may_have_been_done_is_not_done_twice(
    gateway: Gateway, upstream: RecordingUpstream, method: str, body: bytes | None, then: str
) -> None:
    """Its method is not idempotent, or part of its body was forwarded."""
    upstream.on("/single/x", in_turn(answer(), hang_up(then), answer()))
    with gateway.caller() as caller:
        caller.send(request("/single/x") + request("/single/x", method=method, body=body))
        assert caller.receive().status == 200
        assert caller.receive(method).refused() == (502, "upstream_unreachable")
    assert len(upstream.requests) == 2


def test_once_a_byte_of_the_response_has_come_nothing_is_retried(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/single/x", in_turn(answer(), raw(b"HTTP/1.1 2", then="fin"), answer()))
    with gateway.caller() as caller:
        caller.send(2 * request("/single/x"))
        assert [caller.receive().status for _ in range(2)] == [200, 502]
    assert len(upstream.requests) == 2


def test_a_stale_connection_is_retried_once(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/single/x", in_turn(answer(), hang_up("fin")))
    with gateway.caller() as caller:
        caller.send(2 * request("/single/x"))
        assert caller.receive().status == 200
        with within(promised(2.0)):
            assert caller.receive().refused() == (502, "upstream_unreachable")
    assert 2 <= len(upstream.requests) <= 3


# ---- the connection limit


def test_a_full_pool_makes_requests_wait(gateway: Gateway, upstream: RecordingUpstream) -> None:
    held = HeldConnection(after=response(200, [], b"first"))
    upstream.on("/single/held", held)
    with gateway.caller() as first, gateway.caller() as second:
        first.send(request("/single/held"))
        held.reached()
        second.send(request("/single/x"))
        with pytest.raises(TimeoutError):
            second.ended(within=0.1)
        second.socket.settimeout(5)
        assert len(upstream.requests) == 1
        held.release()
        assert first.receive().body == b"first"
        assert second.receive().body == b"upstream"
    assert (upstream.requests[0].link is upstream.requests[1].link) != lacks(gateway.engine, "reuse")


def test_a_pool_that_stays_full_is_an_overload(gateway: Gateway, upstream: RecordingUpstream) -> None:
    held = HeldConnection(after=response(200, [], b"first"))
    upstream.on("/tight/held", held)
    with gateway.caller() as first:
        first.send(request("/tight/held"))
        held.reached()
        started = time.monotonic()
        assert gateway.get("/tight/x").refused() == (503, "overloaded")
        assert 0.3 <= time.monotonic() - started <= promised(1.5)
        held.release()
        assert first.receive().body == b"first"
    assert gateway.get("/tight/x").status == 200
    assert len(upstream.requests) == 2


def waits_in_the_pool(gateway: Gateway, count: int) -> None:
    """Wait until this many requests wait for a connection."""
    eventually(lambda: metric(gateway, "gateway_upstream_waiting", upstream="single") == count)


def test_waiting_requests_are_served_in_order_and_cancelled_ones_are_not(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    held = HeldConnection(after=response(200, [], b"first"))
    upstream.on("/single/held", held)
    with gateway.caller() as first, gateway.caller() as second, gateway.caller() as third, gateway.caller() as fourth:
        first.send(request("/single/held"))
        held.reached()
        for number, caller in ((2, second), (3, third), (4, fourth)):
            caller.send(request(f"/single/{number}"))
            waits_in_the_pool(gateway, number - 1)
        third.reset()
        waits_in_the_pool(gateway, 2)
        held.release()
        assert second.receive().status == 200
        assert fourth.receive().status == 200
    assert [one.target for one in upstream.requests] == [b"/single/held", b"/single/2", b"/single/4"]


def test_the_pool_is_whole_again_after_every_kind_of_end(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """A leaked connection slot would starve this upstream after its first broken response."""
    endings = [
        raw(response(200, ["Content-Length: 10"], None) + b"half", then="fin"),
        raw(b"garbage\r\n\r\n"),
        hang_up("reset"),
        raw(response(204, [], None)),
        raw(response(200, ["Connection: close"], b"ok"), then="fin"),
        raw(response(200, [], b"ok") + b"stray"),
    ]
    for script in endings:
        upstream.on("/tight/x", script)
        with gateway.caller() as caller:
            caller.send(request("/tight/x"))
            caller.receive()
        assert gateway.get("/tight/fine").status == 200
    upstream.on("/tight/x", silent())
    with gateway.caller() as caller:
        caller.send(request("/tight/x"))
        eventually(lambda: upstream.requests[-1].target == b"/tight/x")
    assert gateway.get("/tight/fine").status == 200


# ---- clients that disconnect


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("where", ["before the head", "amid a length", "amid chunks", "amid the upload"])
def test_a_disconnected_client_cancels_the_upstream_request(
    gateway: Gateway, upstream: RecordingUpstream, where: str, how: str
) -> None:
    data = request("/public/x")
    if where == "before the head":
        upstream.on("/public/x", silent())
    elif where == "amid the upload":
        upstream.on("/public/x", UploadCounter(is_open=True))
        data = request("/public/x", method="POST", fields=["Content-Length: 100000"]) + b"x" * 500
    else:
        framing = "Content-Length: 1000" if where == "amid a length" else "Transfer-Encoding: chunked"
        upstream.on("/public/x", HeldConnection(before=response(200, [framing], None) + b"5\r\nhello\r\n"))
    with gateway.caller() as caller:
        caller.send(data)
        received = upstream.arrived()
        if where in ("amid a length", "amid chunks"):
            assert caller.receive_head().status == 200
        getattr(caller, how)()
        left = time.monotonic()
        eventually(lambda: received.link.ended, timeout=3)
        assert time.monotonic() - left < promised(1.0)
    assert received.link.ended in ("fin", "reset")
    assert received.whole == (where != "amid the upload")


def test_a_disconnected_client_affects_no_other(gateway: Gateway, upstream: RecordingUpstream) -> None:
    held = HeldConnection(after=response(200, [], b"still here"))
    upstream.on("/public/held", held)
    with gateway.caller() as staying, gateway.caller() as leaving:
        staying.send(request("/public/held"))
        leaving.send(request("/public/held"))
        held.reached(2)
        leaving.reset()
        eventually(lambda: any(one.link.ended for one in upstream.requests))
        held.release()
        assert staying.receive().body == b"still here"


# ---- response smuggling

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Evil: 1\r\n\r\nEVIL"
POISONED = {
    "after a length": ("GET", response(200, [], b"good") + EVIL),
    "after chunks": ("GET", response(200, ["Transfer-Encoding: chunked"], None) + chunked(b"good") + EVIL),
    "after HEAD": ("HEAD", response(200, ["Content-Length: 4"], None) + EVIL),
    "as the body of HEAD": ("HEAD", response(200, [], b"EVIL")),
    "after HEAD with chunks": ("HEAD", response(200, ["Transfer-Encoding: chunked"], None) + chunked(EVIL)),
    "after 204": ("GET", response(204, [], None) + EVIL),
    "a length with 204": ("GET", response(204, ["Content-Length: 4"], None) + EVIL),
    "after 304": ("GET", response(304, ["Content-Length: 4"], None) + EVIL),
    "half of one": ("GET", response(200, [], b"good") + b"H"),
    "a line end": ("GET", response(200, [], b"good") + b"\r\n"),
    "in 103": ("GET", b"HTTP/1.1 103 Hints\r\nContent-Length: 90\r\n\r\n" + response(200, [], b"good") + EVIL),
}  # fmt: skip


@pytest.mark.parametrize(("method", "sent"), POISONED.values(), ids=POISONED)
def test_surplus_bytes_of_an_upstream_answer_no_request(
    gateway: Gateway, upstream: RecordingUpstream, method: str, sent: bytes
) -> None:
    upstream.on("/tight/x", raw(sent))
    with gateway.caller() as caller:
        got = caller.send(request("/tight/x", method=method)).receive(method)
        assert b"EVIL" not in got.body
        assert not got.head.has("x-evil")
        assert got.body == (b"good" if got.status == 200 and method == "GET" else got.body)
        for _ in range(3):
            got = caller.send(request("/tight/next")).receive()
            assert (got.status, got.body) == (200, b"upstream")
    if sent.endswith((EVIL, b"H")):
        assert upstream.requests[0].link is not upstream.requests[1].link


def test_unrequested_bytes_of_an_upstream_answer_no_request(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """It arrives while the connection is idle; the next request must use another one."""

    async def later(exchange: Exchange) -> None:
        import asyncio

        await exchange.body()
        await exchange.send(response(200, [], b"good"))
        await asyncio.sleep(0.03)
        await exchange.send(EVIL)

    upstream.on("/tight/x", later)
    assert gateway.get("/tight/x").body == b"good"
    eventually(lambda: upstream.requests[0].link.ended)
    assert gateway.get("/tight/next").body == b"upstream"
    assert upstream.requests[0].link is not upstream.requests[1].link


ANNOUNCED = f"Content-Length: {len(EVIL)}"
# The method of a request, the head of its response, and the content that follows a moment later.
LATE = {
    "204 with a length": ("GET", response(204, [ANNOUNCED], None), EVIL),
    "204 in chunks": ("GET", response(204, ["Transfer-Encoding: chunked"], None), chunked(EVIL)),
    "304 with a length": ("GET", response(304, [ANNOUNCED], None), EVIL),
    "304 in chunks": ("GET", response(304, ["Transfer-Encoding: chunked"], None), chunked(EVIL)),
    "205 with a length": ("GET", response(205, [ANNOUNCED], None), EVIL),
    "205 in chunks": ("GET", response(205, ["Transfer-Encoding: chunked"], None), chunked(EVIL)),
    "205 without framing": ("GET", response(205, [], None), EVIL),
    "HEAD with a length": ("HEAD", response(200, [ANNOUNCED], None), EVIL),
    "HEAD in chunks": ("HEAD", response(200, ["Transfer-Encoding: chunked"], None), chunked(EVIL)),
    "HEAD and 404": ("HEAD", response(404, [ANNOUNCED], None), EVIL),
}  # fmt: skip


@pytest.mark.parametrize(("method", "first", "later"), LATE.values(), ids=LATE)
def test_content_of_a_response_without_content_answers_no_request_even_when_late(
    gateway: Gateway, upstream: RecordingUpstream, method: str, first: bytes, later: bytes
) -> None:
    """The next request arrives before the content, so only the announcement can warn."""
    upstream.on("/tight/x", raw(first, later, pause=0.03))
    with gateway.caller() as one, gateway.caller() as other:
        got = one.send(request("/tight/x", method=method)).receive(method)
        assert got.body == b""
        for _ in range(3):
            assert other.send(request("/tight/next")).receive().body == b"upstream"
        assert one.is_open()
    assert upstream.requests[0].link is not upstream.requests[1].link


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("stray", [b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"\n" + EVIL, b"\x00"])
def test_a_body_ends_at_its_length(gateway: Gateway, upstream: RecordingUpstream, stray: bytes, late: bool) -> None:
    """The same head repeatedly, each time with too many bytes after its body."""
    sent = [response(200, ["X-A: 1"], b"hello"), stray]
    upstream.on("/tight/x", raw(*sent, pause=0.02) if late else raw(b"".join(sent)))
    with gateway.caller() as one, gateway.caller() as other:
        for caller in (one, other, other, one):
            got = caller.send(request("/tight/x")).receive()
            assert (got.body, got.head.has("x-evil")) == (b"hello", False)
            if late:
                eventually(lambda: upstream.requests[-1].link.ended)
    assert len({received.link for received in upstream.requests}) == 4


@pytest.mark.parametrize("status", [204, 304])
def test_a_bare_response_keeps_its_connection_until_a_byte_follows(
    gateway: Gateway, upstream: RecordingUpstream, status: int
) -> None:
    upstream.on("/tight/x", raw(response(status, [], None)))

    def is_reused() -> bool:
        assert gateway.get("/tight/x").status == status
        return len({received.link for received in upstream.requests[-2:]}) < len(upstream.requests[-2:])

    if lacks(gateway.engine, "reuse"):
        assert [is_reused() for _ in range(3)] == [False] * 3
    else:
        # Other tests close idle connections of this target, so its limit can be 50 ms, which a busy machine exceeds.
        eventually(is_reused)
    upstream.on("/tight/x", raw(response(status, [], None), b"h", pause=0.02))
    assert gateway.get("/tight/x").status == status
    eventually(lambda: upstream.requests[-1].link.ended)
    assert gateway.get("/tight/next").body == b"upstream"


def test_unread_bytes_of_a_reused_connection_answer_no_request(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """They arrive with the next request while the gateway is suspended, so it reads both at once."""
    if lacks(gateway.engine, "reuse"):
        pytest.skip("no connection is taken a second time")
    for _ in range(8):
        held = HeldConnection(before=response(200, [], b"good"), after=EVIL)
        upstream.forget()
        upstream.on("/tight/x", held)
        with gateway.caller() as one, gateway.caller() as other:
            assert other.send(request("/public/warm")).receive().status == 200
            assert one.send(request("/tight/x")).receive().body == b"good"
            gateway.signal(signal.SIGSTOP)
            try:
                other.send(request("/tight/next"))
                held.release()
                eventually(lambda held: held.done, held)
            finally:
                gateway.signal(signal.SIGCONT)
            assert other.receive().body == b"upstream"


def test_callers_at_once_get_each_their_own(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """Responses in another order than the requests are not mixed up."""
    count = 24
    holds = [HeldConnection(after=response(200, [], b"%d" % number)) for number in range(count)]
    for number, held in enumerate(holds):
        upstream.on(f"/public/{number}", held)
    callers = [gateway.caller() for _ in range(count)]
    try:
        for number, caller in enumerate(callers):
            caller.send(request(f"/public/{number}"))
        for held in holds:
            held.reached()
        for held in reversed(holds):
            held.release()
        assert [caller.receive().body for caller in callers] == [b"%d" % number for number in range(count)]
    finally:
        for caller in callers:
            caller.close()
