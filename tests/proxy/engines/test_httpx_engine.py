"""The httpx engine from the upstream's view, and its cleanup after a request."""

import asyncio
import gc
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.interfaces import Exchange
from gateway.settings.model import EjectSettings
from gateway.wire.websocket import handshake_of
from tests.proxy.upstreams.harness import Harness, Outcome, ended, running, settings
from tests.support import recording
from tests.support.fleet import OK, Fleet, Served, hang, reset
from tests.support.processes import Engine
from tests.support.recording import RecordingUpstream
from tests.support.scale import scaled
from tests.support.scripts import HeldConnection, UploadCounter, answer, raw, response, silent
from tests.support.upstreams import FullBacklog, Refusing
from tests.support.waiting import until
from tests.support.websockets import KEY, echoing

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def lasting_upstream() -> Iterator[RecordingUpstream]:
    started = RecordingUpstream()
    yield started
    started.stop()


@pytest.fixture
def upstream(lasting_upstream: RecordingUpstream) -> RecordingUpstream:
    lasting_upstream.forget()
    return lasting_upstream


@asynccontextmanager
async def by_httpx(*targets: str, **values: Any) -> AsyncIterator[Harness]:
    async with running(settings(*targets, engine="httpx", **values)) as harness:
        yield harness


def send(harness: Harness, fields: bytes, *, start: bytes = b"GET /x HTTP/1.1\r\n", length: int | None = 0) -> Outcome:
    outcome = Outcome()
    request = UpstreamRequest(start.split(b" ")[0], start, fields, length=length)
    harness.engine.open(request, outcome, asyncio.get_running_loop().time())
    return outcome


# ---- the request


FIELDS = (
    b"X-B: 2\r\nx-a: 1\r\nX-B: 1\r\nX-Empty: \r\nCookie: a=b\r\nX-Latin: \xe9\xff\r\nX-Colons: a: b: c\r\n"
    b"Accept-Encoding: br\r\ncontent-type: text/x\r\nContent-Length: 4\r\nVia: 1.1 gateway\r\n"
)


async def heads(engine: Engine, upstream: RecordingUpstream, fields: bytes, **values: Any) -> bytes:
    upstream.forget()
    async with running(settings(upstream.url, engine=engine)) as harness:
        outcome = Outcome()
        request = UpstreamRequest(b"PUT", b"PUT /a%20b?c=%2f&d HTTP/1.1\r\n", fields, length=4)
        request.preserved_host = values.get("host")
        exchange = harness.engine.open(request, outcome, asyncio.get_running_loop().time())
        exchange.write(b"body")
        exchange.end_body()
        assert (await ended(outcome)).status == 200
    assert bytes(upstream.only.body) == b"body"
    return upstream.only.head


@pytest.mark.parametrize("host", [None, b"some.name:81"])
async def test_a_request_equals_that_of_the_native_engine_to_the_byte(
    upstream: RecordingUpstream, host: bytes | None
) -> None:
    native = await heads("native", upstream, FIELDS, host=host)
    assert await heads("httpx", upstream, FIELDS, host=host) == native
    assert native.startswith(b"PUT /a%20b?c=%2f&d HTTP/1.1\r\nHost: ")


async def test_trailers_are_not_promised(upstream: RecordingUpstream) -> None:
    """RFC 9110 10.1.4: `TE: trailers` promises not to discard them."""
    promise = b"TE: trailers\r\nConnection: TE\r\n"
    assert await heads("httpx", upstream, FIELDS + promise) == await heads("native", upstream, FIELDS)


async def test_a_field_that_h11_does_not_send_is_no_fault_of_the_target(upstream: RecordingUpstream) -> None:
    async with by_httpx(upstream.url, eject=EjectSettings(failures=1, for_=60.0)) as harness:
        for _ in range(3):
            assert (await ended(send(harness, b"X-A: a\x0bb\r\n"))).code == "upstream_invalid"
        assert (await harness.ask()).status == 200
    assert [one.values("x-a") for one in upstream.requests] == [[]]


# ---- no client state


async def test_a_cookie_is_not_kept(upstream: RecordingUpstream) -> None:
    upstream.on("/x", answer(200, ["Set-Cookie: a=b; Path=/"], b"ok"))
    async with by_httpx(upstream.url) as harness:
        for _ in range(3):
            assert (await harness.ask()).content == b"ok"
    assert [one.values("cookie") for one in upstream.requests] == [[], [], []]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(upstream: RecordingUpstream, status: int) -> None:
    upstream.on("/x", answer(status, [f"Location: {upstream.url}/elsewhere"], b"over there"))
    async with by_httpx(upstream.url) as harness:
        outcome = await harness.ask()
    assert (outcome.status, outcome.content) == (status, b"over there")
    assert [one.target for one in upstream.requests] == [b"/x"]


