"""Turn exceptions from built-in endpoints into problem+json.

All handlers are coroutines: Starlette runs plain functions in a thread, where the objects of a connection must not be
used.
"""

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.body import admission_of, note_refusal
from gateway.errors import Refusal
from gateway.wire.problem import NO_STORE, problem_body, problem_fields


def _problem(request: Request, refusal: Refusal) -> Response:
    note_refusal(request, refusal)
    request_id = admission_of(request).request.request_id
    response = Response(problem_body(refusal, request_id), refusal.status)
    response.raw_headers = [*problem_fields(refusal, request_id), *_length_of(response)]
    return response


def _length_of(response: Response) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", str(len(response.body)).encode())]


async def refused(request: Request, error: Exception) -> Response:
    """The response to a Refusal."""
    assert isinstance(error, Refusal)
    return _problem(request, error)


async def store_is_out(request: Request, error: Exception) -> Response:
    """The response to an unavailable store: 503, never access."""
    return _problem(request, Refusal("storage_unavailable", str(error)))


async def failed(request: Request, error: Exception) -> Response:
    """The response to an unexpected exception. The log gets its type, the client gets nothing about it."""
    return _problem(request, Refusal("internal_error", type(error).__name__))


class NoStore:
    """ASGI middleware that adds `Cache-Control: no-store` to responses without Cache-Control."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                if b"cache-control" not in names:
                    message = {**message, "headers": [*message["headers"], NO_STORE]}
            await send(message)

        await self._app(scope, receive, guarded)
