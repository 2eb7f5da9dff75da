"""What endpoints about accounts take from a request that was admitted."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from gateway.accounts.reading import JSON, json_object, media_type, read_body
from gateway.admission import Admission
from gateway.errors import Refusal, StorageUnavailable
from gateway.identity.accounts import Actor, Origin
from gateway.identity.principals import Principal
from gateway.identity.records import Claims

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]

_MAX_USER_AGENT: Final = 256


def refusing(handler: Endpoint) -> Endpoint:
    """The handler, which finds its Admission in the scope and raises Refusal, nothing else."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except StorageUnavailable as error:
            raise Refusal("storage_unavailable", str(error), retry_after=1) from error

    return endpoint


def admission_of(request: Request) -> Admission:
    """What the gate has decided."""
    admission: Admission = request.scope["gateway.admission"]
    return admission


def note_refusal(request: Request, refusal: Refusal) -> None:
    """Tell the face that serves the request of a refusal, for the logs and the metrics."""
    request.scope["gateway.note_refusal"](refusal)


def signed_in(request: Request) -> tuple[Principal, Claims]:
    """Who calls, on a route that requires somebody."""
    admission = admission_of(request)
    assert admission.principal is not None and admission.claims is not None, "the route requires a user"
    return admission.principal, admission.claims


def origin_of(request: Request) -> Origin:
    """Where the request came from."""
    head = admission_of(request).request
    agent = request.headers.get("user-agent", "")[:_MAX_USER_AGENT]
    # PostgreSQL takes no NUL, and no log should have to take the other control characters.
    return Origin(head.client, "".join(filter(str.isprintable, agent)), head.request_id.decode("ascii"))


def actor_of(request: Request) -> Actor:
    """Whoever calls, as the audit trail names them."""
    return Actor(signed_in(request)[0].id, origin_of(request))


async def json_body(request: Request) -> dict[str, Any]:
    """The members of the JSON object that the body is."""
    media_type(request, JSON)
    return json_object(await read_body(request))


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do work that passwords are checked for, and drop it when the caller leaves: nobody pays for a hash that nobody
    waits for. The body must have been read. A change that has begun is finished all the same (see Announcer)."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        del working  # it keeps its exception, whose traceback keeps this frame
    raise Refusal("bad_request", "the caller left before the answer")


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