async def test_proxies_of_the_environment_are_not_used(
    upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    async with by_httpx(upstream.url) as harness:
        assert (await harness.ask()).status == 200


async def test_a_challenge_is_not_answered_from_netrc(
    upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login root password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    upstream.on("/x", answer(401, ["WWW-Authenticate: Basic realm=x"]))
    async with by_httpx(upstream.url) as harness:
        assert (await harness.ask()).status == 401
    assert upstream.only.values("authorization") == []


async def test_a_coded_body_is_not_decoded(upstream: RecordingUpstream) -> None:
    upstream.on("/x", answer(200, ["Content-Encoding: gzip"], b"not gzip at all"))
    async with by_httpx(upstream.url) as harness:
        assert (await harness.ask()).content == b"not gzip at all"


# ---- bodies


async def test_a_body_waits_for_the_upstream_to_take_it(upstream: RecordingUpstream) -> None:
    upload_counter = UploadCounter()
    upstream.on("/x", upload_counter)
    async with by_httpx(upstream.url) as harness:
        outcome, exchange = harness.begin("POST", length=None)
        piece, sent = b"x" * MIB, 0
        while not outcome.upload_paused:
            exchange.write(piece)
            sent += len(piece)
            await asyncio.sleep(0.02)
            assert sent < 128 * MIB
        upload_counter.open()
        await until(lambda: not outcome.upload_paused)
        exchange.write(piece)
        exchange.end_body()
        await ended(outcome)
    assert upload_counter.taken == sent + len(piece)


async def test_an_upstream_that_takes_nothing_for_too_long_is_given_up_on(upstream: RecordingUpstream) -> None:
    upstream.on("/x", UploadCounter())
    async with by_httpx(upstream.url, idle_timeout=0.3) as harness:
        outcome, exchange = harness.begin("POST", length=64 * MIB)
        exchange.write(b"x" * 64 * MIB)
        assert (await ended(outcome)).code == "upstream_timeout"


async def test_a_body_over_the_limit_is_cut_off(upstream: RecordingUpstream) -> None:
    async with by_httpx(upstream.url) as harness:
        outcome = Outcome()
        request = UpstreamRequest(b"POST", b"POST /x HTTP/1.1\r\n", b"Transfer-Encoding: chunked\r\n", length=None)
        request.limit = 10
        exchange = harness.engine.open(request, outcome, asyncio.get_running_loop().time())
        exchange.write(b"x" * 10)
        await until(lambda: upstream.requests)
        exchange.write(b"y")
        assert (await ended(outcome)).code == "body_too_large"
        await until(lambda: upstream.only.link.ended)
    assert not upstream.only.whole


async def test_bytes_behind_a_response_answer_no_request(upstream: RecordingUpstream) -> None:
    """The upstream has answered and closed; the client has not noticed yet."""

    async def early(exchange: recording.Exchange) -> None:
        await exchange.send(response(200, [], b"early"))
        exchange.hang_up()

    upstream.on("/x", early)
    async with by_httpx(upstream.url) as harness:
        outcome, exchange = harness.begin("POST", length=MIB)
        exchange.write(b"x")
        assert (await ended(outcome)).content == b"early"
        exchange.write(b"y" * MIB)
        exchange.end_body()
        exchange.cancel()
        await asyncio.sleep(0.05)
    assert not upstream.only.whole


async def test_an_upload_that_is_refused_by_closing_does_not_hang(upstream: RecordingUpstream) -> None:
    """The client has sent the whole body, and the upstream stops reading it."""

    async def refusing_it(exchange: recording.Exchange) -> None:
        await exchange.send(response(413, [], b"too much"))
        exchange.writer.write_eof()
        await exchange.left()

    upstream.on("/x", refusing_it)
    async with by_httpx(upstream.url) as harness:
        outcome = await harness.ask("POST", body=b"x" * 64 * MIB)
        assert (outcome.status, outcome.content, outcome.aborted) == (413, b"too much", None)


async def test_others_have_their_turn_while_a_body_of_tiny_chunks_is_read(fleet: Fleet) -> None:
    body = b"1\r\nx\r\n" * 100_000
    fleet.behave(lambda served: served.send(response(200, ["Transfer-Encoding: chunked"], None) + body + b"0\r\n\r\n"))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with by_httpx(fleet["a"].url) as harness:
        beside = asyncio.get_running_loop().create_task(others())
        outcome = await harness.ask()
        beside.cancel()
    assert len(outcome.content) == 100_000
    assert len(outcome.pieces) < 100, "the chunks of one read are handed on as one"
    assert turns >= len(body) // 32768


async def test_a_slow_caller_holds_up_the_upstream(upstream: RecordingUpstream) -> None:
    held = HeldConnection(before=response(200, ["Content-Length: 10"], None) + b"first", after=b"later")
    upstream.on("/x", held)
    async with by_httpx(upstream.url, idle_timeout=0.3) as harness:
        outcome, exchange = harness.begin()
        exchange.pause()
        await asyncio.sleep(0.7)
        assert outcome.status == 0, "it was paused before it was connected"
        exchange.resume()
        await until(lambda: outcome.content == b"first")
        exchange.pause()
        held.release()
        await asyncio.sleep(0.7)
        assert outcome.content == b"first"
        exchange.resume()
        assert (await ended(outcome)).content == b"firstlater"


# ---- failures and retries


async def test_a_body_that_has_not_left_may_go_to_another_target(fleet: Fleet, refusing: Refusing) -> None:
    async with by_httpx(refusing.url, fleet["a"].url, eject=None) as harness:
        outcomes = [await harness.ask("PUT", body=b"body") for _ in range(4)]
    assert [one.status for one in outcomes] == [200] * 4


async def test_a_dial_that_is_not_answered_is_a_timeout(full_backlog: FullBacklog) -> None:
    async with by_httpx(full_backlog.url, connect_timeout=0.2) as harness:
        assert (await harness.ask()).code == "upstream_timeout"


async def test_an_upload_without_a_connection_is_not_ended_for_other_clients(full_backlog: FullBacklog) -> None:
    """The target is slow to accept it, and its client is not to blame."""
    async with by_httpx(full_backlog.url, connect_timeout=0.8, max_connections=2, retries=0) as harness:
        uploads = [harness.begin("POST", length=9, client="192.0.2.1")[0] for _ in range(2)]
        harness.begin(client="192.0.2.2")
        assert [(await ended(outcome)).code for outcome in uploads] == ["upstream_timeout"] * 2


async def test_a_name_that_is_none_is_unreachable() -> None:
    async with by_httpx(f"http://{'x' * 64}.test") as harness:
        assert (await harness.ask()).code == "upstream_unreachable"


async def test_an_unexpected_error_is_reported_and_answered(upstream: RecordingUpstream) -> None:
    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    async with by_httpx(upstream.url, eject=EjectSettings(failures=1, for_=60.0)) as harness:
        assert (await ended(send(harness, b"", start=b"nonsense"))).code == "internal_error"
        assert (await harness.ask()).status == 200
    assert [type(one["exception"]) for one in reported] == [ValueError]


async def test_a_handshake_knows_which_targets_are_out(fleet: Fleet, upstream: RecordingUpstream) -> None:
    upstream.on("/socket", echoing())
    fleet["a"].behaviour = reset
    eject = EjectSettings(failures=1, for_=60.0)
    async with by_httpx(fleet["a"].url, upstream.url, eject=eject, retries=0) as harness:
        assert Counter([(await harness.ask()).code for _ in range(4)])["upstream_unreachable"] == 1
        assert [await shaken(harness) for _ in range(4)] == [True] * 4
        assert harness.engine.open_connections == 0
    assert fleet["a"].requests == 1


async def shaken(harness: Harness) -> bool:
    """Whether a handshake gets its 101."""

    class Upgrading(Outcome):
        def upgraded(self, fields: Any, upstream: asyncio.Transport, early: bytes) -> None:
            upstream.abort()
            self.status = 101
            self.end()

    outcome = Upgrading()
    fields = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n"
    request = UpstreamRequest(b"GET", b"GET /socket HTTP/1.1\r\n", fields % KEY.encode(), length=0)
    request.handshake = handshake_of(KEY.encode(), [])
    harness.engine.open(request, outcome, asyncio.get_running_loop().time())
    return (await ended(outcome)).status == 101


async def test_a_closed_engine_lets_everything_end(upstream: RecordingUpstream) -> None:
    """After a reload: running, waiting and later requests."""
    held = HeldConnection(after=response(200, [], b"running"))
    upstream.on("/x", held)
    upstream.on("/socket", echoing())
    async with by_httpx(upstream.url, max_connections=1) as harness:
        assert await shaken(harness)
        first, _ = harness.begin()
        await asyncio.to_thread(held.reached)
        second, _ = harness.begin()
        harness.engine.close()
        third, _ = harness.begin()
        held.release()
        for outcome in (first, second, third):
            assert (await ended(outcome)).content == b"running"


# ---- cleanup


@pytest.mark.parametrize("moment", ["at once", "connecting", "amid the upload", "before the head", "amid the body"])
async def test_a_disconnected_client_leaves_nothing_behind(
    upstream: RecordingUpstream, full_backlog: FullBacklog, moment: str
) -> None:
    upstream.on("/x", silent())
    if moment == "amid the body":
        upstream.on("/x", HeldConnection(before=response(200, ["Content-Length: 9"], None) + b"half"))
    upload = moment == "amid the upload"
    async with by_httpx(full_backlog.url if moment == "connecting" else upstream.url) as harness:
        outcome, exchange = harness.begin("POST" if upload else "GET", length=9 if upload else 0)
        if upload:
            exchange.write(b"half")
        await reached(moment, outcome, exchange, upstream)
        assert exchange.waiting == (moment in ("at once", "connecting"))
        exchange.cancel()
        exchange.cancel()
        await until(lambda: harness.engine.open_connections == 0)
        await asyncio.sleep(0.05)
        assert not outcome.done.done(), "nothing more is said to who has left"
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert all(one.link.ended for one in upstream.requests)


async def reached(moment: str, outcome: Outcome, exchange: Exchange, upstream: RecordingUpstream) -> None:
    if moment == "connecting":
        await asyncio.sleep(0.05)
    elif moment == "amid the body":
        await until(lambda: outcome.content)
    elif moment != "at once":
        await until(lambda: upstream.requests)


async def test_a_client_can_disconnect_while_it_is_answered(upstream: RecordingUpstream) -> None:
    """A client can disconnect at every notification, and gets none afterwards."""

    class Leaving(Outcome):
        def __init__(self, at: str) -> None:
            super().__init__()
            self.at = at
            self.calls: list[str] = []
            self.exchange: Exchange | None = None

        def tell(self, what: str) -> None:
            self.calls.append(what)
            if what == self.at and self.exchange is not None:
                self.exchange.cancel()

        def interim(self, *_: Any) -> None:
            self.tell("interim")

        def head(self, *_: Any) -> None:
            self.tell("head")

        def on_event_stream(self) -> None:
            self.tell("lasts")

        def body(self, data: bytes) -> None:
            self.tell("body")

        def flush(self) -> None:
            if self.calls[-1:] != ["flush"]:
                self.tell("flush")

        def end(self, trailers: Any = ()) -> None:
            self.tell("end")

        def abort(self, reason: str) -> None:
            self.tell("abort")

    stream = response(200, ["Content-Type: text/event-stream", "Content-Length: 9"], b"half", reason="OK")
    stream = stream.replace(b"Content-Length: 4\r\n", b"")
    upstream.on("/x", raw(b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n" + stream, then="reset"))
    async with by_httpx(upstream.url) as harness:
        for at in ("interim", "head", "lasts", "body", "flush", "abort"):
            outcome = Leaving(at)
            request = UpstreamRequest(b"GET", b"GET /x HTTP/1.1\r\n", b"", length=0)
            outcome.exchange = harness.engine.open(request, outcome, asyncio.get_running_loop().time())
            await until(lambda outcome: outcome.at in outcome.calls, outcome)
            await asyncio.sleep(0.1)
            assert outcome.calls[-1] == at
            assert outcome.calls.count(at) == 1
        assert harness.engine.open_connections == 0


FAULTS = [
    lambda served: served.reset(),
    lambda served: served.close(),
    lambda served: served.send(b"garbage\r\n\r\n"),
    lambda served: (served.send(OK[:-1]), served.close()),
    lambda served: (served.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz"), served.close()),
    lambda served: served.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more"),
    hang,
]


async def test_requests_with_faults_leave_nothing_behind(fleet: Fleet) -> None:
    def every_third_badly(served: Served) -> None:
        number = served.of.requests
        FAULTS[number // 3 % len(FAULTS)](served) if number % 3 == 0 else served.send(OK)

    fleet.behave(every_third_badly)
    descriptors = len(os.listdir("/proc/self/fd"))
    async with by_httpx(*fleet.urls, eject=None) as harness:
        await harness.ask_many(100, at_once=20, response_timeout=0.5)
        gc.collect()
        before = len(gc.get_objects())
        outcomes = await harness.ask_many(scaled(2000), "POST", body=b"body", at_once=50, response_timeout=0.5)
        outcomes += await harness.ask_many(scaled(1000), at_once=50, response_timeout=0.5)
        assert harness.engine.open_connections == 0
        assert Counter(one.done.done() for one in outcomes) == {True: len(outcomes)}
        assert sum(one.status == 200 and one.aborted is None for one in outcomes) > len(outcomes) / 2
        del outcomes
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
        gc.collect()
        assert len(gc.get_objects()) - before < 2000
    await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors + len(fleet.targets) + 4)
