"""An HTTP/1.1 client that sends exactly the given bytes.

Client libraries normalise: they resolve dot segments, merge duplicates, add fields, hide interim responses and treat a
reset as an end. This one reads by the framing rules of RFC 9112 section 6.3 and reports everything unchanged, including
the end of the connection (a FIN is not a reset: an HTTP/1.0 client cannot distinguish a FIN from a clean end).
"""

import contextlib
import json
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self

Address = tuple[str, int]
Field = tuple[bytes, bytes]
Ending = Literal["fin", "reset"]
Framing = Literal["none", "length", "chunked", "close"]

MiB = 1024 * 1024


class NoAnswer(AssertionError):
    """The connection ended before a complete response head; `ending` is the way, `got` the bytes received."""

    def __init__(self, ending: Ending, got: bytes) -> None:
        super().__init__(f"connection ended by {ending} instead of an answer, after {got[:200]!r}")
        self.ending = ending
        self.got = got


class BadAnswer(AssertionError):
    """The bytes are not an HTTP/1.1 response."""


class _Ended(Exception):
    def __init__(self, ending: Ending) -> None:
        self.ending: Ending = ending


@dataclass(frozen=True, slots=True)
class Head:
    """A response head as sent: names keep their case, values their bytes."""

    version: bytes
    status: int
    reason: bytes
    fields: tuple[Field, ...]

    def values(self, name: str) -> list[bytes]:
        """All values of a field, one per line, in order."""
        lowered = name.lower().encode()
        return [value for key, value in self.fields if key.lower() == lowered]

    def value(self, name: str) -> bytes | None:
        """The value of a field that must not be repeated."""
        values = self.values(name)
        assert len(values) <= 1, f"{name} stands {len(values)} times: {values}"
        return values[0] if values else None

    def has(self, name: str) -> bool:
        return bool(self.values(name))


@dataclass(frozen=True, slots=True)
class Answer:
    """A final response with all its parts. `whole` is False if bytes are missing by its framing."""

    head: Head
    body: bytes
    framing: Framing
    whole: bool
    ending: Ending | None
    trailers: tuple[Field, ...] = ()
    interim: tuple[Head, ...] = ()

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def fields(self) -> tuple[Field, ...]:
        return self.head.fields

    def values(self, name: str) -> list[bytes]:
        return self.head.values(name)

    def value(self, name: str) -> bytes | None:
        return self.head.value(name)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The gateway's error code, or None for other responses."""
        problem = (self.value("content-type") or b"").partition(b";")[0] == b"application/problem+json"
        if not (problem and self.body):
            return None
        code = self.json().get("code")
        return code if isinstance(code, str) else None

    def refused(self) -> tuple[int, str | None]:
        return self.status, self.code


