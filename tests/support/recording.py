"""An upstream that records requests byte by byte, and answers by a script: real sockets, its own event loop.

It replaces every kind of API behind the gateway, including broken ones. A script is a coroutine that receives the
`Exchange` as soon as the request head is complete, so it can answer early, incorrectly, slowly, or not at all.
"""

import asyncio
import contextlib
import re
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.support.listening import Connections
from tests.support.raw import Address, Ending, Field
from tests.support.waiting import eventually

READ_LIMIT = 64 * 1024


def variable(name: str) -> str:
    """The CGI variable of a header field, as named by lighttpd."""
    return "HTTP_" + re.sub("[^A-Z0-9]", "_", name.upper())


@dataclass(slots=True, eq=False)
class Link:
    """One connection of the gateway. `ended` is the way the gateway ended it, None while it is open."""

    number: int
    requests: int = 0
    ended: Ending | Literal["here"] | None = None


@dataclass(slots=True, eq=False)
class Received:
    """One received request. `whole` becomes true when its body is complete by its framing."""

    head: bytes
    link: Link
    body: bytearray = field(default_factory=bytearray)
    trailers: tuple[Field, ...] = ()
    whole: bool = False

    @property
    def line(self) -> bytes:
        return self.head.partition(b"\r\n")[0]

    @property
    def method(self) -> bytes:
        return self.line.partition(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]

    @property
    def fields(self) -> tuple[Field, ...]:
        """Every field line as name and value, in the original spelling and order, with duplicates."""
        lines = self.head.split(b"\r\n")[1:]
        return tuple((name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines))

    def values(self, name: str) -> list[bytes]:
        """The values of the lines with this name, ignoring case."""
        lowered = name.lower().encode()
        return [value for key, value in self.fields if key.lower() == lowered]

    @property
    def folded(self) -> dict[str, list[bytes]]:
        """The variables of a CGI or PHP application: upper case, and `_` for everything except letters and digits."""
        view: dict[str, list[bytes]] = {}
        for name, value in (*self.fields, *self.trailers):
            view.setdefault(variable(name.decode("latin-1")), []).append(value)
        return view

    def seen_as(self, name: str) -> list[bytes]:
        """All values that an application sees under this name after normalisation."""
        return self.folded.get(variable(name), [])

    @property
    def framing(self) -> Literal["none", "length", "chunked"]:
        if self.values("transfer-encoding"):
            return "chunked"
        return "length" if self.values("content-length") else "none"


