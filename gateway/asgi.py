"""The ASGI face: the gate as pure-ASGI middleware, and the proxy behind it.

It runs under any ASGI server and decides exactly what `gateway serve` decides. What ASGI cannot carry it cannot do: no
trailers, no interim responses, and an upstream that fails in the middle of its body ends in an exception, which the
server turns into a closed connection. docs/request-flow.md lists the differences.
"""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admission import Admission, Answered, Peer, RequestHead, Waiting
from gateway.errors import Refusal
from gateway.gate import Decision
from gateway.own_scope import own_scope
from gateway.proxy.exchange import Exchange, Field
from gateway.responses import NO_STORE, problem_body, problem_fields
from gateway.runtime import Runtime, RuntimeHolder

_HELD: Final = 262144  # bytes of a response that wait for the server before the upstream is not read from any more
_CLIENT_LEFT: Final = 499  # for the log only
# The versions ASGI servers speak, and what is left of them here.
_MINORS: Final = {"1.0": 0, "1.1": 1, "2": 2, "3": 2}


class UpstreamAborted(ConnectionError):
    """The upstream failed in the middle of its response: the server must close the connection, not finish it."""


class GateMiddleware:
    """Decides on every request. Own endpoints go on to the application, all others to the proxy."""

    def __init__(self, app: ASGIApp, holder: RuntimeHolder) -> None:
        self._app = app
        self._holder = holder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif "gateway.admission" in scope:  # admitted by the other face
            await self._app(scope, receive, _never_stored(send))
        elif scope["type"] == "websocket":
            await self._decide(scope, receive, send, websocket=True)
        else:
            await self._decide(scope, receive, send, websocket=False)

    async def _decide(self, scope: Scope, receive: Receive, send: Send, *, websocket: bool) -> None:
        runtime = self._holder.runtime
        gate = runtime.gate
        request = _request_head(runtime, scope)
        request.websocket = websocket
        answer = AsgiAnswer(runtime, request)
        decision: Decision | Waiting = _unreadable(scope, request) or gate.admit(request)
        if isinstance(decision, Waiting):
            decision = await gate.conclude(decision)
        assert not isinstance(decision, Waiting)
        if isinstance(decision, Refusal):
            await answer.send_refusal(decision, send, scope)
        elif isinstance(decision, Answered):
            await answer.give(decision, send)
        elif decision.route.upstream is None:
            await self._own(decision, answer, scope, receive, send)
        else:
            await answer.proxy(decision, receive, send)

    async def _own(
        self, admission: Admission, answer: "AsgiAnswer", scope: Scope, receive: Receive, send: Send
    ) -> None:
        answer.admission = admission
        own = own_scope(admission, scope["headers"])
        own.update(app=scope.get("app"), state=scope.get("state", {}), extensions=scope.get("extensions", {}))
        await self._app(own, receive, _never_stored(answer.observed(send)))
        answer.finished()


