"""The tunnel of a WebSocket over real sockets, with manual time."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import uvloop

from gateway.proxy.websocket_tunnel import Tunnel
from tests.support.raw import MiB
from tests.support.waiting import until
from tests.support.websockets import BINARY, Decoder, Frame, close, encode

Run = Callable[[Awaitable[None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on either event loop: their transports differ in their behaviour at the end."""

    def runner(work: Awaitable[None]) -> None:
        async def whole() -> None:
            async with asyncio.timeout(20):
                await work

        with asyncio.Runner(loop_factory=request.param) as loop:
            loop.run(whole())

    return runner


@dataclass
class Harness:
    """A tunnel between two connections; `caller` and `upstream` are the far ends."""

    tunnel: Tunnel
    caller: socket.socket
    upstream: socket.socket
    ended: list[tuple[int, int]]

    async def until_over(self) -> None:
        await until(lambda: self.ended)


@asynccontextmanager
async def harness(*, early: tuple[bytes, bytes] = (b"", b"")) -> AsyncIterator[Harness]:
    loop = asyncio.get_running_loop()
    ended: list[tuple[int, int]] = []
    tunnel = Tunnel(loop, lambda tunnel: ended.append(tunnel.passed))
    ends, transports = [], []
    for _ in range(2):
        near, far = await _connected()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        ends.append(far)
        transports.append(transport)
    tunnel.join(transports[0], transports[1], early)
    try:
        yield Harness(tunnel, ends[0], ends[1], ended)
    finally:
        for end in ends:
            end.close()
        for transport in transports:
            transport.close()
        await asyncio.sleep(0)


async def _connected() -> tuple[socket.socket, socket.socket]:
    """The two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for each in (near, far):
        each.setblocking(False)
    return near, far


async def _read(far: socket.socket) -> bytes:
    """All bytes up to the end of the connection."""
    loop, got = asyncio.get_running_loop(), b""
    with suppress(ConnectionResetError):
        while data := await loop.sock_recv(far, MiB):
            got += data
    return got


async def _flood(far: socket.socket, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        await loop.sock_sendall(far, data)


FLOOD = encode(Frame(BINARY, b"x" * MiB)) * 16


def test_a_peer_that_reads_nothing_for_a_minute_is_cut_off(run: Run) -> None:
    async def scenario() -> None:
        async with harness() as each:
            flooding = asyncio.create_task(_flood(each.upstream, FLOOD))
            await _settled(each)
            each.tunnel.tick(1000.0)
            each.tunnel.tick(1059.0)
            assert not each.ended
            each.tunnel.tick(1061.0)
            await each.until_over()
            await flooding

    run(scenario())


def test_a_peer_that_reads_a_little_gets_another_minute(run: Run) -> None:
    async def scenario() -> None:
        async with harness() as each:
            flooding = asyncio.create_task(_flood(each.upstream, FLOOD))
            await _settled(each)
            for now in range(1000, 1400, 50):
                each.tunnel.tick(float(now))
                for _ in range(16):
                    await asyncio.get_running_loop().sock_recv(each.caller, MiB // 8)
                await _settled(each)
            assert not each.ended
            reading = asyncio.create_task(_read(each.caller))
            await flooding
            each.upstream.close()
            await reading
            await each.until_over()

    run(scenario())


async def _settled(each: Harness) -> None:
    """Wait until no bytes move."""
    last = None
    while last != (last := (each.tunnel.passed, each.tunnel.caller.transport.get_write_buffer_size())):
        await asyncio.sleep(0.05)


def test_a_peer_without_pending_data_can_be_silent_without_limit(run: Run) -> None:
    async def scenario() -> None:
        async with harness() as each:
            for now in (0.0, 1e3, 1e6, 1e9):
                each.tunnel.tick(now)
            await asyncio.sleep(0.05)
            assert not each.ended

    run(scenario())


def test_the_last_data_of_an_upstream_are_not_kept_without_limit(run: Run) -> None:
    """It has disconnected, and the client does not read its last bytes."""

    async def scenario() -> None:
        async with harness() as each:
            await _flood_some(each.upstream)
            each.upstream.close()
            await asyncio.sleep(0.3)
            assert not each.ended
            each.tunnel.tick(1000.0)
            each.tunnel.tick(1061.0)
            await each.until_over()

    run(scenario())


async def _flood_some(far: socket.socket) -> None:
    """Send as much as possible, and as much as the tunnel's own buffer holds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await _flood(far, FLOOD)


def test_the_kernel_probes_for_vanished_peers(run: Run) -> None:
    async def scenario() -> None:
        async with harness() as each:
            for end in (each.tunnel.caller, each.tunnel.upstream):
                sock = end.transport.get_extra_info("socket")
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    run(scenario())


def test_early_bytes_are_sent_first_and_counted(run: Run) -> None:
    async def scenario() -> None:
        early = encode(Frame(BINARY, b"early"), masked=True), encode(Frame(BINARY, b"bird"))
        async with harness(early=early) as each:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(each.caller, encode(Frame(BINARY, b"later"), masked=True))
            heard = b""
            while len(heard) < 22:
                heard += await loop.sock_recv(each.upstream, 100)
            assert [frame.payload for frame in Decoder().feed(heard)] == [b"early", b"later"]
            assert await loop.sock_recv(each.caller, 100) == early[1]
            each.caller.close()
            await each.until_over()
            assert each.ended == [(22, 6)]

    run(scenario())


def test_the_close_frame_is_sent_once(run: Run) -> None:
    async def scenario() -> None:
        async with harness() as each:
            each.tunnel.close(1008, "token_expired")
            each.tunnel.close(1001, "the gateway is stopping")
            loop = asyncio.get_running_loop()
            for far, masked in ((each.caller, False), (each.upstream, True)):
                (frame,) = Decoder().feed(await loop.sock_recv(far, 1000))
                assert (frame.closing, frame.masked) == ((1008, "token_expired"), masked)
                await loop.sock_sendall(far, encode(close(1008), masked=not masked))
                assert await _read(far) == b""
            await each.until_over()

    run(scenario())


def test_the_close_frame_reaches_the_remaining_side(run: Run) -> None:
    """One side has disconnected, the other has not read its last bytes."""

    async def scenario() -> None:
        async with harness() as each:
            await _flood_some(each.upstream)
            each.upstream.close()
            await asyncio.sleep(0.1)
            each.tunnel.close(1001, "the gateway is stopping")
            data = await _read(each.caller)
            assert set(Decoder().feed(data)[0].payload) == {ord("x")}
            await each.until_over()

    run(scenario())


def test_a_peer_that_still_reads_gets_the_last_data_whole(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The upstream has disconnected between two frames, and the client's connection closes after its unsent bytes."""

    async def scenario() -> None:
        async with harness() as each:
            loop, frame = asyncio.get_running_loop(), encode(Frame(BINARY, b"x" * 65530))
            while not each.tunnel.caller.transport.get_write_buffer_size():
                await loop.sock_sendall(each.upstream, frame)
                await asyncio.sleep(0.001)
            each.upstream.close()
            await asyncio.sleep(0.1)
            each.tunnel.close(1001, "the gateway is stopping")
            frames = Decoder().feed(await _read(each.caller))
            assert {frame.opcode for frame in frames[:-1]} == {BINARY}
            assert frames[-1] == close(1001, "the gateway is stopping")
            await each.until_over()

    run(scenario())
    assert caplog.records == []
