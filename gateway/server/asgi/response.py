"""A proxied request over ASGI: converts the engine's calls to messages, and messages to the upload of the engine."""

import asyncio
import contextlib
from collections.abc import Sequence
from time import monotonic
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from gateway.errors import Refusal, without_traceback
from gateway.gate.admission import Admission, RequestHead
from gateway.proxy.interfaces import Exchange, Field
from gateway.server.asgi.request import AsgiRequest, Upload
from gateway.server.asgi.uvicorn_protocol import write_response
from gateway.server.runtime import Runtime

_HELD: Final = 262144  # bytes of a response that wait for the server before reading from the upstream pauses


class UpstreamAborted(Exception):
    """The upstream failed during its response. The server must close the connection without completing the response."""


class AsgiResponse(AsgiRequest):
    """Implements Downstream for an ASGI server, and reads the request body from it."""

    _held = 0
    _paused = False
    _ended = False
    _refusal: Refusal | None = None
    _aborted: str | None = None
    _left = False
    _watched = False

    def __init__(self, runtime: Runtime, request: RequestHead, scope: Scope) -> None:
        super().__init__(runtime, request, scope)
        self._exchange: Exchange | None = None
        self._news: asyncio.Future[None] | None = None
        self._fields: Sequence[Field] | None = None  # those of a head that waits to be sent
        self._serialized: bytes | None = None
        self._length: int | None = None
        self._upload: asyncio.Task[None] | None = None
        self._upload_free: asyncio.Event | None = None  # created once the upstream has been slow
        self._pieces: list[bytes] = []

    # ---- Downstream

    def interim(self, status: int, fields: Sequence[Field]) -> None:
        """Drop interim responses, because ASGI has no message for them."""

    def head(
        self,
        status: int,
        reason: bytes,
        fields: Sequence[Field],
        length: int | None,
        serialized: bytes | None = None,
    ) -> None:
        self.status = status
        self.answered_at = monotonic()
        self._serialized, self._length = serialized, length
        assert self.admission is not None
        if self.admission.response_fields:
            fields = self.admission.response_head(fields)
            self._serialized = None
        if status in (204, 304):
            # ASGI servers count the body against the length and would wait for a body that never comes.
            fields = [field for field in fields if field[0].lower() != b"content-length"]
        self._fields = fields

    def on_event_stream(self) -> None:
        """Keep the event stream open until the caller's access ends."""
        assert self.admission is not None
        self.admission = self.admission.lasting()
        self._watched = True
        self._runtime.watch.add(self)

    def revoke(self, refusal: Refusal) -> None:
        """Abort the response when the caller's access ends."""
        self.code = refusal.code
        if self._exchange is not None and not self._ended:
            self._exchange.cancel()
            self.end()

    def upgraded(self, fields: Sequence[Field], upstream: asyncio.Transport, early: bytes) -> None:
        """Abort an upgraded connection. WebSockets pass through AsgiWebSocket on this face."""
        upstream.abort()

    def body(self, data: bytes) -> None:
        self._pieces.append(data)
        self._held += len(data)
        if self._held > _HELD and not self._paused and self._exchange is not None:
            self._paused = True
            self._exchange.pause()

    def end(self, trailers: Sequence[Field] = ()) -> None:
        self._ended = True
        self.flush()

    def abort(self, reason: str) -> None:
        self._aborted = reason
        self.flush()

    def refuse(self, refusal: Refusal) -> None:
        if self.status:
            self.abort(refusal.reason)
        else:
            self._refusal = refusal
            self.flush()

    def flush(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def pause_upload(self) -> None:
        if self._upload_free is None:
            self._upload_free = asyncio.Event()
        self._upload_free.clear()

    def resume_upload(self) -> None:
        if self._upload_free is not None:
            self._upload_free.set()

    # ---- the proxied request

    async def proxy(self, admission: Admission, receive: Receive, send: Send) -> None:
        """Send the request to the upstream, and the response to the client."""
        self.admission = admission
        refused: Refusal | None = None
        length, first = self._stated_length(), None
        try:
            if length is None and self.request.fields.transfer_encoding is None:  # HTTP/2
                first = await Upload(self._runtime.server, receive).receive()
                length = None if first.get("more_body") else len(first.get("body", b""))
            exchange = self._exchange = self._proxy.open(admission, self, length, self.started)
        except Refusal as refusal:
            refused = without_traceback(refusal)
        if refused is not None:
            await self.send_refusal(refused, send)
            return
        if length != 0:
            self._upload = self._runtime.loop.create_task(self._send_body(receive, first, length))
        else:
            self._runtime.watch_disconnect(self, receive, at_once=exchange.waiting)
        try:
            await self._respond(send)
        finally:
            self._over()

    def _stated_length(self) -> int | None:
        """Return the length of the request body, None if the head does not state it."""
        fields = self.request.fields
        if fields.content_length is not None:
            return int(fields.content_length)
        return 0 if fields.transfer_encoding is None and self.request.minor < 2 else None

    async def _respond(self, send: Send) -> None:
        while not self._left:
            if self._refusal is not None:
                await self.send_refusal(self._refusal, send)
                return
            fields, self._fields = self._fields, None
            if fields is not None:
                self.has_begun = True
                if self._ended and self._write_whole(send):
                    return
                await send({"type": "http.response.start", "status": self.status, "headers": list(fields)})
            elif not self._pieces and not self._ended and self._aborted is None:
                self._news = self._runtime.loop.create_future()
                await self._news
                continue
            body, ended = self._next_piece(), self._ended
            if body or ended or fields is not None:  # Servers send the head with the first piece, even an empty one.
                await send({"type": "http.response.body", "body": body, "more_body": not ended})
            if self._aborted is not None and not self._pieces:
                self.code = "upstream_aborted"
                # No server accepts this type. BaseHTTPMiddleware of Starlette fails too, while it completes the
                # response of an application that only raises an exception.
                with contextlib.suppress(Exception):
                    await send({"type": "http.response.abort"})
                request_id = self.request.request_id.decode()
                raise UpstreamAborted(f"request {request_id}: the upstream failed in its response")
            if ended:
                return
            self._resume()

    def _write_whole(self, send: Send) -> bool:
        """Send a complete response without messages, if the server lets the gateway do it."""
        if self._serialized is None or len(self._pieces) != 1:
            return False
        body = self._pieces[0]
        if len(body) != self._length or not write_response(send, self._serialized, body):
            return False
        self.sent = len(body)
        return True

    def _next_piece(self) -> bytes:
        """Return the part of the body that has come since the last call."""
        pieces = self._pieces
        self._pieces, self._held = [], 0
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self.request.method != b"HEAD":
            self.sent += len(body)
        return body

    def _resume(self) -> None:
        """Read further from an upstream that was faster than the client."""
        if self._paused and self._exchange is not None and not self._left:
            self._paused = False
            self._exchange.resume()

    async def _send_body(self, receive: Receive, message: Message | None, length: int | None) -> None:
        """Pass on the request body as fast as the upstream takes it, then wait for the client to disconnect."""
        assert self._exchange is not None
        upload = Upload(self._runtime.server, receive)
        while True:
            message = message or await self._next_message(upload)
            if message is None:
                return
            if message["type"] == "http.disconnect":
                self.caller_left()
                return
            body = message.get("body", b"")
            if body:
                self.received += len(body)
                self._exchange.write(body)
            if not message.get("more_body", False):
                break
            message = None
            if self._upload_free is not None:
                await self._upload_free.wait()
        if length is not None and self.received < length:
            # The server or the client lost the rest. A partial body must not look complete.
            self._exchange.cancel()
            self.refuse(Refusal("bad_request", f"{self.received} bytes of a body of {length}"))
            return
        self._exchange.end_body()
        await self.watch(receive)

    async def _next_message(self, upload: Upload) -> Message | None:
        """Return the next piece of the body. Send 408 and return None if it comes too slowly."""
        try:
            return await upload.receive()
        except Refusal as refusal:
            if self._exchange is not None:
                self._exchange.cancel()
            self.refuse(refusal)
            return None

    async def watch(self, receive: Receive) -> None:
        """Wait for the client to disconnect."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.caller_left()

    def caller_left(self) -> None:
        """Cancel the exchange, because the client has disconnected."""
        if not self._ended and not self._left:
            self._left = True
            if self._exchange is not None:
                self._exchange.cancel()
            self.flush()

    def _over(self) -> None:
        self._runtime.unwatch_disconnect(self)
        if self._watched:
            self._runtime.watch.remove(self)
        if self._upload is not None:
            # A cancelled task holds its CancelledError, whose traceback refers to this object.
            upload, self._upload = self._upload, None
            upload.cancel()
        exchange, self._exchange = self._exchange, None  # breaks a reference cycle
        if not self._ended and exchange is not None and not self._left:
            exchange.cancel()
        self.finished()
