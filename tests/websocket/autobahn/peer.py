"""The runner interface for cases of the Autobahn Testsuite: one client connection to an echo server.

The names are the suite's. It sends invalid frames without checks, as the cases require.
"""

import asyncio
import base64
import os
import zlib
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from tests.support.raw import Address
from tests.support.websockets import CLOSE, CONT, PING, PONG, Decoder, Frame, encode, handshake, head_of, unmask
from tests.websocket.autobahn.cases import CLOSED, CLOSING, CONNECTING, OPEN, Octets, Response

# The suite's limits are for idle machines. They only end cases that would not end by themselves.
_PATIENCE: Final = 15
_CLOSE_TIMEOUT: Final = 1.0


class Verdict(NamedTuple):
    """The result of a case: its behaviour, and the end of the connection."""

    behavior: str
    close: str
    why: str


async def run(case: type, address: Address, target: str, *fields: str) -> Verdict:
    """Run one case against the echo server at this address."""
    loop = asyncio.get_running_loop()
    peer = Peer(case, target, fields)
    await loop.create_connection(lambda: peer, *address)
    await peer.over
    judged = peer.case
    return Verdict(judged.behavior, judged.behaviorClose, f"{judged.result} {judged.resultClose}")


class Peer(asyncio.Protocol):
    """The client of one connection that runs one case."""

    CLOSE_STATUS_CODE_NORMAL = 1000
    CLOSE_STATUS_CODE_PROTOCOL_ERROR = 1002
    CLOSE_STATUS_CODE_INVALID_PAYLOAD = 1007
    factory = SimpleNamespace(isServer=False)

    def __init__(self, case: type, target: str, fields: tuple[str, ...]) -> None:
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self._loop.create_future()
        self._target, self._fields = target, fields
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._decoder = Decoder()
        self._message: list[Frame] = []
        self._begun: tuple[int, bytes] = (CONT, b"")
        self._sent_of_frame = 0
        self.state = CONNECTING
        self.connectionWasOpen = self.closedByMe = self.failedByMe = self.droppedByMe = self.wasClean = False
        self.localCloseReason: str | None = None
        self.remoteCloseCode: int | None = None
        self.remoteCloseReason: str | None = None
        self.createWirelog = False
        self.trafficStats = None
        self.txFrameStats: Counter[int] = Counter()
        self.autoFragmentSize = 0
        self.perMessageCompressionOffers: list[Any] = []
        self.perMessageCompressionAccept: Callable[[Response], Any] = lambda response: None
        self._perMessageCompress: _Deflate | None = None
        self.case: Any = case(self)

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        offers = ", ".join(map(str, self.perMessageCompressionOffers))
        extensions = [f"Sec-WebSocket-Extensions: {offers}"] if offers else []
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(handshake(self._target, *self._fields, *extensions, key=key))

    def data_received(self, data: bytes) -> None:
        if self.state == CONNECTING:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self.dropConnection()
                return
            self._open(head)
        for frame in self._decoder.feed(data):
            if self.state != CLOSED:
                self._take(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        self.case.onClose(self.wasClean, self.remoteCloseCode, self.remoteCloseReason)
        self.case.onConnectionLost(self.failedByMe)
        self.over.set_result(None)

    # ---- received data

    def _open(self, head: bytes) -> None:
        self.state = OPEN
        self.connectionWasOpen = True
        for line in head.decode("latin-1").split("\r\n"):
            name, _, value = line.partition(":")
            if name.lower() == "sec-websocket-extensions" and self.perMessageCompressionAccept(Response()):
                self._perMessageCompress = _Deflate(value)
        self.case.onOpen()

    def _take(self, frame: Frame) -> None:
        if frame.masked or frame.rsv & 3 or frame.opcode not in (0, 1, 2, CLOSE, PING, PONG):
            self._fail()
        elif frame.opcode == CLOSE:
            self._take_close(frame)
        elif frame.opcode == PING:
            self.sendFrame(PONG, _octets(frame.payload))
        elif frame.opcode == PONG:
            self.case.onPong(_octets(frame.payload))
        else:
            self._message.append(frame)
            if frame.fin:
                self._take_message()

    def _take_message(self) -> None:
        frames, self._message = self._message, []
        payload = b"".join(frame.payload for frame in frames)
        try:
            if frames[0].rsv:
                payload = self._inflated(payload)
            if frames[0].opcode == 1:
                payload.decode()
        except ValueError:
            self._fail()
        else:
            self.case.onMessage(_octets(payload), frames[0].opcode == 2)

    def _inflated(self, payload: bytes) -> bytes:
        if self._perMessageCompress is None:
            raise ValueError("compressed, which was not agreed on")
        return self._perMessageCompress.inflate(payload)

    def _take_close(self, frame: Frame) -> None:
        self.remoteCloseCode, self.remoteCloseReason = frame.closing
        self.wasClean = True
        if self.state == OPEN:
            self._close(self.CLOSE_STATUS_CODE_NORMAL, "", mine=False)
        # RFC 6455 7.1.1: now the server closes the connection.
        self._later(_CLOSE_TIMEOUT * _PATIENCE, self._was_not_closed)

    def _was_not_closed(self) -> None:
        self.wasClean = False
        self.dropConnection()

    # ---- sent data

    def sendFrame(
        self,
        opcode: int,
        payload: str = "",
        fin: bool = True,
        rsv: int = 0,
        mask: None = None,
        payload_len: int | None = None,
        chopsize: int | None = None,
        sync: bool = False,
    ) -> None:
        """Send any frame at any time; `payload` is repeated to `payload_len`, and written in pieces of `chopsize`."""
        octets = payload.encode("latin-1")
        if payload_len is not None:
            octets = (octets * (payload_len // len(octets) + 1))[:payload_len]
        self._write_frame(Frame(opcode, octets, fin, rsv), chopsize)

    def sendMessage(
        self, payload: str | bytes, isBinary: bool = False, fragmentSize: int | None = None, sync: bool = False
    ) -> None:
        octets = payload if isinstance(payload, bytes) else payload.encode("latin-1")
        rsv = 0
        if self._perMessageCompress is not None:
            octets, rsv = self._perMessageCompress.deflate(octets), 4
        size = fragmentSize or self.autoFragmentSize or len(octets) or 1
        for at in range(0, max(len(octets), 1), size):
            opcode = (2 if isBinary else 1) if at == 0 else CONT
            self._write_frame(Frame(opcode, octets[at : at + size], at + size >= len(octets), rsv if at == 0 else 0))

    def beginMessage(self, isBinary: bool = False) -> None:
        self._begun = (2 if isBinary else 1), b""

    def beginMessageFrame(self, length: int) -> None:
        mask = os.urandom(4)
        self._write(head_of(length, Frame(self._begun[0], fin=False), masked=True) + mask)
        self._begun, self._sent_of_frame = (CONT, mask), 0

    def sendMessageFrameData(self, payload: str, sync: bool = False) -> None:
        octets, mask, at = payload.encode("latin-1"), self._begun[1], self._sent_of_frame % 4
        self._sent_of_frame += len(octets)
        self._write(unmask(octets, mask[at:] + mask[:at]))

    def endMessage(self) -> None:
        self.sendFrame(CONT)

    def sendClose(self, code: int | None = None, reason: str | None = None) -> None:
        """Begin the closing handshake, unless it has begun."""
        if self.state == OPEN:
            self._close(code, reason or "", mine=True)

    def sendCloseFrame(self, code: int | None = None, reasonUtf8: str | None = None, isReply: bool = False) -> None:
        if self.state == OPEN:
            self._close(code, reasonUtf8 or "", mine=not isReply)

    def _close(self, code: int | None, reason: str, *, mine: bool) -> None:
        payload = b"" if code is None else code.to_bytes(2, "big") + reason.encode("latin-1")
        self._write_frame(Frame(CLOSE, payload))
        self.state = CLOSING
        self.closedByMe = mine
        self.localCloseReason = reason
        if mine:
            self._later(_CLOSE_TIMEOUT * _PATIENCE, self._was_not_answered)

    def _was_not_answered(self) -> None:
        if not self.wasClean:
            self.dropConnection()

    def _write_frame(self, frame: Frame, chopsize: int | None = None) -> None:
        self.txFrameStats[frame.opcode] += 1
        data = encode(frame, masked=True)
        for at in range(0, len(data), chopsize or len(data)):
            self._write(data[at : at + (chopsize or len(data))])

    def _write(self, data: bytes) -> None:
        if self.state != CLOSED and self._transport is not None:
            self._transport.write(data)

    # ---- time

    def continueLater(self, delay: float, continue_: Callable[[], None], tag: str | None = None) -> None:
        """A pause that belongs to the case: it is not extended."""
        self._later(delay, continue_)

    def closeAfter(self, delay: float) -> None:
        self._later(delay * _PATIENCE, self.sendClose)

    def killAfter(self, delay: float) -> None:
        self._later(delay * _PATIENCE, self._fail)

    def _fail(self) -> None:
        """RFC 6455 7.1.7."""
        self.failedByMe = True
        self.dropConnection()

    def _later(self, delay: float, then: Callable[[], None]) -> None:
        self._loop.call_later(delay, lambda: then() if self.state != CLOSED else None)

    def dropConnection(self) -> None:
        self.droppedByMe = True
        self.state = CLOSED
        assert self._transport is not None
        self._transport.abort()

    def enableWirelog(self, enable: bool) -> None:
        """Not implemented."""


class _Deflate:
    """permessage-deflate as accepted by the server (RFC 7692 7.2)."""

    def __init__(self, accepted: str) -> None:
        words = dict(word.strip().partition("=")[::2] for word in accepted.split(";"))
        self._bits = int(words.get("client_max_window_bits") or 15)
        self._forgets = "client_no_context_takeover" in words
        self._is_forgotten = "server_no_context_takeover" in words
        self._deflate = zlib.compressobj(wbits=-self._bits)
        self._inflate = zlib.decompressobj(wbits=-15)

    def deflate(self, data: bytes) -> bytes:
        if self._forgets:
            self._deflate = zlib.compressobj(wbits=-self._bits)
        return (self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")

    def inflate(self, data: bytes) -> bytes:
        if self._is_forgotten:
            self._inflate = zlib.decompressobj(wbits=-15)
        return self._inflate.decompress(data + b"\x00\x00\xff\xff")


def _octets(data: bytes) -> Octets:
    return Octets(data.decode("latin-1"))
