"""The parts that requests and WebSocket handshakes share over ASGI: reading, refusing and observing them."""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.types import Message, Receive, Scope, Send

from gateway.errors import Caller, Refusal, RefusedCredential
from gateway.gate.admission import Admission, DirectResponse, RequestHead
from gateway.gate.forward_auth import Verdict
from gateway.proxy.interfaces import Field
from gateway.proxy.slow_peers import UploadRate
from gateway.server.asgi.uvicorn_protocol import merges_trailers
from gateway.server.runtime import Runtime
from gateway.settings.model import ServerSettings
from gateway.wire.problem import problem_body, problem_fields
from gateway.wire.websocket import new_key


class Upload:
    """Reads the messages of one request. `broken_off` is True if the client was too slow.

    The time between two calls of `receive` does not count, because the reader is slow then and not the client.
    """

    def __init__(self, server: ServerSettings, receive: Receive) -> None:
        self._server = server
        self._receive = receive
        self._rate: UploadRate | None = None
        self._received = 0
        self._complete = False
        self.broken_off = False

    async def receive(self) -> Message:
        """Return the next message. Raises Refusal `request_timeout`."""
        if self._complete:
            return await self._receive()
        begun = monotonic()
        try:
            async with asyncio.timeout(self._server.body_timeout):
                message = await self._receive()
        except TimeoutError:
            raise self._break_off("the body paused too long") from None
        self._complete = not message.get("more_body", False)
        self._received += len(message.get("body", b""))
        if not self._complete and self._server.min_body_rate and self._too_slow(begun):
            raise self._break_off("the body came too slowly")
        return message

    def _too_slow(self, begun: float) -> bool:
        if self._rate is None:
            self._rate = UploadRate(self._server.min_body_rate, self._server.body_timeout, begun)
        self._rate.too_slow(begun, self._received, held_back=True)
        return self._rate.too_slow(monotonic(), self._received)

    def _break_off(self, reason: str) -> Refusal:
        self.broken_off = True
        return Refusal("request_timeout", reason, detail="The request body came too slowly")


