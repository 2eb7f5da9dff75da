"""WebSockets over ASGI: a relay between the ASGI server, which speaks with the client, and the upstream.

The handshake goes upstream like any other request, through the same engine and with a key of the gateway's. It follows
no redirect and adds no fields. After the upgrade, the `websockets` library frames the upstream connection without doing
I/O. ASGI carries messages, not frames: the relay passes complete messages, and each side answers its own pings.
Compression is between the server and the client; the upstream connection is not compressed.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from starlette.types import Message, Receive, Scope, Send

from gateway.errors import Refusal, without_traceback
from gateway.gate.admission import Admission, RequestHead
from gateway.proxy.interfaces import Exchange, Field
from gateway.server.asgi.request import AsgiRequest
from gateway.server.asgi.upstream_websocket import Ended, UpstreamSocket
from gateway.server.runtime import Runtime
from gateway.wire.websocket import ABNORMAL, NO_STATUS, POLICY_VIOLATION, TRY_AGAIN_LATER, field_value, handshake_answer

_LARGEST_REFUSAL: Final = 1 << 20  # bytes of an upstream's response to a handshake: ASGI servers hold it in memory
_LAST_CALL: Final = 2.0  # seconds for which a client without access can still take pending data and the Close
# Fields that the server adds to the response.
_THE_SERVERS: Final = frozenset((b"sec-websocket-accept", b"sec-websocket-protocol", b"sec-websocket-extensions"))


class AsgiWebSocket(AsgiRequest):
    """One WebSocket. Implements Downstream for the handshake, and Lasting afterwards."""

    def __init__(self, runtime: Runtime, request: RequestHead, scope: Scope) -> None:
        super().__init__(runtime, request, scope)
        self._exchange: Exchange | None = None
        self._upstream: UpstreamSocket | None = None
        self._answer: list[Field] = []
        self._body: list[bytes] = []
        self._refusal: Refusal | None = None
        self._completed = False
        self._answered = asyncio.Event()
        self._joined = asyncio.Event()
        self._caller_left = False
        self._farewell: Ended | None = None
        self._limit = asyncio.Timeout(None)

    async def proxy(self, admission: Admission, receive: Receive, send: Send) -> None:
        """Perform the handshake with the upstream, then relay until the client, the upstream or the gateway ends it."""
        self.admission = admission
        await receive()  # ASGI sends websocket.connect first
        try:
            self._exchange = self._proxy.open(admission, self, 0, self.started)
        except Refusal as refusal:
            self.refuse(without_traceback(refusal))
        reading = self._runtime.loop.create_task(self._read_caller(receive))
        try:
            await self._answered.wait()
            if not self._caller_left:
                await self._join(send)
        finally:
            self._end(reading)
        await asyncio.wait((reading,))
        if not reading.cancelled() and (error := reading.exception()) is not None:
            raise error

    async def _join(self, send: Send) -> None:
        if self._upstream is None:
            await self._refuse(send)
            return
        await self._accept(send)
        self._runtime.watch.add(self)
        self._joined.set()
        with contextlib.suppress(OSError, TimeoutError):  # the client has disconnected, or does not take the Close
            async with self._limit:
                await self._write_caller(send, self._upstream)

    def _end(self, reading: "asyncio.Task[None]") -> None:
        self._runtime.watch.remove(self)
        if self._upstream is not None:
            self._upstream.leave(Ended(NO_STATUS))
        exchange, self._exchange = self._exchange, None  # breaks a reference cycle
        if exchange is not None and not self._completed:
            exchange.cancel()
        self.finished()
        reading.cancel()

    # ---- Downstream: the response to the handshake

    def interim(self, status: int, fields: Sequence[Field]) -> None:
        """Drop interim responses, because ASGI has no message for them."""

    def upgraded(self, fields: Sequence[Field], upstream: asyncio.Transport, early: bytes) -> None:
        self._answer = handshake_answer(fields, self.request.fields.kept)
        self._upstream = UpstreamSocket(self._runtime.loop, upstream, early, self._runtime.upstream_sockets)
        self._complete()

    def head(
        self,
        status: int,
        reason: bytes,
        fields: Sequence[Field],
        length: int | None,
        serialized: bytes | None = None,
    ) -> None:
        """Collect the response of an upstream that refuses the WebSocket. ASGI servers send it in one piece."""
        self.status = status
        self.answered_at = monotonic()
        self._answer = [field for field in fields if field[0].lower() != b"content-length"]

    def on_event_stream(self) -> None:
        """Refuse an event stream, which would be collected without end."""
        self._give_up("an event stream in answer to a WebSocket handshake")

    def body(self, data: bytes) -> None:
        self._body.append(data)
        if sum(map(len, self._body)) > _LARGEST_REFUSAL:
            self._give_up(f"more than {_LARGEST_REFUSAL} bytes in answer to a WebSocket handshake")

    def end(self, trailers: Sequence[Field] = ()) -> None:
        self._complete()

    def abort(self, reason: str) -> None:
        self.refuse(Refusal("upstream_invalid", reason))

    def refuse(self, refusal: Refusal) -> None:
        self._refusal = refusal
        self._complete()

    def flush(self) -> None:
        """Do nothing, because the response is collected."""

    def pause_upload(self) -> None:
        """Do nothing, because a handshake has no body."""

    def resume_upload(self) -> None:
        """Do nothing, because a handshake has no body."""

    def _complete(self) -> None:
        """Note that the upstream has answered or failed."""
        self._completed = True
        self._answered.set()

    def _give_up(self, reason: str) -> None:
        assert self._exchange is not None
        self._exchange.cancel()
        self.refuse(Refusal("upstream_invalid", reason))

    async def _refuse(self, send: Send) -> None:
        if self._refusal is not None:
            self.status = 0
            await self.send_refusal(self._refusal, send)
            return
        await self.send_answer(self.status, self._answer, b"".join(self._body), send)

    async def _accept(self, send: Send) -> None:
        self.status = 101
        self.answered_at = monotonic()
        assert self.admission is not None
        fields = self.admission.response_head(self._answer)
        self.admission = self.admission.lasting()
        chosen = field_value(fields, b"sec-websocket-protocol")
        await send(
            {
                "type": "websocket.accept",
                "subprotocol": chosen.decode("latin-1") if chosen else None,
                "headers": [(name.lower(), value) for name, value in fields if name.lower() not in _THE_SERVERS],
            }
        )

    # ---- the two directions

    async def _read_caller(self, receive: Receive) -> None:
        """Relay from the client to the upstream until the client leaves."""
        gone = Ended(NO_STATUS)
        try:
            while (message := await receive())["type"] == "websocket.receive":
                await self._joined.wait()
                await self._pass_on(message)
            gone = Ended(message.get("code", NO_STATUS), message.get("reason") or "")
        finally:
            self._caller_left = True
            self._answered.set()
            if self._upstream is not None:
                self._upstream.leave(gone)

    async def _pass_on(self, message: Message) -> None:
        assert self._upstream is not None
        text = message.get("text")
        data = text.encode() if text is not None else message.get("bytes") or b""
        self.received += len(data)
        await self._upstream.send(data, is_text=text is not None)

    async def _write_caller(self, send: Send, upstream: UpstreamSocket) -> None:
        """Relay from the upstream to the client until one of them leaves or the caller's access ends."""
        while self._farewell is None and not self._caller_left:
            data = upstream.take()
            if data is not None:
                self.sent += len(data)
                await send({"type": "websocket.send", "text" if isinstance(data, str) else "bytes": data})
            elif upstream.ended is not None:
                self._farewell = upstream.ended
            else:
                await upstream.news()
        if self._farewell is not None and self._farewell.code != ABNORMAL and not self._caller_left:
            await send(_close_message(self._farewell))

    # ---- Lasting

    def revoke(self, refusal: Refusal) -> None:
        """Close both sides because the caller's access ends. Drop data that the client does not take in time."""
        self.code = refusal.code
        self._farewell = Ended(TRY_AGAIN_LATER if refusal.status == 503 else POLICY_VIOLATION, refusal.code)
        if self._upstream is not None:
            self._upstream.leave(self._farewell)
            with contextlib.suppress(RuntimeError):  # the connection has ended already
                self._limit.reschedule(self._runtime.loop.time() + _LAST_CALL)


def _close_message(ended: Ended) -> dict[str, Any]:
    """Build the close message. ASGI requires a code: 1000 stands for a Close without a code, which servers treat
    alike."""
    code = 1000 if ended.code == NO_STATUS else ended.code
    return {"type": "websocket.close", "code": code, "reason": ended.reason}
