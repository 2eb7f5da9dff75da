"""Helpers for endpoints: the admission, the caller and the body of a request."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from gateway.accounts.reading import JSON, json_object, media_type, read_body
from gateway.accounts.store import Actor, Origin
from gateway.errors import Refusal, StorageUnavailable
from gateway.gate.admission import Admission
from gateway.identity.principal import Principal
from gateway.identity.user import Claims

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]

_MAX_USER_AGENT: Final = 256


def refusing(handler: Endpoint) -> Endpoint:
    """Wraps a handler so that StorageUnavailable becomes a Refusal."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except StorageUnavailable as error:
            raise Refusal("storage_unavailable", str(error), retry_after=1) from error

    return endpoint


def admission_of(request: Request) -> Admission:
    """The gate's decision."""
    admission: Admission = request.scope["gateway.admission"]
    return admission


def note_refusal(request: Request, refusal: Refusal) -> None:
    """Report a refusal to the server for logs and metrics."""
    request.scope["gateway.note_refusal"](refusal)


def signed_in(request: Request) -> tuple[Principal, Claims]:
    """The principal and claims, on a route that requires authentication."""
    admission = admission_of(request)
    assert admission.principal is not None and admission.claims is not None, "the route requires a user"
    return admission.principal, admission.claims


def origin_of(request: Request) -> Origin:
    head = admission_of(request).request
    agent = request.headers.get("user-agent", "")[:_MAX_USER_AGENT]
    # PostgreSQL rejects NUL, and control characters must not reach the logs.
    return Origin(head.client, "".join(filter(str.isprintable, agent)), head.request_id.decode("ascii"))


def actor_of(request: Request) -> Actor:
    """The caller as the author of a change in the audit trail."""
    return Actor(signed_in(request)[0].id, origin_of(request))


async def json_body(request: Request) -> dict[str, Any]:
    """Parse the body as a JSON object."""
    media_type(request, JSON)
    return json_object(await read_body(request))


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run work that hashes passwords, and cancel it if the client disconnects: abandoned requests must not occupy
    hashing threads.

    The body must have been read. A change already begun still completes (see Announcer).
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        del working  # The future holds its exception, and the traceback holds this frame.
    raise Refusal("bad_request", "the client disconnected before the response")


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