class Exchange:
    """One request at the upstream, and the means to answer it. The connection stays open unless `keep` is set to
    False."""

    def __init__(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.reader = reader
        self.writer = writer
        self.keep = True

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def body(self, sink: Callable[[bytes], object] | None = None) -> bytes:
        """Read the rest of the request into `request.body`, or into `sink` in pieces."""
        take = sink or self.request.body.extend
        if not self.request.whole:
            if self.request.framing == "length":
                await self._exactly(int(self.request.values("content-length")[0]), take)
            elif self.request.framing == "chunked":
                await self._chunks(take)
            self.request.whole = True
        return bytes(self.request.body)

    async def left(self) -> None:
        """Wait until the gateway ends this connection."""
        while await self.reader.read(READ_LIMIT):
            pass
        raise asyncio.IncompleteReadError(b"", None)

    def hang_up(self) -> None:
        """Close after the sent bytes (FIN)."""
        self.keep = False

    def reset(self) -> None:
        """Close with an RST. Sent but undelivered bytes can be lost, so wait after sending."""
        self.keep = False
        if self.writer.transport.is_closing():
            return
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def _exactly(self, count: int, take: Callable[[bytes], object]) -> None:
        while count:
            piece = await self.reader.read(min(count, READ_LIMIT))
            if not piece:
                raise asyncio.IncompleteReadError(b"", count)
            count -= len(piece)
            take(piece)

    async def _chunks(self, take: Callable[[bytes], object]) -> None:
        while size := int((await self._line()).partition(b";")[0], 16):
            await self._exactly(size, take)
            assert await self._line() == b"", "the gateway sent a chunk longer than it said"
        trailers: list[Field] = []
        while line := await self._line():
            name, _, value = line.partition(b":")
            trailers.append((name, value.strip()))
        self.request.trailers = tuple(trailers)

    async def _line(self) -> bytes:
        return (await self.reader.readuntil(b"\r\n"))[:-2]


Script = Callable[[Exchange], Awaitable[None]]


async def plain_answer(exchange: Exchange) -> None:
    """The default response."""
    await exchange.body()
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nupstream")


class RecordingUpstream:
    """The server. `requests` and `links` grow with arrivals; `on` scripts the response for one path, and `default`
    answers all others. It listens on a port, or on the Unix socket `path`."""

    def __init__(
        self, tls: ssl.SSLContext | None = None, default: Script = plain_answer, *, path: Path | None = None
    ) -> None:
        self.requests: list[Received] = []
        self.links: list[Link] = []
        self._scripts: dict[bytes, Script] = {}
        self._default = default
        self._tls = tls
        self._path = path
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._connections = Connections(self._connected)
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream", daemon=True)
        self._thread.start()
        self.address: Address = ("127.0.0.1", 0)
        self.accept()

    @property
    def url(self) -> str:
        if self._path is not None:
            return f"unix:{self._path}"
        return f"{'https' if self._tls else 'http'}://{self.address[0]}:{self.address[1]}"

    # ---- control by tests

    def on(self, path: str, script: Script) -> None:
        """Answer requests for this path (ignoring the query) with this script from now on."""
        self._scripts[path.encode()] = script

    def forget(self) -> None:
        """Remove requests and scripts; open connections stay."""
        self.requests = []
        self._scripts = {}

    def call_soon(self, act: Callable[[], object]) -> None:
        """Call this in the thread of the scripts."""
        self._loop.call_soon_threadsafe(act)

    def refuse(self) -> None:
        """Close all connections and refuse new ones, until `accept`."""
        self._run(self._close())

    def accept(self) -> None:
        """Listen again at the same address."""
        self._run(self._open())

    def stop(self) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    # ---- queries by tests

    @property
    def only(self) -> Received:
        """The only request that arrived."""
        assert len(self.requests) == 1, [request.line for request in self.requests]
        return self.requests[0]

    def arrived(self, count: int = 1) -> Received:
        """Wait until this many requests have arrived; returns the last of them."""
        eventually(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    def settle(self) -> None:
        """Wait until all requests in flight have arrived: the response to a new request comes after them."""
        with contextlib.suppress(ConnectionRefusedError):
            with socket.create_connection(self.address, timeout=5) as probe:
                probe.sendall(b"GET /settled HTTP/1.1\r\n\r\n")
                assert probe.recv(READ_LIMIT)
            for request in [each for each in self.requests if each.target == b"/settled"]:
                self.requests.remove(request)

    def lines(self) -> list[bytes]:
        return [request.line for request in self.requests]

    # ---- the server

    def _run(self, work: Awaitable[None]) -> None:
        async def wrapped() -> None:
            await work

        asyncio.run_coroutine_threadsafe(wrapped(), self._loop).result(10)

    async def _open(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._connections.accept, self._path, limit=READ_LIMIT)
            return
        self._server = await asyncio.start_server(
            self._connections.accept, *self.address, limit=READ_LIMIT, ssl=self._tls, backlog=512
        )
        self.address = self._server.sockets[0].getsockname()[:2]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._connections.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(number=len(self.links))
        self.links.append(link)
        try:
            await self._serve(link, reader, writer)
            link.ended = link.ended or "here"
        except (asyncio.IncompleteReadError, BrokenPipeError):
            link.ended = "fin"
        except ConnectionResetError:
            link.ended = "reset"
        except asyncio.CancelledError:
            link.ended = "here"
            raise

    async def _serve(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keep = True
        while keep:
            head = await reader.readuntil(b"\r\n\r\n")
            request = Received(head[:-4], link)
            link.requests += 1
            self.requests.append(request)
            exchange = Exchange(request, reader, writer)
            path = request.target.partition(b"?")[0]
            await self._scripts.get(path, self._default)(exchange)
            keep = exchange.keep and request.whole
