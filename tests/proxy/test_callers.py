"""Client connections: keep-alive, pipelining, HTTP/1.0, Expect, and limits on heads, bodies and time."""

import contextlib
import itertools
import threading
import time

import pytest

from tests.support.engines import lacks
from tests.support.expectations import passes
from tests.support.faces import stock
from tests.support.gateways import Gateways
from tests.support.processes import Account, Gateway
from tests.support.raw import MiB, NoAnswer
from tests.support.recording import RecordingUpstream
from tests.support.scripts import HeldConnection, UploadCounter, answer, early, raw, response
from tests.support.waiting import eventually, within
from tests.support.wording import chunked, request

# ---- connections


def test_a_connection_serves_many_requests(gateway: Gateway, upstream: RecordingUpstream, user: Account) -> None:
    with gateway.caller() as caller:
        for number in range(20):
            path = ("/public/x", "/auth/me", "/nowhere", "/api/x", "/_gateway/health")[number % 5]
            caller.send(request(path, fields=[user.line]))
            assert caller.receive().status == (404 if path == "/nowhere" else 200)
        assert caller.is_open()


@pytest.mark.parametrize("path", ["/public/x", "/auth/me", "/nowhere", "/_gateway/health"])
def test_a_caller_that_asks_to_close_is_closed(gateway: Gateway, upstream: RecordingUpstream, path: str) -> None:
    with gateway.caller() as caller:
        got = caller.send(request(path, fields=["Connection: Close"])).receive()
        assert [value.lower() for value in got.values("connection")] == [b"close"]
        assert caller.ended() == ("fin", b"")


