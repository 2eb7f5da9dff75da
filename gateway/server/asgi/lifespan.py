"""The lifespan of the ASGI application. A failed start is reported in one message, and requests before a start are
refused."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import GatewayError, Refusal
from gateway.observability.events import event
from gateway.server.runtime import RuntimeHolder
from gateway.wire.problem import problem_body, problem_fields

_HOW: Final = (
    "the lifespan of the application has not run, so no request is answered: "
    "run the ASGI server with its lifespan (uvicorn --lifespan on); an application that mounts the gateway "
    "enters gateway.router.lifespan_context(gateway) in its own lifespan"
)


class Lifespan:
    """Runs the lifespan of `app`, and answers requests of a server that has not run it."""

    def __init__(self, app: ASGIApp, holder: RuntimeHolder) -> None:
        self._app = app
        self._holder = holder
        self._has_reported = False

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the lifespan. Starlette sends a traceback when the start fails; send the message of a CannotStart
        instead."""

        async def reporting(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and self._holder.refusal is not None:
                message = {**message, "message": str(self._holder.refusal)}
            await send(message)

        try:
            await self._app(scope, receive, reporting)
        except GatewayError:
            if self._holder.refusal is None:
                raise

    async def refuse(self, scope: Scope, send: Send) -> None:
        """Answer 500, and log the reason once."""
        if not self._has_reported:
            self._has_reported = True
            event("start", _HOW)
        refusal = Refusal("internal_error", "no lifespan")
        body = problem_body(refusal, b"-")
        fields = [*problem_fields(refusal, b"-"), (b"content-length", b"%d" % len(body))]
        answers_by = "http.response"
        if scope["type"] == "websocket":
            answers_by = "websocket.http.response"
            if answers_by not in (scope.get("extensions") or {}):
                await send({"type": "websocket.close", "code": 1011})
                return
        await send({"type": f"{answers_by}.start", "status": refusal.status, "headers": fields})
        await send({"type": f"{answers_by}.body", "body": body})