class Caller:
    """One connection from the address `source`. Every wait raises TimeoutError after `timeout` seconds."""

    def __init__(
        self,
        address: Address,
        *,
        timeout: float = 5.0,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
        source: str = "",
    ) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if source:
            self.socket.bind((source, 0))
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket.connect(address)
            if tls is not None:
                self.socket = tls.wrap_socket(self.socket, server_hostname=address[0])
        except BaseException:
            self.socket.close()
            raise
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- sending

    def send(self, data: bytes) -> Self:
        self.socket.sendall(data)
        return self

    def send_until_refused(self, pieces: Iterable[bytes]) -> int:
        """Send until all is sent or the other side has closed; returns the number of bytes sent."""
        sent = 0
        try:
            for piece in pieces:
                self.socket.sendall(piece)
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return sent

    def finish_sending(self) -> None:
        """Send a FIN and continue reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Reset the connection with an RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    # ---- receiving

    def receive(self, method: str = "GET") -> Answer:
        """The next final response; `method` is the request's, which determines whether a body follows."""
        interim: list[Head] = []
        while True:
            head = self.receive_head()
            if head.status >= 200 or head.status == 101:
                break
            interim.append(head)
        pieces: list[bytes] = []
        framing, whole, ending, trailers = self.receive_body(head, pieces.append, method=method)
        return Answer(head, b"".join(pieces), framing, whole, ending, trailers, tuple(interim))

    def receive_head(self) -> Head:
        """The next response head, interim or final. Raises NoAnswer if the connection ends instead."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            try:
                self._more()
            except _Ended as ended:
                raise NoAnswer(ended.ending, bytes(self._buffer)) from None
        block = self._take(end + 4)[:-4]
        first, *lines = block.split(b"\r\n")
        version, _, rest = first.partition(b" ")
        status, _, reason = rest.partition(b" ")
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or not (status.isdigit() and len(status) == 3):
            raise BadAnswer(f"not a status line: {first!r}")
        return Head(version, int(status), reason, tuple(_field(line) for line in lines))

    def receive_body(
        self, head: Head, sink: Callable[[bytes], object], *, method: str = "GET"
    ) -> tuple[Framing, bool, Ending | None, tuple[Field, ...]]:
        """Read the body of a head into `sink`; returns the framing, whether it is complete, the end of the connection,
        and the trailers."""
        framing = framing_of(head, method)
        trailers: tuple[Field, ...] = ()
        try:
            if framing == "length":
                self._exactly(int(head.values("content-length")[0]), sink)
            elif framing == "chunked":
                trailers = self._chunks(sink)
            elif framing == "close":
                while True:
                    self._pour(sink)
        except _Ended as ended:
            return framing, framing == "close" and ended.ending == "fin", ended.ending, ()
        return framing, True, None, trailers

    def ended(self, within: float = 5.0) -> tuple[Ending, bytes]:
        """The way the connection ends, and the bytes before it. Raises TimeoutError while it stays open."""
        self.socket.settimeout(within)
        try:
            while True:
                self._more()
        except _Ended as ended:
            return ended.ending, bytes(self._buffer)

    def is_open(self, after: float = 0.15) -> bool:
        """Whether the connection is still open and silent after this many seconds."""
        try:
            self.ended(within=after)
        except TimeoutError:
            assert not self._buffer, f"unasked bytes: {bytes(self._buffer[:200])!r}"
            return True
        finally:
            self.socket.settimeout(5.0)
        return False

    def read(self, count: int) -> bytes:
        """The next `count` bytes, uninterpreted; fewer if the connection ends or stays silent before them."""
        data = bytearray()
        with contextlib.suppress(_Ended, TimeoutError):
            self._exactly(count, data.extend)
        return bytes(data)

    def read_until(self, mark: bytes) -> bytes:
        """The next bytes, uninterpreted, up to and including `mark`."""
        while (at := self._buffer.find(mark)) < 0:
            self._more()
        return self._take(at + len(mark))

    def read_pending(self) -> bytes:
        """The bytes received from the socket and not yet read."""
        return self._take(len(self._buffer))

    # ---- the buffer

    def _more(self) -> None:
        try:
            data = self.socket.recv(256 * 1024)
        except (ConnectionResetError, BrokenPipeError):
            raise _Ended("reset") from None
        if not data:
            raise _Ended("fin")
        self._buffer += data

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _pour(self, sink: Callable[[bytes], object]) -> None:
        if not self._buffer:
            self._more()
        sink(self._take(len(self._buffer)))

    def _exactly(self, count: int, sink: Callable[[bytes], object]) -> None:
        while count:
            if not self._buffer:
                self._more()
            piece = self._take(min(count, len(self._buffer)))
            count -= len(piece)
            sink(piece)

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._more()
        return self._take(end + 2)[:-2]

    def _chunks(self, sink: Callable[[bytes], object]) -> tuple[Field, ...]:
        while True:
            line = self._line()
            try:
                size = int(line.partition(b";")[0], 16)
            except ValueError:
                raise BadAnswer(f"not a chunk size: {line[:80]!r}") from None
            if size == 0:
                break
            self._exactly(size, sink)
            if self._line():
                raise BadAnswer("a chunk does not end where its size says")
        trailers: list[Field] = []
        while line := self._line():
            trailers.append(_field(line))
        return tuple(trailers)


def framing_of(head: Head, method: str) -> Framing:
    """RFC 9112 6.3. A gateway must not send a head with both framings."""
    lengths, codings = head.values("content-length"), head.values("transfer-encoding")
    if lengths and codings:
        raise BadAnswer("Content-Length together with Transfer-Encoding")
    if len(lengths) > 1 or (lengths and not lengths[0].isdigit()):
        raise BadAnswer(f"odd Content-Length {lengths}")
    if codings and codings != [b"chunked"]:
        raise BadAnswer(f"odd Transfer-Encoding {codings}")
    if method == "HEAD" or head.status in (101, 204, 304):
        return "none"
    if codings:
        return "chunked"
    return "length" if lengths else "close"


def _field(line: bytes) -> Field:
    name, colon, value = line.partition(b":")
    if not colon or not name or name != name.strip():
        raise BadAnswer(f"not a field line: {line!r}")
    return name, value.strip(b" \t")


def ask(address: Address, data: bytes, *, method: str | None = None, timeout: float = 5.0) -> Answer:
    """Send these bytes on a new connection and read one response."""
    with Caller(address, timeout=timeout) as caller:
        caller.send(data)
        return caller.receive(method or data.partition(b" ")[0].decode("latin-1"))
