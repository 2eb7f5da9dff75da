"""The ASGI face: the gate as pure-ASGI middleware, with the proxy behind it.

It runs under any ASGI server and makes the same decisions as `gateway serve`. ASGI carries no trailers and no interim
responses. If an upstream fails during its body, the application raises an exception and the server closes the
connection. docs/request-flow.md lists the differences.
"""

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.scope import own_scope
from gateway.errors import Refusal
from gateway.gate.admission import Admission, DirectResponse, PendingDecision, RequestHead
from gateway.gate.forward_auth import Verdict
from gateway.gate.gate import Decision
from gateway.policy.builtin_routes import VERIFY
from gateway.server.asgi.lifespan import Lifespan
from gateway.server.asgi.request import AsgiRequest, announces_body, request_head, unreadable, with_body
from gateway.server.asgi.response import AsgiAnswer
from gateway.server.asgi.upload import Upload
from gateway.server.asgi.uvicorn_protocol import drop_trailers
from gateway.server.runtime import Runtime, RuntimeHolder
from gateway.wire.problem import NO_STORE

if TYPE_CHECKING:
    from gateway.server.asgi.websocket import AsgiWebSocket

log: Final = logging.getLogger("gateway.asgi")

_CALLER_LEFT: Final = "the handler is closed"


class GateMiddleware:
    """Decides on every request. Passes requests for own endpoints to the application, and all others to the proxy."""

    def __init__(self, app: ASGIApp, holder: RuntimeHolder) -> None:
        self._app = app
        self._holder = holder
        self._lifespan = Lifespan(app, holder)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            drop_trailers(receive, self._holder)
            await self._lifespan.run(scope, receive, send)
        elif "gateway.admission" in scope:  # admitted by `gateway serve`
            await self._app(scope, receive, _never_stored(send))
        elif not self._holder.has_started:
            await self._lifespan.refuse(scope, send)
        else:
            try:
                await self._decide(scope, receive, send)
            except RuntimeError as error:
                # uvicorn has not noticed yet that the client disconnected, and passes on uvloop's error for the write.
                if not str(error).endswith(_CALLER_LEFT):
                    raise

    async def _decide(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = _behind_the_door(self._holder.runtime, scope)
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
            concluding = gate.conclude(decision)
            decision = await (concluding if request.trace is None else request.trace.look_up(concluding))
        if isinstance(decision, Refusal):
            await answer.send_refusal(decision, send)
        elif isinstance(decision, DirectResponse):
            await answer.give(decision, send)
        elif decision.route.upstream is not None:
            await answer.proxy(decision, receive, send)
        elif decision.route.endpoint == VERIFY:
            await answer.tell(await _verdict(runtime, decision), send)
        else:
            await self._own(decision, answer, scope, receive, send)

    async def _own(self, admission: Admission, answer: AsgiRequest, scope: Scope, receive: Receive, send: Send) -> None:
        answer.admission = admission

        def note_refusal(refusal: Refusal) -> None:
            answer.code = refusal.code
            self._holder.runtime.refused_by_endpoint(refusal, admission)

        own = own_scope(admission, scope.get("headers") or [], note_refusal)
        own.update({"app": scope.get("app"), "state": scope.get("state") or {}})
        own["extensions"] = scope.get("extensions") or {}
        upload = Upload(self._holder.runtime.server, receive)
        try:
            await self._app(own, upload.receive, _never_stored(_observed(send, answer, upload)))
        except Exception:
            if answer.status:
                raise
            log.exception("an own endpoint failed")
            refusal = Refusal("internal_error")
            note_refusal(refusal)
            await answer.send_refusal(refusal, send)
        finally:
            answer.finished()


def _behind_the_door(runtime: Runtime, scope: Scope) -> Runtime:
    """Return the runtime for the port of the request. Operations with a port of their own need a server that listens
    there too."""
    if runtime.operations is None:
        return runtime
    server = scope.get("server")
    is_operational = server is not None and server[1] == runtime.server.operations_port
    return runtime.operations if is_operational else runtime


async def _verdict(runtime: Runtime, question: Admission) -> Verdict:
    gate = runtime.judge
    verdict = runtime.verifier.ask(gate, question)
    if isinstance(verdict, PendingDecision):
        verdict = await runtime.verifier.conclude(gate, question, verdict)
    return verdict


def _answer_to(runtime: Runtime, request: RequestHead, scope: Scope) -> "AsgiAnswer | AsgiWebSocket":
    if not request.websocket:
        return AsgiAnswer(runtime, request, scope)
    from gateway.server.asgi.websocket import AsgiWebSocket  # imports websockets, which `gateway serve` does not need

    return AsgiWebSocket(runtime, request, scope)


def _observed(send: Send, answer: AsgiRequest, upload: Upload) -> Send:
    """Wrap `send` to note status and size for the log. Close the connection after an upload that was aborted."""

    async def observing(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            if upload.broken_off and answer.request.minor < 2:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        else:
            answer.sent += len(message.get("body", b""))
        await send(message)

    return observing


def _never_stored(send: Send) -> Send:
    """Wrap `send` to add `Cache-Control: no-store` to responses without Cache-Control."""

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message["headers"]}
            if b"cache-control" not in names:
                message = {**message, "headers": [*message["headers"], NO_STORE]}
        await send(message)

    return guarded
