"""Slow readers, fast writers, and many idle connections: memory stays flat."""

import resource
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.support.gateways import Gateways
from tests.support.processes import Face, Gateway
from tests.support.raw import MiB
from tests.support.recording import Exchange, RecordingUpstream
from tests.support.scale import scaled
from tests.support.waiting import eventually
from tests.support.websockets import BINARY, FarEnd, Frame, Socket, echoing, encode, switching, text

PATH = "/public-sockets/pressure"
TOTAL = scaled(256) * MiB
MESSAGE = MiB // 4
# Kernel buffers of four sockets, the gateway's own, and a complete message in several places of the ASGI server.
FLAT = 16 * MiB


class FastFrames:
    """A script that sends frames as fast as possible; `sent` counts the bytes sent."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.sent = 0

    async def __call__(self, exchange: Exchange) -> None:
        frame = encode(Frame(BINARY, b"x" * MESSAGE))
        await exchange.send(switching(exchange.request))
        while self.sent < self.total:
            await exchange.send(frame)
            self.sent += MESSAGE
        await exchange.left()


def test_a_slow_caller_slows_the_upstream_down(gateway: Gateway, upstream: RecordingUpstream) -> None:
    frames = FastFrames(TOTAL)
    upstream.on(PATH, frames)
    with Socket(gateway, PATH, receive_buffer=512 * 1024) as socket:
        before = gateway.memory()
        _stands_still(lambda: frames.sent)
        assert frames.sent < 24 * MiB, "the peer read nothing, and the bytes were stored"
        assert gateway.memory() - before < FLAT
        _read_all(socket, TOTAL)
        assert gateway.memory() - before < FLAT


def test_a_slow_upstream_slows_the_caller_down(gateway: Gateway, upstream: RecordingUpstream) -> None:
    far = FarEnd(reads=False)
    upstream.on(PATH, far)
    sent = 0
    with Socket(gateway, PATH) as socket:
        before = gateway.memory()
        frame = encode(Frame(BINARY, b"y" * MESSAGE), masked=True)

        def send_all() -> None:
            nonlocal sent
            socket.socket.settimeout(60)
            for _ in range(TOTAL // MESSAGE):
                socket.send(frame)
                sent += MESSAGE

        sending = threading.Thread(target=send_all)
        sending.start()
        _stands_still(lambda: sent)
        assert sent < 24 * MiB, "the peer read nothing, and the bytes were stored"
        assert gateway.memory() - before < FLAT
        far.read()
        sending.join(60)
        eventually(lambda: far.taken >= TOTAL, timeout=30.0)
        assert gateway.memory() - before < FLAT
        far.heard()


def test_a_slow_client_delays_no_other(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on(PATH, FastFrames(TOTAL))
    upstream.on(PATH + "/quick", echoing())
    with Socket(gateway, PATH, receive_buffer=512 * 1024), Socket(gateway, PATH + "/quick") as quick:
        worst = 0.0
        for _ in range(100):
            started = time.monotonic()
            quick.say(text("quick"))
            quick.frame()
            worst = max(worst, time.monotonic() - started)
        assert worst < 0.5


def test_a_client_that_disconnects_without_reading_leaves_nothing_behind(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    for _ in range(3):
        frames = FastFrames(TOTAL)
        upstream.on(PATH, frames)
        upstream.requests.clear()
        with Socket(gateway, PATH, receive_buffer=512 * 1024):
            _stands_still(partial(getattr, frames, "sent"))
        eventually(lambda: upstream.only.link.ended)


# ---- many idle ones

MANY = scaled(1000)
# The maximum cost of an idle WebSocket in KiB: two connections with the state of the request. Stock uvicorn adds a
# task, a queue and an asyncio stream of frames, and its compression if the client offers it.
PRICE = {"serve": 16, "asgi": 64}


@pytest.fixture
def own(gateways: Gateways, face: Face, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A separate gateway, whose memory other tests have not used."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit[0], min(limit[1], 8192)), limit[1]))
    folder = tmp_path_factory.mktemp("many")
    gateway = Gateway(face, gateways.configuration(folder), folder).start()
    yield gateway
    gateway.kill()
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_many_idle_websockets_cost_little_and_all_work(own: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on(PATH, echoing())
    warm = [Socket(own, PATH) for _ in range(20)]
    for socket in warm:
        socket.close()
    eventually(lambda: all(link.ended for link in upstream.links[-20:]))
    before = own.memory()
    sockets = [Socket(own, PATH) for _ in range(MANY)]
    price = (own.memory() - before) / MANY / 1024
    print(f"{own.face}: {price:.1f} KiB for each idle WebSocket")
    for number, socket in enumerate(sockets):
        socket.say(text(str(number)))
    for number, socket in enumerate(sockets):
        assert socket.message() == str(number).encode()
    for socket in sockets:
        socket.close()
    eventually(lambda: all(link.ended for link in upstream.links[-MANY:]), timeout=10.0)
    assert price < PRICE[own.face]


def _stands_still(count: Callable[[], int]) -> None:
    """Wait until the count has begun to change and is stable."""
    eventually(count)
    last, since = count(), time.monotonic()
    while time.monotonic() - since < 0.4:
        time.sleep(0.02)
        if count() != last:
            last, since = count(), time.monotonic()


def _read_all(socket: Socket, total: int) -> None:
    """Read frames of MESSAGE bytes until this many bytes of payload have arrived."""
    frame = len(encode(Frame(BINARY, b"x" * MESSAGE)))
    left = total // MESSAGE * frame - len(socket.read_pending())  # some may have arrived with the response
    socket.socket.settimeout(30)
    view = bytearray(MiB)
    while left:
        count = socket.socket.recv_into(view)
        assert count, "the connection ended early"
        left -= count
