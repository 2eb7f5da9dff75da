"""Decides on one ASGI request, and passes it to the proxy or to a built-in endpoint."""

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from starlette.types import Message, Receive, Scope, Send

from gateway.errors import Refusal
from gateway.gate.admission import Admission, DirectResponse, PendingDecision, RequestHead
from gateway.gate.forward_auth import Verdict
from gateway.gate.gate import Decision
from gateway.policy.builtin_routes import VERIFY
from gateway.server.asgi.request import AsgiRequest, Upload, announces_body, unreadable, with_body
from gateway.server.asgi.response import AsgiResponse
from gateway.server.protocol.asgi_bridge import api_scope
from gateway.server.runtime import Runtime

# Only an annotation. Imported at the first WebSocket.
if TYPE_CHECKING:
    from gateway.server.asgi.websocket import AsgiWebSocket

log: Final = logging.getLogger("gateway.asgi")


def response_to(runtime: Runtime, request: RequestHead, scope: Scope) -> "AsgiResponse | AsgiWebSocket":
    """The response to a request, before any part of it is sent."""
    if not request.websocket:
        return AsgiResponse(runtime, request, scope)
    from gateway.server.asgi.websocket import AsgiWebSocket  # imports websockets, which `gateway serve` does not need

    return AsgiWebSocket(runtime, request, scope)


async def dispatch(
    runtime: Runtime, response: "AsgiResponse | AsgiWebSocket", scope: Scope, receive: Receive, send: Send
) -> None:
    """Decide on the request of `response`, and send the response."""
    gate, request, tracer = runtime.gate, response.request, runtime.tracer
    unread = unreadable(scope, request, receive)
    if unread is None and request.fields.upgrade is not None and announces_body(request):
        try:
            receive = await with_body(runtime, receive)
        except Refusal as refusal:
            unread = refusal
    decision: Decision | PendingDecision
    if unread is not None:
        decision = unread
    else:
        decision = gate.admit(request) if tracer is None else tracer.decide(gate.admit, request)
    if isinstance(decision, PendingDecision):
        resolving = gate.resolve(decision)
        decision = await (resolving if request.trace is None else request.trace.look_up(resolving))
    if isinstance(decision, Refusal):
        await response.send_refusal(decision, send)
    elif isinstance(decision, DirectResponse):
        await response.send_direct(decision, send)
    elif decision.route.upstream is not None:
        await response.proxy(decision, receive, send)
    elif decision.route.endpoint == VERIFY:
        await response.send_verdict(await _verdict(runtime, decision), send)
    else:
        await _call_api(runtime, decision, response, scope, receive, send)


async def _verdict(runtime: Runtime, question: Admission) -> Verdict:
    gate = runtime.public_gate
    verdict = runtime.verifier.ask(gate, question)
    if isinstance(verdict, PendingDecision):
        verdict = await runtime.verifier.resolve(gate, question, verdict)
    return verdict


async def _call_api(
    runtime: Runtime, admission: Admission, response: AsgiRequest, scope: Scope, receive: Receive, send: Send
) -> None:
    response.admission = admission
    inner = api_scope(admission, scope.get("headers") or [], partial(_note_refusal, runtime, admission, response))
    inner.update({"state": scope.get("state") or {}, "extensions": scope.get("extensions") or {}})
    upload = Upload(runtime.server, receive)
    observed = _ObservedSend(send, response, upload)
    try:
        await runtime.api(inner, upload.receive, observed)
    except Exception:
        if not observed.is_complete:
            raise
        log.exception("an own endpoint failed")  # The API has sent a response.
    finally:
        response.finished()


def _note_refusal(runtime: Runtime, admission: Admission, response: AsgiRequest, refusal: Refusal) -> None:
    response.code = refusal.code
    runtime.refused_by_endpoint(refusal, admission)


class _ObservedSend:
    """Notes status and size for the log, and adds the fields of the admission. Closes the connection after an aborted
    upload."""

    def __init__(self, send: Send, response: AsgiRequest, upload: Upload) -> None:
        self._send = send
        self._response = response
        self._upload = upload
        self.is_complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._response.has_begun = True
            self._response.status = message["status"]
            admission = self._response.admission
            if admission is not None and admission.response_fields:
                message = {**message, "headers": admission.response_head(message["headers"])}
            if self._upload.broken_off and self._response.request.minor < 2:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        else:
            if self._response.request.method == b"HEAD":
                message = {**message, "body": b""}  # granian would send it over HTTP/2
            self._response.sent += len(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)
        await self._send(message)
