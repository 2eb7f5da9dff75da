"""Long-lived connections: WebSocket echoes (messages/s, CPU per message), and the memory of idle WebSockets and event
streams.

Each client has one message in flight, so the rate counts complete round trips. Messages are masked as RFC 6455, section
5.3 requires, and the upstream unmasks them, so a damaged message is detected.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, cast

from bench.peers.peer import Peer
from bench.processes import BenchError, pinned
from bench.rounds import Environment, RunningPeer, Tell
from bench.traffic import caller_headers

MESSAGE = b"A message as long as those of a chat are, more or less: 64 bytes"
MASK = b"\x9c\x1b\x44\xe7"
IDLE = 1000
SETTLE = 1.0  # seconds until new connections are at rest
OPENING_SECONDS = 30.0
AT_ONCE = 50  # connections opened concurrently

Head = Callable[[int, str], bytes]


@dataclass(frozen=True, slots=True)
class Echoes:
    """One measured window."""

    messages_per_second: float
    cpu_us: float


def frame(payload: bytes, mask: bytes | None) -> bytes:
    """A text message of fewer than 126 bytes in one frame."""
    if mask is None:
        return bytes((0x81, len(payload))) + payload
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes((0x81, 0x80 | len(payload))) + mask + masked


ASKED, ECHOED = frame(MESSAGE, MASK), frame(MESSAGE, None)


class Caller(asyncio.Protocol):
    """One connection. It sends the head, and after the response head one message after another."""

    def __init__(self, head: bytes, status: bytes) -> None:
        self.head = head
        self.status = status
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failed = ""
        self.echoing = self.leaving = False
        self.count = 0
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.head)

    def data_received(self, data: bytes) -> None:
        if self.opened.done():
            self._echoed(data)
            return
        self.buffer += data
        if b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            if not head.startswith(self.status):
                self._fail(f"answered {head[:200]!r}")
            self.opened.set_result(None)

    def begin(self) -> None:
        """Start echoing."""
        self.echoing, self.buffer = True, b""
        self.transport.write(ASKED)

    def _echoed(self, data: bytes) -> None:
        if not self.echoing or self.leaving:
            return
        if self.buffer or data != ECHOED:
            data, self.buffer = self.buffer + data, b""
            if len(data) < len(ECHOED):
                self.buffer = data
                return
            if data != ECHOED:
                self._fail(f"an echo came back as {data[:200]!r}")
                return
        self.count += 1
        self.transport.write(ASKED)

    def _fail(self, reason: str) -> None:
        self.failed, self.echoing = self.failed or reason, False

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_result(None)
        if not self.leaving:
            self._fail("the connection was closed")


def handshake(port: int, credential: str) -> bytes:
    """The head that opens a WebSocket."""
    upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    return head_of("/api/echo/42", port, [*caller_headers(credential), *upgrade])


def event_stream(port: int, credential: str) -> bytes:
    """The head that requests an event stream."""
    return head_of("/api/events/42", port, caller_headers(credential))


def head_of(path: str, port: int, headers: Sequence[tuple[str, str]]) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


async def opened(running_peer: RunningPeer, head: Head, status: bytes, count: int) -> list[Caller]:
    """Open `count` connections. Raises BenchError if one is refused."""
    loop, port = asyncio.get_running_loop(), running_peer.place.port
    callers: list[Caller] = []
    request = head(port, running_peer.credential)
    try:
        async with asyncio.timeout(OPENING_SECONDS):
            while len(callers) < count:
                making = [
                    loop.create_connection(lambda: Caller(request, status), "127.0.0.1", port)
                    for _ in range(min(AT_ONCE, count - len(callers)))
                ]
                made = [caller for _, caller in await asyncio.gather(*making)]
                await asyncio.gather(*(caller.opened for caller in made))
                callers += made
    except TimeoutError:
        close(callers)
        raise BenchError(f"only {len(callers)} of {count} connections were opened in time") from None
    _check(callers)
    return callers


def _check(callers: Sequence[Caller]) -> None:
    for caller in callers:
        if caller.failed:
            raise BenchError(f"WebSocket or event stream: {caller.failed}")


async def echoes(running_peer: RunningPeer, *, connections: int, seconds: float) -> Echoes:
    """Measure one window. Raises BenchError if a message returns changed."""
    callers = await opened(running_peer, handshake, b"HTTP/1.1 101", connections)
    try:
        for caller in callers:
            caller.begin()
        await asyncio.sleep(seconds / 10)
        before, cpu, begun = _count(callers), _cpu(running_peer), time.perf_counter()
        await asyncio.sleep(seconds)
        count, used, took = _count(callers) - before, _cpu(running_peer) - cpu, time.perf_counter() - begun
        _check(callers)
    finally:
        close(callers)
    if not count:
        raise BenchError("no message came back")
    return Echoes(round(count / took, 1), round(used / count * 1e6, 2))


async def held(running_peer: RunningPeer, head: Head, status: bytes) -> float:
    """KiB of resident memory for each of IDLE open connections at rest."""
    before = running_peer.running.memory().rss
    callers = await opened(running_peer, head, status, IDLE)
    try:
        await asyncio.sleep(SETTLE)
        _check(callers)
        return round((running_peer.running.memory().rss - before) / IDLE / 1024, 1)
    finally:
        close(callers)


def measure(
    environment: Environment,
    peers: Sequence[Peer],
    *,
    rounds: int,
    seconds: float,
    tell: Tell,
    cpus: frozenset[int] | None,
) -> dict[str, Any]:
    """Medians by peer, with the clients on `cpus`. Peers that fail are reported and left out."""
    found: dict[str, Any] = {}
    with pinned(cpus), asyncio.Runner(loop_factory=_loop) as runner:
        taken = _rounds(environment, peers, runner, rounds=rounds, seconds=seconds, tell=tell)
        for peer in peers:
            try:
                if taken.get(peer.name):
                    found[peer.name] = {**asdict(_middle(taken[peer.name])), **_memory(environment, peer, runner)}
            except (BenchError, OSError) as failure:
                tell(f"  {peer.name}: {failure}")
    return found


def _rounds(
    environment: Environment, peers: Sequence[Peer], runner: asyncio.Runner, *, rounds: int, seconds: float, tell: Tell
) -> dict[str, list[Echoes]]:
    """The windows of each peer. All peers run throughout and are measured in turn."""
    taken: dict[str, list[Echoes]] = {}
    with environment.running_peers(peers, lambda peer, failure: tell(f"  {peer.name}: {failure}")) as running_peers:
        for running_peer in running_peers * rounds:
            try:
                window = runner.run(echoes(running_peer, connections=32, seconds=seconds))
                taken.setdefault(running_peer.peer.name, []).append(window)
            except (BenchError, OSError) as failure:
                tell(f"  {running_peer.peer.name}: {failure}")
    return taken


def _memory(environment: Environment, peer: Peer, runner: asyncio.Runner) -> dict[str, float]:
    """Each kind in a new process, because memory freed by other connections would be reused."""
    kinds = {"websocket_kib": (handshake, b"HTTP/1.1 101"), "event_stream_kib": (event_stream, b"HTTP/1.1 200")}
    found = {}
    for name, (head, status) in kinds.items():
        with environment.running_peer(peer) as running_peer:
            found[name] = runner.run(held(running_peer, head, status))
    return found


def _loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _count(callers: Sequence[Caller]) -> int:
    return sum(caller.count for caller in callers)


def _cpu(running_peer: RunningPeer) -> float:
    return sum(running_peer.running.cpu_seconds().values())


def close(callers: Sequence[Caller]) -> None:
    for caller in callers:
        caller.leaving = True
        caller.transport.abort()


def _middle(taken: Sequence[Echoes]) -> Echoes:
    return Echoes(median(each.messages_per_second for each in taken), median(each.cpu_us for each in taken))
