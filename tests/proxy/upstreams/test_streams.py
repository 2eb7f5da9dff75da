"""Server-sent events, refused uploads, and disconnecting clients: no component waits for bytes that will not arrive."""

import asyncio
import statistics
import time

import pytest

from tests.support.fleet import OK, Behaviour, Fleet, Served
from tests.support.load import AsyncCaller
from tests.support.processes import Face, Gateway
from tests.support.raw import MiB
from tests.support.scale import scaled
from tests.support.small import Start, metric, small
from tests.support.waiting import eventually, promised, within
from tests.support.wording import chunked, request

FACES: tuple[Face, ...] = ("serve", "asgi")
GET = request("/web/x")
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(text: str) -> bytes:
    data = f"data: {text}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def ticking(every: float, count: int = 1_000_000):  # type: ignore[no-untyped-def]
    """Sends the time as an event, repeatedly."""

    def behave(served: Served) -> None:
        served.send(EVENTS)

        def tick(left: int) -> None:
            if left and not served.transport.is_closing():
                served.send(event(repr(time.monotonic())))
                served.later(every, lambda: tick(left - 1))

        tick(count)

    return behave


# ---- events


async def delays(address: tuple[str, int], count: int) -> list[float]:
    """The transit time of each event in seconds."""
    caller = AsyncCaller(address)
    await caller.send(GET)
    found: list[float] = []
    while len(found) < count:
        piece = await caller.next_piece()
        now = time.monotonic()
        found += [now - float(text.split(b"\n")[0]) for text in piece.split(b"data: ")[1:]]
    caller.close()
    return found


@pytest.mark.parametrize("face", FACES)
async def test_events_arrive_one_by_one_as_they_are_sent(start: Start, fleet: Fleet, face: Face) -> None:
    fleet["a"].behaviour = ticking(0.01)
    gateway = start({"web": fleet["a"].url}, face)
    through, direct = await delays(gateway.address, 150), await delays(fleet["a"].address, 150)
    added = statistics.median(through) - statistics.median(direct)
    late = sorted(through)[int(len(through) * 0.95)]
    print(f"\nevents over {face}: {added * 1000:.2f} ms added, 95 % within {late * 1000:.2f} ms")
    assert added < 0.02
    assert late < promised(0.5)


MANY = scaled(1000)


@pytest.mark.parametrize("face", FACES)
async def test_many_event_streams_cost_little(start: Start, fleet: Fleet, face: Face) -> None:
    fleet["a"].behaviour = lambda served: served.send(EVENTS + event("0"))
    gateway = start({"web": {"targets": [fleet["a"].url], "max_connections": 2000}}, face)
    callers = [AsyncCaller(gateway.address) for _ in range(MANY + 100)]

    async def open_some(some: list[AsyncCaller]) -> None:
        for caller in some:
            await caller.send(GET)
        for caller in some:  # the head can arrive in pieces
            while b"data: 0" not in await caller.next_piece():
                pass

    await open_some(callers[:100])
    before = gateway.memory()
    await open_some(callers[100:])
    each = (gateway.memory() - before) / MANY / 1024
    print(f"\n{MANY} event streams over {face}: {each:.1f} KiB each")
    for served in list(fleet["a"].connections):
        fleet.loop.call_soon_threadsafe(served.send, event("1"))
    for caller in callers:
        while b"data: 1" not in await caller.next_piece():
            pass
        caller.close()
    assert each < 20
    await asyncio.to_thread(fleet["a"].idle)


@pytest.mark.parametrize("face", FACES)
def test_a_stream_that_the_upstream_ends_ends(start: Start, fleet: Fleet, face: Face) -> None:
    def three(served: Served) -> None:
        served.send(EVENTS)
        for number in range(3):
            served.later(0.02 * number, lambda number=number: served.send(event(str(number))))  # type: ignore[misc]
        served.later(0.1, lambda: served.send(b"0\r\n\r\n"))

    fleet.behave(three)
    gateway = start({"web": fleet.urls}, face)
    with gateway.caller() as caller:
        got = caller.send(GET).receive()
        assert (got.body, got.whole) == (b"data: 0\n\ndata: 1\n\ndata: 2\n\n", True)
        fleet.behave(lambda served: served.send(OK))
        assert caller.send(GET).receive().body == b"ok"


# ---- clients that disconnect


