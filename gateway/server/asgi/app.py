"""The ASGI application: the gate, with the proxy and the built-in endpoints behind it.

It runs under any ASGI server and makes the same decisions as `gateway serve`. ASGI carries no trailers and no interim
responses. If an upstream fails during its body, the application raises an exception and the server closes the
connection. docs/request-flow.md lists the differences.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import FunctionType
from typing import Final

import starlette.applications
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import CannotStart, GatewayError, Refusal
from gateway.observability.events import event
from gateway.policy.loader import Configuration
from gateway.server.asgi.dispatch import dispatch, response_to
from gateway.server.asgi.request import request_head
from gateway.server.asgi.uvicorn_protocol import correct_outer_server, correct_server
from gateway.server.composition import running
from gateway.server.garbage import Collector
from gateway.server.runtime import Runtime
from gateway.wire.fields import Field
from gateway.wire.problem import problem_body, problem_fields

_NO_LIFESPAN: Final = (
    "the lifespan of the application has not run, so no request is answered: "
    "run the ASGI server with its lifespan (uvicorn --lifespan on); an application that mounts the gateway "
    "enters gateway.router.lifespan_context(gateway) in its own lifespan"
)


class AsgiApp(Starlette):
    """The gateway for ASGI servers.

    Starlette runs the lifespan, and the middleware and exception handlers that an embedding program adds. Requests do
    not reach its router. Without such additions they do not pass Starlette, because its own takes a tenth of the time.

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
        self._plain_stack: ASGIApp | None = None  # the middleware stack if the embedding program has added nothing

    def build_middleware_stack(self) -> ASGIApp:
        """Starlette calls it once, at the first call of the application."""
        stack = super().build_middleware_stack()
        is_extended = len(self.user_middleware) > 1 or self.exception_handlers != {Exception: _failed}
        if not is_extended and _is_starlettes_own(Starlette.__call__):
            self._plain_stack = stack
        return stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime, stack = self.runtime, self.middleware_stack
        # A library for tracing or error reports can replace the stack.
        if runtime is None or stack is None or stack is not self._plain_stack or scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
        else:
            await _respond(_runtime_of_port(runtime, scope), scope, receive, send)


def _is_starlettes_own(method: object) -> bool:
    """Return whether no library for tracing or error reports has replaced this method of Starlette."""
    return type(method) is FunctionType and method.__globals__ is vars(starlette.applications)


@asynccontextmanager
async def _lifespan(app: AsgiApp) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        runtime = app.runtime = await _start(app, stack)
        correct_outer_server(app.configuration.settings.server.max_header_size)
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
            await _respond(_runtime_of_port(runtime, scope), scope, receive, send, within_starlette=True)

    async def _run_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the lifespan. Starlette reports a failed start with a traceback, this method with the message of the
        error."""
        gateway = self._gateway

        async def reporting(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and gateway.startup_error is not None:
                message = {**message, "message": str(gateway.startup_error)}
            await send(message)

        correct_server(receive, gateway.configuration.settings.server.max_header_size)
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
    """The response to a defect. Starlette raises the exception again, and the server logs it."""
    status, fields, body = _internal_error(type(error).__name__)
    response = Response(body, status)
    response.raw_headers = fields
    return response


def _internal_error(reason: str) -> tuple[int, list[Field], bytes]:
    """Status, fields and body."""
    refusal = Refusal("internal_error", reason)
    body = problem_body(refusal, b"-")
    return refusal.status, [*problem_fields(refusal, b"-"), (b"content-length", b"%d" % len(body))], body


async def _respond(
    runtime: Runtime, scope: Scope, receive: Receive, send: Send, *, within_starlette: bool = False
) -> None:
    """Respond to a request or a handshake. A defect of the gateway is a 500, from Starlette if the request came through
    it, and the server logs the exception."""
    response = None
    try:
        response = response_to(runtime, request_head(runtime, scope), scope)
        await dispatch(runtime, response, scope, receive, send)
    except Exception as error:
        # uvloop raises RuntimeError for a write to a closed connection. uvicorn passes it on, and does not report the
        # disconnect if a pipelined request has begun.
        if isinstance(error, RuntimeError) and _is_raised_by_uvloop(error):
            return
        is_unanswered = scope["type"] == "http" and (response is None or not response.has_begun)
        if is_unanswered and not within_starlette:
            status, fields, body = _internal_error(type(error).__name__)
            await send({"type": "http.response.start", "status": status, "headers": fields})
            await send({"type": "http.response.body", "body": body})
        raise


def _is_raised_by_uvloop(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("uvloop.")


def _runtime_of_port(runtime: Runtime, scope: Scope) -> Runtime:
    """Return the runtime for the port of the request. Operations with a port of their own need a server that listens
    there too."""
    if runtime.operations is None:
        return runtime
    server = scope.get("server")
    is_operational = server is not None and server[1] == runtime.server.operations_port
    return runtime.operations if is_operational else runtime
