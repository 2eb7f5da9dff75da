"""A request to a built-in endpoint, served by the ASGI application behind the gate.

It takes the place of an upstream's exchange: the connection passes it the request body, and it answers through the same
ResponseWriter.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Scope

from gateway.errors import Refusal
from gateway.gate.admission import Admission
from gateway.server.protocol.response_writer import ResponseWriter
from gateway.wire.paths import decoded_segment


def api_scope(
    admission: Admission, fields: Sequence[Sequence[bytes]], note_refusal: Callable[[Refusal], None]
) -> dict[str, Any]:
    """The ASGI scope of a request to a built-in endpoint, with the canonical path that the gate has matched.

    `note_refusal` reports a refusal by the endpoint to the server, for logs and metrics.
    """
    request, target = admission.request, admission.target
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": f"1.{request.minor}",
        "method": request.method.decode("ascii"),
        "scheme": request.peer.scheme,
        "path": _api_path(target.path),
        "raw_path": target.path,
        "query_string": target.query or b"",
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in fields],
        "client": (request.peer.address, 0) if request.peer.address else None,
        "server": None,
        "state": {},
        "gateway.admission": admission,
        "gateway.client": request.client,
        "gateway.note_refusal": note_refusal,
    }


def _api_path(path: bytes) -> str:
    """The path without a trailing slash: patterns match both forms, Starlette routes only one."""
    return decoded_segment(path).decode().rstrip("/") or "/"


_HELD: Final = 65536  # bytes of a body that wait for the application before reading from the client pauses

log: Final = logging.getLogger("gateway.server")


class AsgiBridge:
    """Implements Exchange over an ASGI application."""

    def __init__(
        self, app: ASGIApp, admission: Admission, response: ResponseWriter, fields: list[tuple[bytes, bytes]]
    ) -> None:
        self._response = response
        self._loop = response.connection.loop
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._end_delivered = False
        self._has_left = False
        self._wakeup: asyncio.Future[None] | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self._start: Message | None = None
        self._admission = admission
        scope = api_scope(admission, fields, self._note_refusal)
        self._task = self._loop.create_task(self._run(app, scope))

    # ---- Exchange

    waiting = False

    def write(self, data: bytes) -> None:
        self._pieces.append(data)
        self._held += len(data)
        if self._held > _HELD:
            self._response.pause_upload()
        self._wake()

    def end_body(self) -> None:
        self._ended = True
        self._wake()

    def cancel(self) -> None:
        """The client has left. The endpoint runs to its end, because half a registration is of no use."""
        self._has_left = True
        self._drained.set()
        self._wake()

    def pause(self) -> None:
        self._drained.clear()

    def resume(self) -> None:
        self._drained.set()

    # ---- ASGI

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except ClientDisconnect:
            pass  # The client left while its body was being read.
        except Exception:
            log.exception("an own endpoint failed")
        if not self._response.done and not self._has_left:
            refusal = Refusal("internal_error")
            self._note_refusal(refusal)
            self._response.refuse(refusal)

    def _note_refusal(self, refusal: Refusal) -> None:
        self._response.code = refusal.code
        self._response.connection.runtime.refused_by_endpoint(refusal, self._admission)

    async def _receive(self) -> Message:
        while not self._has_left and not self._response.done:
            if self._pieces or (self._ended and not self._end_delivered):
                return self._next_piece()
            self._wakeup = self._loop.create_future()
            await self._wakeup
        return {"type": "http.disconnect"}

    def _next_piece(self) -> Message:
        body = b"".join(self._pieces)
        self._pieces.clear()
        if self._held > _HELD:
            self._response.resume_upload()
        self._held = 0
        self._end_delivered = self._ended
        return {"type": "http.request", "body": body, "more_body": not self._ended}

    async def _send(self, message: Message) -> None:
        if self._has_left:
            return
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
            await self._drained.wait()

    def _send_body(self, body: bytes, *, more: bool) -> None:
        if self._start is not None:
            fields = list(self._start["headers"])
            fields.append((b"date", self._response.connection.date))
            length = next((int(value) for name, value in fields if name == b"content-length"), None)
            if self._response.connection.must_close_after_refusal():
                self._response.close_after = True
            self._response.head(self._start["status"], b"", fields, length)
            self._start = None
        self._response.body(body)
        if more:
            self._response.flush()
        else:
            self._response.end()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)
