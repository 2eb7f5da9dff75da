"""The ASGI application: the gate, with the proxy and the built-in endpoints behind it.

It runs under any ASGI server and makes the same decisions as `gateway serve`. ASGI carries no trailers and no interim
responses. If an upstream fails during its body, the application raises an exception and the server closes the
connection. docs/request-flow.md lists the differences.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import CannotStart, GatewayError, Refusal
from gateway.gate.admission import Admission, DirectResponse, PendingDecision, RequestHead
from gateway.gate.forward_auth import Verdict
from gateway.gate.gate import Decision
from gateway.observability.events import event
from gateway.policy.builtin_routes import VERIFY
from gateway.policy.loader import Configuration
from gateway.server.asgi.request import AsgiRequest, Upload, announces_body, request_head, unreadable, with_body
from gateway.server.asgi.response import AsgiResponse
from gateway.server.asgi.uvicorn_protocol import drop_trailers
from gateway.server.composition import running
from gateway.server.garbage import Collector
from gateway.server.protocol.asgi_bridge import api_scope
from gateway.server.runtime import Runtime
from gateway.wire.fields import Field
from gateway.wire.problem import problem_body, problem_fields

if TYPE_CHECKING:
    from gateway.server.asgi.websocket import AsgiWebSocket

log: Final = logging.getLogger("gateway.asgi")

_NO_LIFESPAN: Final = (
    "the lifespan of the application has not run, so no request is answered: "
    "run the ASGI server with its lifespan (uvicorn --lifespan on); an application that mounts the gateway "
    "enters gateway.router.lifespan_context(gateway) in its own lifespan"
)


class AsgiApp(Starlette):
    """The gateway for ASGI servers.

    Starlette runs the lifespan, and the middleware that an embedding program adds. Requests do not reach its router.

    runtime: None until the lifespan has started.
    startup_error: the reason of a failed start.
    owns_process: nothing else runs in this process, so the gateway can control garbage collection.
    """

    def __init__(self, configuration: Configuration, *, owns_process: bool = False) -> None:
        super().__init__(
            lifespan=_lifespan,
            middleware=[Middleware(GateMiddleware, gateway=self)],
            exception_handlers={Exception: _failed},
        )
        self.configuration = configuration
        self.owns_process = owns_process
        self.runtime: Runtime | None = None
        self.startup_error: GatewayError | None = None


@asynccontextmanager
async def _lifespan(app: AsgiApp) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        runtime = app.runtime = await _start(app, stack)
        if app.owns_process:
            collector = Collector(lambda: runtime.is_proxying, runtime.request_ids.count)
            collector.collect_and_freeze(runtime.loop.time())
            runtime.ticker.subscribe(collector.tick)
        runtime.readiness.phase = "serving"
        yield
        runtime.readiness.phase = "draining"
        # An event loop that stops at once would leave them open.
        await asyncio.gather(*(socket.shut_down() for socket in runtime.upstream_sockets))


async def _start(app: AsgiApp, stack: AsyncExitStack) -> Runtime:
    try:
        _require_asyncio()
        runtime, _ = await stack.enter_async_context(running(app.configuration))
    except GatewayError as error:
        app.startup_error = error
        raise
    return runtime


def _require_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise CannotStart("the gateway runs on asyncio, not on trio (hypercorn --worker-class asyncio)") from None


class GateMiddleware:
    """Decides on every request. Passes requests for built-in endpoints to the API, and all others to the proxy.

    `app` serves the lifespan only.
    """

    def __init__(self, app: ASGIApp, gateway: AsgiApp) -> None:
        self._app = app
        self._gateway = gateway
        self._has_reported = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = self._gateway.runtime
        if scope["type"] == "lifespan":
            await self._run_lifespan(scope, receive, send)
        elif runtime is None:
            await self._refuse(scope, send)
        else:
            try:
                await _decide(_runtime_of_port(runtime, scope), scope, receive, send)
            except RuntimeError as error:
                # uvloop raises it for a write to a closed connection. uvicorn passes it on, and does not report the
                # disconnect if a pipelined request has begun.
                if not _is_raised_by_uvloop(error):
                    raise

    async def _run_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the lifespan. Starlette reports a failed start with a traceback, this method with the message of the
        error."""
        gateway = self._gateway

        async def reporting(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and gateway.startup_error is not None:
                message = {**message, "message": str(gateway.startup_error)}
            await send(message)

        drop_trailers(receive, gateway.configuration.settings.server.max_header_size)
        try:
            await self._app(scope, receive, reporting)
        except GatewayError:
            if gateway.startup_error is None:
                raise

    async def _refuse(self, scope: Scope, send: Send) -> None:
        """Answer 500 because of the missing lifespan, and log the reason once."""
        if not self._has_reported:
            self._has_reported = True
            event("start", _NO_LIFESPAN)
        answers_by = "http.response"
        if scope["type"] == "websocket":
            answers_by = "websocket.http.response"
            if answers_by not in (scope.get("extensions") or {}):
                await send({"type": "websocket.close", "code": 1011})
                return
        status, fields, body = _internal_error("no lifespan")
        await send({"type": f"{answers_by}.start", "status": status, "headers": fields})
        await send({"type": f"{answers_by}.body", "body": body})


async def _failed(request: Request, error: Exception) -> Response:
    """The response to a defect of the gateway. Starlette raises the exception again, and the server logs it."""
    status, fields, body = _internal_error(type(error).__name__)
    response = Response(body, status)
    response.raw_headers = fields
    return response


def _internal_error(reason: str) -> tuple[int, list[Field], bytes]:
    """Status, fields and body."""
    refusal = Refusal("internal_error", reason)
    body = problem_body(refusal, b"-")
    return refusal.status, [*problem_fields(refusal, b"-"), (b"content-length", b"%d" % len(body))], body


def _is_raised_by_uvloop(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("uvloop.")


async def _decide(runtime: Runtime, scope: Scope, receive: Receive, send: Send) -> None:
    gate = runtime.gate
    request = request_head(runtime, scope)
    answer = _answer_to(runtime, request, scope)
    tracer = runtime.tracer
    admit = gate.admit if tracer is None else partial(tracer.decide, gate.admit)
    unread = unreadable(scope, request, receive)
    if unread is None and request.fields.upgrade is not None and announces_body(request):
        try:
            receive = await with_body(runtime, receive)
        except Refusal as refusal:
            unread = refusal
    decision: Decision | PendingDecision = unread or admit(request)
    if isinstance(decision, PendingDecision):
        resolving = gate.resolve(decision)
        decision = await (resolving if request.trace is None else request.trace.look_up(resolving))
    if isinstance(decision, Refusal):
        await answer.send_refusal(decision, send)
    elif isinstance(decision, DirectResponse):
        await answer.send_direct(decision, send)
    elif decision.route.upstream is not None:
        await answer.proxy(decision, receive, send)
    elif decision.route.endpoint == VERIFY:
        await answer.send_verdict(await _verdict(runtime, decision), send)
    else:
        await _call_api(runtime, decision, answer, scope, receive, send)


async def _call_api(
    runtime: Runtime, admission: Admission, answer: AsgiRequest, scope: Scope, receive: Receive, send: Send
) -> None:
    answer.admission = admission

    def note_refusal(refusal: Refusal) -> None:
        answer.code = refusal.code
        runtime.refused_by_endpoint(refusal, admission)

    inner = api_scope(admission, scope.get("headers") or [], note_refusal)
    inner.update({"state": scope.get("state") or {}, "extensions": scope.get("extensions") or {}})
    upload = Upload(runtime.server, receive)
    observed = _ObservedSend(send, answer, upload)
    try:
        await runtime.api(inner, upload.receive, observed)
    except Exception:
        if not observed.is_complete:
            raise
        log.exception("an own endpoint failed")  # The API has sent a response.
    finally:
        answer.finished()


def _runtime_of_port(runtime: Runtime, scope: Scope) -> Runtime:
    """Return the runtime for the port of the request. Operations with a port of their own need a server that listens
    there too."""
    if runtime.operations is None:
        return runtime
    server = scope.get("server")
    is_operational = server is not None and server[1] == runtime.server.operations_port
    return runtime.operations if is_operational else runtime


async def _verdict(runtime: Runtime, question: Admission) -> Verdict:
    gate = runtime.public_gate
    verdict = runtime.verifier.ask(gate, question)
    if isinstance(verdict, PendingDecision):
        verdict = await runtime.verifier.resolve(gate, question, verdict)
    return verdict


def _answer_to(runtime: Runtime, request: RequestHead, scope: Scope) -> "AsgiResponse | AsgiWebSocket":
    if not request.websocket:
        return AsgiResponse(runtime, request, scope)
    from gateway.server.asgi.websocket import AsgiWebSocket  # imports websockets, which `gateway serve` does not need

    return AsgiWebSocket(runtime, request, scope)


class _ObservedSend:
    """Notes status and size for the log, and adds the fields of the admission. Closes the connection after an aborted
    upload."""

    def __init__(self, send: Send, answer: AsgiRequest, upload: Upload) -> None:
        self._send = send
        self._answer = answer
        self._upload = upload
        self.is_complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._answer.status = message["status"]
            admission = self._answer.admission
            if admission is not None and admission.response_fields:
                message = {**message, "headers": admission.response_head(message["headers"])}
            if self._upload.broken_off and self._answer.request.minor < 2:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        else:
            self._answer.sent += len(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)
        await self._send(message)