def test_an_upstream_that_closes_does_not_close_the_caller(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/public/x", raw(response(200, ["Connection: close"], b"ok"), then="fin"))
    with gateway.caller() as caller:
        for _ in range(3):
            assert caller.send(request("/public/x")).receive().body == b"ok"


def test_empty_lines_before_a_request_are_passed_over(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """RFC 9112 2.2: a server should ignore at least one."""
    passes(gateway, upstream, b"\r\n" + request("/public/x"))


def test_a_request_may_come_byte_by_byte(gateway: Gateway, upstream: RecordingUpstream) -> None:
    data = request("/public/x", method="POST", fields=["Transfer-Encoding: chunked"]) + chunked(b"ab", b"c")
    with gateway.caller() as caller:
        for index in range(len(data)):
            caller.send(data[index : index + 1])
        assert caller.receive("POST").status == 200
    assert bytes(upstream.only.body) == b"abc"


# ---- pipelining


def test_pipelined_requests_are_answered_in_order(gateway: Gateway, upstream: RecordingUpstream, user: Account) -> None:
    for number in range(12):
        upstream.on(f"/public/{number}", answer(200, [], b"%d" % number))
    targets = [f"/public/{n}" if n % 3 else "/nowhere" if n % 2 else "/auth/me" for n in range(12)]
    with gateway.caller() as caller:
        caller.send(b"".join(request(target, fields=[user.line]) for target in targets))
        for number, target in enumerate(targets):
            got = caller.receive()
            if target == f"/public/{number}":
                assert got.body == b"%d" % number
            else:
                assert got.status == (404 if target == "/nowhere" else 200)
        assert caller.is_open()


def test_a_slow_first_answer_keeps_its_place(gateway: Gateway, upstream: RecordingUpstream) -> None:
    held = HeldConnection(after=response(200, [], b"slow"))
    upstream.on("/public/slow", held)
    with gateway.caller() as caller:
        posted = request("/public/posted", method="POST", body=b"body of the second")
        caller.send(request("/public/slow") + posted + request("/nowhere") + request("/public/last"))
        held.reached()
        held.release()
        assert [caller.receive().body for _ in range(2)] == [b"slow", b"upstream"]
        assert [caller.receive().status for _ in range(2)] == [404, 200]
    received = next(one for one in upstream.requests if one.target == b"/public/posted")
    assert bytes(received.body) == b"body of the second"


def test_requests_that_the_parser_refuses_are_answered_in_order(gateway: Gateway, upstream: RecordingUpstream) -> None:
    held = HeldConnection(after=response(200, [], b"slow"))
    upstream.on("/public/slow", held)
    with gateway.caller() as caller:
        caller.send(request("/public/slow") + b"nonsense\r\n\r\n")
        if stock(gateway.face, "pipelined errors"):
            with contextlib.suppress(NoAnswer):
                assert caller.receive().status in (200, 400)
            held.release()
        else:
            held.reached()
            held.release()
            assert caller.receive().body == b"slow"
            assert caller.receive().refused() == (400, "bad_request")
            caller.ended()
    assert {one.target for one in upstream.requests} <= {b"/public/slow"}


def test_many_pipelined_requests_are_not_all_read_at_once(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """TCP stops a client that never reads, instead of memory of the gateway."""
    upstream.on("/public/big", answer(200, [], b"x" * 100_000))
    before = gateway.memory()
    with gateway.caller() as caller:
        caller.socket.settimeout(0.5)
        sent = 0
        try:
            while sent < 64 * MiB:
                caller.send(request("/public/big", fields=[f"X-Pad: {'x' * 2000}"]) * 16)
                sent += 16 * 2000
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        assert gateway.memory() - before < 40 * MiB
        assert sent < 64 * MiB


# ---- HTTP/1.0


def test_an_http_1_0_caller_is_served_and_closed(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for host in ("gateway.test", None):
        with gateway.caller() as caller:
            got = caller.send(request("/public/x", version="1.0", host=host)).receive()
            assert (got.status, got.body) == (200, b"upstream")
            assert caller.ended() == ("fin", b"")


def test_an_http_1_0_caller_without_host_sees_no_route_of_a_host(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for path in ("/inside/x", "/anything"):
        assert gateway.ask(request(path, version="1.0", host=None)).refused() == (404, "no_route")
    assert gateway.ask(request("/auth/me", version="1.0", host=None)).refused() == (401, "token_missing")
    assert upstream.requests == []


def test_an_http_1_0_caller_may_stay(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """If the response announces it; otherwise the connection ends."""
    with gateway.caller() as caller:
        got = caller.send(request("/public/x", version="1.0", fields=["Connection: keep-alive"])).receive()
        if [value.lower() for value in got.values("connection")] == [b"keep-alive"]:
            got = caller.send(request("/public/x", version="1.0")).receive()
            assert got.status == 200
        assert caller.ended() == ("fin", b"")


def test_an_http_1_0_caller_gets_no_chunks(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/public/x", raw(response(200, ["Transfer-Encoding: chunked"], None) + chunked(b"abc", b"def")))
    with gateway.caller() as caller:
        got = caller.send(request("/public/x", version="1.0")).receive()
        assert got.body == b"abcdef"
        if not stock(gateway.face, "HTTP/1.0 framing"):
            assert (got.framing, got.ending) == ("close", "fin")


# ---- Expect: 100-continue


@pytest.mark.parametrize("path", ["/public/x", "/api/x"])
def test_an_expected_continue_comes_once_the_request_is_admitted(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, path: str
) -> None:
    fields: list[str | bytes] = ["Expect: 100-continue", "Content-Length: 5", user.line]
    with gateway.caller() as caller:
        caller.send(request(path, method="POST", fields=fields))
        assert caller.receive_head().status == 100
        caller.send(b"hello")
        got = caller.receive("POST")
        assert (got.status, got.interim) == (200, ())
        assert caller.send(request(path, fields=[user.line])).receive().status == 200
    assert bytes(upstream.requests[0].body) == b"hello"


def test_a_client_that_expects_continue_can_send_without_it(gateway: Gateway, upstream: RecordingUpstream) -> None:
    received = passes(
        gateway, upstream, request("/public/x", method="POST", fields=["Expect: 100-continue"], body=b"hello")
    )
    assert bytes(received.body) == b"hello"


def test_an_own_endpoint_continues_too(gateway: Gateway) -> None:
    body = b'{"email": "nobody@example.com", "password": "wrong password"}'
    fields: list[str | bytes] = [
        "Expect: 100-continue",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    with gateway.caller() as caller:
        caller.send(request("/auth/login", method="POST", fields=fields))
        assert caller.receive_head().status == 100
        assert caller.send(body).receive("POST").refused() == (401, "invalid_credentials")


@pytest.mark.parametrize(
    ("sent", "rest", "closes"),
    [
        (["Transfer-Encoding: chunked"], b"5\r\nhe", True),
        (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n", False),
        (["Content-Length: 100000"], b"x", True),
        (["Content-Length: 2"], b"x", False),
    ],
)
def test_a_built_in_endpoint_that_answers_before_the_body_ends_announces_the_state_of_the_connection(
    gateways: Gateways, sent: list[str], rest: bytes, closes: bool
) -> None:
    """RFC 9112 9.6: a client without a close announcement sends its next request, and loses it."""
    gateway = gateways.gateway("standard", "serve")
    with gateway.caller() as caller:
        answer = caller.send(request("/_gateway/health", fields=sent) + rest).receive()
        assert (answer.status, answer.values("connection")) == (200, [b"close"] if closes else [])
        if closes:
            caller.ended()
        else:
            caller.send((b"x" if sent == ["Content-Length: 2"] else b"") + request("/_gateway/health"))
            assert caller.receive().status == 200


def test_an_http_1_0_caller_gets_no_continue(gateway: Gateway, upstream: RecordingUpstream) -> None:
    data = request("/public/x", method="POST", version="1.0", fields=["Expect: 100-continue"], body=b"hello")
    got = gateway.ask(data)
    assert got.status == 200
    if not stock(gateway.face, "HTTP/1.0 framing"):
        assert got.interim == ()


# ---- responses before the end of the body


@pytest.mark.parametrize("status", [200, 401, 413, 503])
@pytest.mark.parametrize("then", ["keep", "fin"])
def test_an_early_answer_reaches_the_caller_before_his_body_ends(
    gateway: Gateway, upstream: RecordingUpstream, status: int, then: str
) -> None:
    upstream.on("/public/x", early(response(status, ["X-A: 1"], b"early"), then=then))  # type: ignore[arg-type]
    with gateway.caller() as caller:
        caller.send(request("/public/x", method="POST", fields=["Content-Length: 1000000"]) + b"x" * 1000)
        if late := lacks(gateway.engine, "early responses") and then == "keep":
            assert caller.is_open(), "there is no answer while the body is still coming, and no other end either"
            caller.send(b"x" * 999_000)
        got = caller.receive("POST")
        assert (got.status, got.body, got.whole) == (status, b"early", True)
    eventually(lambda: upstream.requests[0].link.ended)
    assert upstream.requests[0].whole == late


def test_an_early_answer_and_a_caller_that_goes_on_sending(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """The rest of the body is never read as a request."""
    upstream.on("/public/x", early(response(403, [], b"early"), then="fin"))
    inside = request("/public/inside") * 200
    with gateway.caller() as caller:
        caller.send(request("/public/x", method="POST", fields=[f"Content-Length: {len(inside)}"]) + inside[:100])
        assert caller.receive("POST").status == 403
        caller.send_until_refused([inside[100:]])
        try:
            caller.send(request("/public/next"))
            assert caller.receive().body == b"upstream"
        except (OSError, NoAnswer):
            pass
    assert {one.target for one in upstream.requests} <= {b"/public/x", b"/public/next"}


def test_an_answer_may_stream_while_the_body_streams(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """Both directions at once, as in gRPC-like and upload-progress APIs."""

    async def echo(exchange) -> None:  # type: ignore[no-untyped-def]
        await exchange.send(response(200, ["Transfer-Encoding: chunked"], None))
        received: list[bytes] = []
        await exchange.body(received.append)
        await exchange.send(chunked(b"".join(received)))

    upstream.on("/public/x", echo)
    with gateway.caller() as caller:
        caller.send(request("/public/x", method="POST", fields=["Content-Length: 6"]) + b"abc")
        if lacks(gateway.engine, "early responses"):
            assert caller.is_open()
            caller.send(b"def")
            head = caller.receive_head()
        else:
            head = caller.receive_head()
            caller.send(b"def")
        assert head.status == 200
        pieces: list[bytes] = []
        assert caller.receive_body(head, pieces.append)[1]
    assert b"".join(pieces) == b"abcdef"


# ---- limits


def test_a_body_over_the_limit_is_refused_before_it_comes(gateway: Gateway, upstream: RecordingUpstream) -> None:
    assert gateway.ask(request("/small/x", method="POST", body=b"x" * 1024)).status == 200
    upstream.requests.clear()
    with gateway.caller() as caller:
        caller.send(request("/small/x", method="POST", fields=["Content-Length: 1025"]))
        assert caller.receive("POST").refused() == (413, "body_too_large")
    assert upstream.requests == []


def test_a_chunked_body_is_cut_where_it_passes_the_limit(gateway: Gateway, upstream: RecordingUpstream) -> None:
    head = request("/small/x", method="POST", fields=["Transfer-Encoding: chunked"])
    assert gateway.ask(head + chunked(b"x" * 512, b"y" * 512)).status == 200
    upstream.requests.clear()
    with gateway.caller() as caller:
        caller.send(head + b"200\r\n" + b"x" * 512 + b"\r\n")
        upstream.arrived()
        caller.send(b"201\r\n" + b"y" * 513 + b"\r\n")
        assert caller.receive("POST").refused() == (413, "body_too_large")
        caller.ended()
    eventually(lambda: upstream.only.link.ended)
    assert not upstream.only.whole


def test_a_request_behind_a_chunked_body_over_the_limit_is_answered(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    """All three requests arrive in one packet, so the gateway refuses the second while it continues reading after the
    first."""
    over = request("/small/x", method="POST", fields=["Transfer-Encoding: chunked"]) + chunked(b"x" * 1025)
    with gateway.caller() as caller:
        caller.send(request("/public/x") + over + request("/public/y"))
        assert caller.receive().status == 200
        refused = caller.receive()
        assert refused.refused() == (413, "body_too_large")
        if not refused.values("connection"):
            assert caller.receive().status == 200


def test_the_servers_own_limit_holds_for_own_endpoints_and_proxied_ones(gateway: Gateway) -> None:
    for path in ("/public/x", "/auth/login"):
        with gateway.caller() as caller:
            caller.send(
                request(path, method="POST", fields=["Content-Length: 104857601", "Content-Type: application/json"])
            )
            assert caller.receive("POST").refused() == (413, "body_too_large")


LARGE_HEADS = {
    "one large field": request("/public/x", fields=["X-Large: " + "x" * 17_000]),
    "many small fields": request("/public/x", fields=[f"X-{n}: {n}" for n in range(2500)]),
    "a large target": request("/public/" + "x" * 17_000),
    "a large query": request("/public/x?" + "x" * 17_000),
    "a large field name": request("/public/x", fields=["X" * 17_000 + ": 1"]),
}


@pytest.mark.parametrize("data", LARGE_HEADS.values(), ids=LARGE_HEADS)
def test_a_head_over_the_limit_is_refused(gateway: Gateway, upstream: RecordingUpstream, data: bytes) -> None:
    upstream.requests.clear()
    with gateway.caller() as caller:
        got = caller.send(data).receive()
        if stock(gateway.face, "head limits"):
            assert got.status in (200, 400, 431)
        else:
            assert got.refused() == (431, "headers_too_large")
            caller.ended()
            assert upstream.requests == []


def test_a_head_under_the_limit_is_served(gateway: Gateway, upstream: RecordingUpstream) -> None:
    received = passes(gateway, upstream, request("/public/x", fields=["X-Large: " + "x" * 15_000]))
    assert len(received.values("x-large")[0]) == 15_000


def test_a_head_that_never_ends_is_cut_off(gateway: Gateway) -> None:
    if stock(gateway.face, "head limits"):
        pytest.skip("uvicorn takes heads of any size")
    before = gateway.memory()
    with gateway.caller() as caller, within(6.0):
        caller.send(b"GET /public/x HTTP/1.1\r\nX-A: ")
        caller.send_until_refused(itertools.repeat(b"x" * 65536))
    assert gateway.memory() - before < 8 * MiB


def test_a_head_that_comes_too_slowly_is_given_up_on(hurried: Gateway, upstream: RecordingUpstream) -> None:
    if stock(hurried.face, "head limits"):
        pytest.skip("uvicorn waits without a limit")
    for beginning in (b"GET /public/x HTTP/1.1\r\nHost: a\r\n", b"G", b"GET /public/x HTTP/1.1\r\nHost: a\r\nX-A: b"):
        with hurried.caller() as caller, within(2.0):
            assert caller.send(beginning).receive().refused() == (408, "request_timeout")
            caller.ended()
    assert upstream.requests == []


def test_slowloris_a_byte_now_and_then_does_not_help(hurried: Gateway) -> None:
    if stock(hurried.face, "head limits"):
        pytest.skip("uvicorn waits without a limit")
    with hurried.caller() as caller, within(2.5):
        stop = threading.Event()

        def drip() -> None:
            try:
                while not stop.wait(0.05):
                    caller.send(b"X-A: b\r\n")
            except OSError:
                pass

        caller.send(b"GET /public/x HTTP/1.1\r\nHost: a\r\n")
        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert caller.receive().refused() == (408, "request_timeout")
        finally:
            stop.set()
            dripping.join()


def test_a_silent_connection_ends_without_a_word(hurried: Gateway) -> None:
    if stock(hurried.face, "head limits"):
        pytest.skip("uvicorn waits without a limit")
    with hurried.caller() as caller:
        ending, sent = caller.ended(within=3)
        assert ending == "fin"
        assert sent == b"" or b" 408 " in sent


def test_an_idle_connection_ends_after_keep_alive(hurried: Gateway, upstream: RecordingUpstream) -> None:
    if stock(hurried.face, "head limits"):
        pytest.skip("uvicorn has its own limit")
    with hurried.caller() as caller:
        assert caller.send(request("/public/x")).receive().status == 200
        assert caller.is_open(after=0.3)
        with within(2.0):
            assert caller.ended() == ("fin", b"")


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_a_pause_inside_a_body_is_limited(hurried: Gateway, upstream: RecordingUpstream, framing: str) -> None:
    data = request("/public/x", method="POST", fields=[framing]) + b"5\r\nhello\r\n"
    with hurried.caller() as caller, within(2.5):
        assert caller.send(data).receive("POST").refused() == (408, "request_timeout")
        caller.ended()
    eventually(lambda: all(one.link.ended for one in upstream.requests))
    assert not any(one.whole for one in upstream.requests)


def test_a_long_body_without_long_pauses_is_not(hurried: Gateway, upstream: RecordingUpstream) -> None:
    with hurried.caller() as caller:
        caller.send(request("/public/x", method="POST", fields=["Content-Length: 10"]))
        for _ in range(10):
            time.sleep(0.1)  # 1 s in all, over twice the limit on a pause
            caller.send(b"x")
        assert caller.receive("POST").status == 200


def test_the_time_an_upstream_takes_is_not_the_callers(hurried: Gateway, upstream: RecordingUpstream) -> None:
    """No limit on the client applies while the gateway waits for the response, or while the upstream reads slowly."""
    held = HeldConnection(after=response(200, [], b"late"))
    upstream.on("/public/x", held)
    slow = UploadCounter()
    upstream.on("/public/upload", slow)
    with hurried.caller(timeout=10) as waiting, hurried.caller(timeout=10) as sending:
        waiting.send(request("/public/x", method="POST", body=b"body"))
        sending.send(request("/public/upload", method="POST", fields=[f"Content-Length: {30 * MiB}"]))
        pushing = threading.Thread(target=lambda: sending.send_until_refused([b"x" * MiB] * 30))
        pushing.start()
        held.reached()
        with pytest.raises(TimeoutError):
            waiting.ended(within=1.0)
        waiting.socket.settimeout(10)
        held.release()
        slow.open()
        assert waiting.receive("POST").body == b"late"
        pushing.join(10)
        assert sending.receive("POST").body == b"%d" % (30 * MiB)