# The HTTP versions of ASGI servers, and the minor version of HTTP/1 that the gate sees.
_MINORS: Final = {"1.0": 0, "1": 0, "1.1": 1, "2": 2, "3": 2}  # "1" from granian
# Fields of a handshake that concern the client and the server. The server answers them.
_THE_SERVERS: Final = frozenset((b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"))


class AsgiRequest:
    """One request: its head, its outcome, and a way to send a complete response.

    `received` and `sent` count the bytes of bodies or messages. `has_begun` is true once a response has begun.
    """

    has_begun = False
    forwarded_at = 0.0
    answered_at = 0.0
    status = 0
    code = ""
    route = ""
    received = 0
    sent = 0

    def __init__(self, runtime: Runtime, request: RequestHead, scope: Scope) -> None:
        self.admission: Admission | None = None
        self.refused: Caller | None = None
        self.refused_credential: RefusedCredential | None = None
        self._runtime = runtime
        self._proxy = runtime.proxy  # the proxy of the deciding policy; a reload during a wait can replace it
        self.request = request
        self.started = monotonic()
        self._answers_by = _answers_by(scope)

    @property
    def client(self) -> str:
        """The address of the client."""
        return self.request.client

    async def send_refusal(self, refusal: Refusal, send: Send) -> None:
        """Answer with problem+json, or with a page."""
        if refusal.route is None and self.admission is not None:  # a failed upstream
            refusal.route = self.admission.route.name
        self.code, self.route = refusal.code, refusal.route or ""
        self.refused, self.refused_credential = refusal.caller, refusal.credential
        if refusal.route not in self._runtime.refusals.full:
            self._runtime.refusals.note(refusal, self.request)
        page = self._runtime.page_of(refusal, self.request)
        request_id = self.request.request_id
        fields, body = page or (problem_fields(refusal, request_id), problem_body(refusal, request_id))
        await self.send_answer(refusal.status, fields, body, send)
        if self.admission is None:
            self.finished()

    async def send_direct(self, answered: DirectResponse, send: Send) -> None:
        """Send a response of the gate itself."""
        self.route = answered.route.name
        await self.send_answer(answered.status, answered.fields, b"", send)
        self.finished()

    async def send_verdict(self, verdict: Verdict, send: Send) -> None:
        """Answer a question of a proxy in front of the gateway."""
        self.admission, outcome = verdict.admission, verdict.outcome
        if isinstance(outcome, Refusal):
            await self.send_refusal(outcome, send)
            self.finished()
        else:
            await self.send_direct(outcome, send)

    async def send_answer(self, status: int, fields: Sequence[Field], body: bytes, send: Send) -> None:
        """Send a complete response. A server that cannot answer a handshake this way sends 403."""
        fields = [*fields, *self._framing_of(status, body)]
        if self.request.method == b"HEAD":
            body = b""  # granian would send it over HTTP/2
        self.status, self.sent = status, len(body)
        self.answered_at = self.answered_at or monotonic()
        if self.admission is not None:
            fields = self.admission.response_head(fields)
        if self._answers_by is None:
            await send({"type": "websocket.close", "code": 1008})
            return
        self.has_begun = True
        await send({"type": f"{self._answers_by}.start", "status": status, "headers": fields})
        await send({"type": f"{self._answers_by}.body", "body": body})

    def _framing_of(self, status: int, body: bytes) -> list[Field]:
        fields = [] if status == 204 else [(b"content-length", b"%d" % len(body))]
        if self.request.minor < 2 and (self.request.fields.content_length or self.request.fields.transfer_encoding):
            fields.append((b"connection", b"close"))  # part of a request body can be on its way, and nothing reads it
        return fields

    def finished(self) -> None:
        """Log and count the request."""
        self._runtime.observer.completed(self)


def _answers_by(scope: Scope) -> str | None:
    if scope["type"] == "http":
        return "http.response"
    extension = "websocket.http.response"
    return extension if extension in (scope.get("extensions") or {}) else None


def request_head(runtime: Runtime, scope: Scope) -> RequestHead:
    """Build the request head for the gate. For a handshake, which the server has consumed, build an equivalent head."""
    client = scope.get("client")
    peer = runtime.peers.of(client[0] if client else "", scope.get("scheme") or "http")
    raw: bytes = scope.get("raw_path") or b""
    if scope.get("root_path"):
        raw = below_root(raw, scope["path"], scope["root_path"])
    query: bytes = scope.get("query_string") or b""
    headers: Sequence[Sequence[bytes]] = scope.get("headers") or ()
    target = b"%b?%b" % (raw, query) if raw and query else raw
    minor = _MINORS.get(scope.get("http_version") or "1.1", 2)
    if scope["type"] == "http":
        return runtime.head(scope["method"].encode("ascii"), target, runtime.header_rules.sort(headers), peer, minor)
    fields = [field for field in headers if field[0].lower() not in _THE_SERVERS]
    fields += ((b"Sec-WebSocket-Version", b"13"), (b"Sec-WebSocket-Key", new_key()))
    request = runtime.head(b"GET", target, runtime.header_rules.sort(fields), peer, minor)
    request.websocket = True
    return request


def below_root(raw: bytes, path: str, root: str) -> bytes:
    """Return the raw path below `root_path`, where the application is mounted; b"" if the two contradict each other.

    `path` includes `root_path` (ASGI; uvicorn and Starlette join the two). Some servers pass the path without it, and
    it is used unchanged. The mounting application routes by the decoded path: `/a%2Fb/x` is below `/a/b` there, but not
    in the raw path, which the gate reads. Refuse such a path.
    """
    root = root.rstrip("/")
    if not root or not (path == root or path.startswith(f"{root}/")):
        return raw
    depth = root.count("/") + 1
    prefix = b"/".join(raw.split(b"/", depth)[:depth])
    if unquote_to_bytes(prefix) != root.encode("utf-8", "surrogateescape"):
        return b""
    return raw[len(prefix) :] or b"/"


def unreadable(scope: Scope, request: RequestHead, receive: Receive) -> Refusal | None:
    """Return the refusal of a head that `gateway serve` refuses while it reads and that other servers can let
    through."""
    version = scope.get("http_version") or "1.1"
    if version not in _MINORS:
        return Refusal("bad_request", f"HTTP/{version}")
    if request.method == b"CONNECT":
        return Refusal("method_not_implemented", "CONNECT")
    if not request.target:
        return Refusal("bad_path", "the server gives no raw path, or one that is not below root_path")
    coding, length = request.fields.transfer_encoding, request.fields.content_length
    if coding is not None and (coding.lower() != b"chunked" or length is not None or request.minor == 0):
        return Refusal("bad_request", "a Transfer-Encoding other than a plain chunked in HTTP/1.1")
    if length is not None and not (length.isdigit() and len(length) <= 18):
        return Refusal("bad_request", "an odd Content-Length")
    if request.websocket and announces_body(request):
        return Refusal("bad_request", "a WebSocket handshake with a body")
    if coding is not None and merges_trailers(scope, receive):
        return Refusal("bad_request", "a chunked request under a server that merges trailers: use uvicorn --http h11")
    return None


def announces_body(request: RequestHead) -> bool:
    """Return whether the head announces a body that is not empty. Its framing is valid."""
    fields = request.fields
    return fields.transfer_encoding is not None or int(fields.content_length or 0) > 0


async def with_body(runtime: Runtime, receive: Receive) -> Receive:
    """Wrap `receive` of a request with a body and Upgrade, after the server has delivered the body.

    uvicorn with httptools delivers an empty body for such a request and reads the body as the next request. The refusal
    closes the connection, so that no second response follows. Raises Refusal.
    """
    first = await Upload(runtime.server, receive).receive()
    if first["type"] == "http.request" and not first.get("body") and not first.get("more_body"):
        raise Refusal("bad_request", "the server lost the body of a request with Upgrade")
    messages = [first]

    async def replaying() -> Message:
        return messages.pop() if messages else await receive()

    return replaying