class AsgiAnswer:
    """Implements Downstream towards an ASGI server, and reads the request body from it."""

    def __init__(self, runtime: Runtime, request: RequestHead) -> None:
        self._runtime = runtime
        self._proxy = runtime.proxy  # the one of the policy that decides: after a wait it may be another
        self._request = request
        self._started = monotonic()
        self._exchange: Exchange | None = None
        self._news: asyncio.Future[None] | None = None
        self._start: Message | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self._paused = False
        self._ended = False
        self._refusal: Refusal | None = None
        self._aborted: str | None = None
        self._left = False
        self._upload: asyncio.Task[None] | None = None
        self._upload_free = asyncio.Event()
        self._upload_free.set()
        self.admission: Admission | None = None
        self.status = 0
        self.code = ""
        self.route = ""
        self.received = 0
        self.sent = 0

    # ---- Downstream

    def interim(self, status: int, fields: Sequence[Field]) -> None:
        """ASGI has no message for an interim response."""

    def head(self, status: int, reason: bytes, fields: Sequence[Field], length: int | None) -> None:
        self.status = status
        assert self.admission is not None
        if self.admission.response_fields:
            fields = self.admission.response_head(fields)
        if status in (204, 304):
            # ASGI servers count the body against the length, and would wait for one that does not come.
            fields = [field for field in fields if field[0].lower() != b"content-length"]
        self._start = {"type": "http.response.start", "status": status, "headers": list(fields)}

    def lasts(self) -> None:
        """An event stream: it ends when its caller may not stay."""
        self._runtime.watch.add(self)

    def revoke(self, refusal: Refusal) -> None:
        """The caller may not stay."""
        self.code = refusal.code
        if self._exchange is not None and not self._ended:
            self._exchange.cancel()
            self.end()

    def upgraded(self, fields: Sequence[Field], upstream: asyncio.Transport, early: bytes) -> None:
        """Not over this face: its WebSockets go through a library on both sides."""
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
        self._upload_free.clear()

    def resume_upload(self) -> None:
        self._upload_free.set()

    # ---- the proxied request

    async def proxy(self, admission: Admission, receive: Receive, send: Send) -> None:
        """Send the request on, and the response back."""
        self.admission = admission
        try:
            length, first = await self._framing(receive)
            self._exchange = self._proxy.open(admission, self, length, self._started)
        except Refusal as refusal:
            await self.send_refusal(refusal, send)
            return
        if length != 0:
            self._upload = self._runtime.loop.create_task(self._send_body(receive, first, length))
        else:
            self._runtime.look_after(self, receive, at_once=self._exchange.waiting)
        try:
            await self._respond(send)
        finally:
            self._over()

    async def _framing(self, receive: Receive) -> tuple[int | None, Message | None]:
        """The length of the request body (None: unknown), and its first message where that had to be looked at."""
        fields = self._request.fields
        if fields.content_length is not None:
            return int(fields.content_length), None
        if fields.transfer_encoding is not None:
            return None, None
        if self._request.minor < 2:
            return 0, None
        first = await receive()
        return (None if first.get("more_body") else len(first.get("body", b""))), first

    async def _respond(self, send: Send) -> None:
        while True:
            if self._left:
                return
            if self._refusal is not None:
                await self.send_refusal(self._refusal, send)
                return
            if self._start is None and not self._pieces and not self._ended and self._aborted is None:
                self._news = self._runtime.loop.create_future()
                await self._news
                continue
            await self._send_what_came(send)
            if self._ended and not self._pieces:
                return

    async def _send_what_came(self, send: Send) -> None:
        if self._start is not None:
            start, self._start = self._start, None
            await send(start)
        pieces, ended = self._pieces, self._ended
        self._pieces, self._held = [], 0
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._request.method != b"HEAD":
            self.sent += len(body)
        if body or ended:
            await send({"type": "http.response.body", "body": body, "more_body": not ended})
        if self._aborted is not None and not self._pieces:
            self.code = "upstream_aborted"
            raise UpstreamAborted(f"request {self._request.request_id.decode()}: the upstream failed in its response")
        if self._paused and self._exchange is not None and not self._left:
            self._paused = False
            self._exchange.resume()

    async def _send_body(self, receive: Receive, message: Message | None, length: int | None) -> None:
        """Hand the request body on as fast as the upstream takes it, then wait for the caller to leave."""
        assert self._exchange is not None
        while True:
            message = message or await self._next_message(receive)
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
            await self._upload_free.wait()
        if length is not None and self.received < length:
            # The server lost the rest, or the caller did: half a body must not look like the whole.
            self._exchange.cancel()
            self.refuse(Refusal("bad_request", f"{self.received} bytes of a body of {length}"))
            return
        self._exchange.end_body()
        await self.watch(receive)

    async def _next_message(self, receive: Receive) -> Message | None:
        """The next piece of the body; None, and 408 to the caller, when it pauses too long."""
        try:
            async with asyncio.timeout(self._runtime.server.body_timeout):
                return await receive()
        except TimeoutError:
            if self._exchange is not None:
                self._exchange.cancel()
            self.refuse(Refusal("request_timeout", "the body paused", detail="The request body came too slowly"))
            return None

    async def watch(self, receive: Receive) -> None:
        """Wait for the caller to leave."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.caller_left()

    def caller_left(self) -> None:
        """Nobody waits for the answer any more."""
        if not self._ended and not self._left:
            self._left = True
            if self._exchange is not None:
                self._exchange.cancel()
            self.flush()

    def _over(self) -> None:
        self._runtime.look_away(self)
        self._runtime.watch.remove(self)
        if self._upload is not None:
            self._upload.cancel()
        if not self._ended and self._exchange is not None and not self._left:
            self._exchange.cancel()
        self.finished()

    # ---- refusals and observation

    async def send_refusal(self, refusal: Refusal, send: Send, scope: Scope | None = None) -> None:
        """Answer with problem+json; a WebSocket handshake with the same, where the server can, else with a close."""
        self.status, self.code, self.route = refusal.status, refusal.code, refusal.route or ""
        body = problem_body(refusal, self._request.request_id)
        fields = [*problem_fields(refusal, self._request.request_id), (b"content-length", b"%d" % len(body))]
        if self.admission is not None:
            fields = self.admission.response_head(fields)
        fields += self._closing()
        kind = "http.response"
        if scope is not None and scope["type"] == "websocket":
            if "websocket.http.response" not in scope.get("extensions", {}):
                await send({"type": "websocket.close", "code": 1008})
                return
            kind = "websocket.http.response"
        await send({"type": f"{kind}.start", "status": refusal.status, "headers": fields})
        await send({"type": f"{kind}.body", "body": body})
        self.sent = len(body)
        if self.admission is None:
            self.finished()

    async def give(self, answered: Answered, send: Send) -> None:
        """What the gate has answered itself."""
        self.status, self.route = answered.status, answered.route.name
        fields = [*answered.fields, *self._closing()]
        await send({"type": "http.response.start", "status": answered.status, "headers": fields})
        await send({"type": "http.response.body", "body": b""})
        self.finished()

    def _closing(self) -> list[Field]:
        """There may be a body on its way that nobody reads."""
        fields = self._request.fields
        return [(b"connection", b"close")] if fields.content_length or fields.transfer_encoding else []

    def observed(self, send: Send) -> Send:
        """`send`, with the status and the size taken down for the log."""

        async def observing(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            else:
                self.sent += len(message.get("body", b""))
            await send(message)

        return observing

    def finished(self) -> None:
        """Log and count the request."""
        admission, request = self.admission, self._request
        self._runtime.observer.completed(
            admission.route.name if admission is not None else self.route,
            request.method,
            admission.target.path if admission is not None else request.target.partition(b"?")[0],
            self.status or _CLIENT_LEFT,
            self.code,
            admission.principal.id if admission is not None and admission.principal is not None else "",
            request.request_id,
            request.client,
            monotonic() - self._started,
            self.received,
            self.sent,
        )


def _request_head(runtime: Runtime, scope: Scope) -> RequestHead:
    client = scope.get("client")
    peer = Peer(client[0] if client else "", scope["scheme"], runtime.proxies)
    raw: bytes = scope.get("raw_path") or b""
    query: bytes = scope["query_string"]
    target = b"%b?%b" % (raw, query) if raw and query else raw
    minor = _MINORS.get(scope["http_version"], 2)
    return runtime.head(scope.get("method", "GET").encode("ascii"), target, scope["headers"], peer, minor)


def _unreadable(scope: Scope, request: RequestHead) -> Refusal | None:
    """What `gateway serve` refuses while it reads the head, and servers of others may let through."""
    if scope["http_version"] not in _MINORS:
        return Refusal("bad_request", f"HTTP/{scope['http_version']}")
    if request.method == b"CONNECT":
        return Refusal("method_not_implemented", "CONNECT")
    if not request.target:
        return Refusal("bad_path", "the server gives no raw path")
    coding, length = request.fields.transfer_encoding, request.fields.content_length
    if coding is not None and (coding.lower() != b"chunked" or length is not None or request.minor == 0):
        return Refusal("bad_request", "a Transfer-Encoding other than a plain chunked in HTTP/1.1")
    if length is not None and not (length.isdigit() and len(length) <= 18):
        return Refusal("bad_request", "an odd Content-Length")
    return None


def _never_stored(send: Send) -> Send:
    """`send`, with `Cache-Control: no-store` on what does not say otherwise itself."""

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message["headers"]}
            if b"cache-control" not in names:
                message = {**message, "headers": [*message["headers"], NO_STORE]}
        await send(message)

    return guarded