WAITS = {
    "for a head": lambda served: None,
    "for the next event": lambda served: served.send(EVENTS + event("0")),
    "for the rest": lambda served: served.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
}


@pytest.mark.parametrize("behaviour", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("body", [None, b"body"], ids=["GET", "POST"])
@pytest.mark.parametrize("face", FACES)
def test_a_disconnected_client_ends_the_upstream_request_at_once(
    served_by: "dict[Face, Gateway]",
    waiting_fleet: Fleet,
    face: Face,
    body: bytes | None,
    behaviour: Behaviour,
) -> None:
    """Including after a body that had to wait for a connection, during which the client was not read."""
    target = waiting_fleet["a"]
    target.idle()
    target.forget()
    target.behaviour = behaviour
    took: list[float] = []
    for how in ("close", "reset"):
        with served_by[face].caller() as caller:
            caller.send(request("/web/x", method="GET" if body is None else "POST", body=body))
            eventually(lambda: target.requests >= len(took) + 1)
            time.sleep(0.05)
            getattr(caller, how)()
            left = time.monotonic()
            target.idle()
            took.append(time.monotonic() - left)
    assert max(took) < (0.2 if face == "serve" else 0.6)


@pytest.fixture(scope="module")
def waiting_fleet():  # type: ignore[no-untyped-def]
    fleet = Fleet("a")
    yield fleet
    fleet.stop()


@pytest.fixture(scope="module")
def served_by(waiting_fleet: Fleet, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    folders = {face: tmp_path_factory.mktemp(face) for face in FACES}  # each gateway has its own database
    gateways = {
        face: Gateway(face, small(folder, {"web": waiting_fleet.urls}), folder).start()
        for face, folder in folders.items()
    }
    yield gateways
    for gateway in gateways.values():
        gateway.kill()


@pytest.mark.parametrize("face", FACES)
def test_many_disconnects_at_once_leave_nothing(start: Start, fleet: Fleet, face: Face) -> None:
    fleet["a"].behaviour = lambda served: None
    gateway = start({"web": {"targets": [fleet["a"].url], "max_connections": 50}}, face)
    callers = [gateway.caller() for _ in range(300)]
    for caller in callers:
        caller.send(GET)
    eventually(lambda: fleet["a"].requests == 50)
    for caller in callers:
        caller.reset()
    fleet["a"].behaviour = lambda served: served.send(OK)
    with within(2.0):
        assert gateway.get("/web/x").body == b"ok"
    fleet["a"].idle(50)
    if face == "serve":
        eventually(lambda: metric(gateway, "gateway_connections") == 1)


# ---- bodies


@pytest.mark.parametrize("face", FACES)
def test_a_caller_goes_on_after_a_body(served_by: "dict[Face, Gateway]", waiting_fleet: Fleet, face: Face) -> None:
    """With and without an existing connection for it."""
    target = waiting_fleet["a"]
    target.forget()
    with served_by[face].caller() as caller:
        for size in (4, 5000, 400_000, 1):
            target.down()
            target.up()
            served_by[face].get("/_gateway/health")  # by then it has noticed its lost connections
            for framing in (f"Content-Length: {size}", "Transfer-Encoding: chunked"):
                data = b"x" * size if "Length" in framing else chunked(b"x" * size)
                caller.send(request("/web/x", method="PUT", fields=[framing]) + data)
                assert caller.receive("PUT").body == b"a"
            assert caller.send(GET).receive().body == b"a"


@pytest.mark.parametrize("path", ["/auth/me", "/nowhere"])
@pytest.mark.parametrize("framing", [f"Content-Length: {64 * MiB}", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("face", FACES)
def test_an_upload_that_is_refused_early_does_not_hang(
    served_by: "dict[Face, Gateway]", waiting_fleet: Fleet, face: Face, framing: str, path: str
) -> None:
    """The client receives the response while it is still sending, and the upstream receives nothing."""
    target = waiting_fleet["a"]
    target.forget()
    piece = b"x" * MiB if "Length" in framing else b"%x\r\n%b\r\n" % (MiB, b"x" * MiB)
    with served_by[face].caller(timeout=10) as caller, within(8.0):
        caller.send(request(path, method="POST", fields=[framing]))
        sent = caller.send_until_refused([piece] * 64)
        status = caller.receive("POST").status
    assert status in (404, 405, 401)
    assert sent <= 65 * (MiB + 20)
    assert target.requests == 0
