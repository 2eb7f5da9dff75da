"""Helpers for endpoints: the admission and the caller of a request, its query and its body. All errors are Refusals."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.errors import Refusal, StorageUnavailable
from gateway.gate.admission import Admission
from gateway.identity.principal import Principal
from gateway.identity.user import Actor, Claims, ClientInfo

MAX_BODY: Final = 64 * 1024  # In bytes.
MAX_FORM: Final = 8 * 1024  # In bytes. Decoding percent signs takes 0.4 ms per KiB.
_MAX_QUERY: Final = 16 * 1024  # In bytes.
JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
_MAX_FORM_FIELDS: Final = 32
_MAX_VALUES: Final = 5000  # Values in a JSON body. Four times as many empty objects take 4 ms.
_MAX_DIGITS: Final = 100  # Digits of an integer: Python takes quadratic time for long ones.


def media_type(request: Request, *accepted: str) -> str:
    """The media type of the body, one of `accepted`. Raises `unsupported_media_type` for another type, a charset other
    than UTF-8, or a compressed body."""
    lines = request.headers.getlist("content-type")
    name, _, parameters = (lines[0] if len(lines) == 1 else "").partition(";")
    name, parameters = name.strip().lower(), parameters.strip().lower().replace('"', "")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if name not in accepted or parameters not in ("", "charset=utf-8") or encoding != "identity":
        raise Refusal("unsupported_media_type", detail=f"The request body must be {' or '.join(accepted)} in UTF-8")
    return name


async def read_body(request: Request) -> bytes:
    """The whole body. Raises `body_too_large` as early as possible."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > MAX_BODY:
        raise _too_large(MAX_BODY)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise _too_large(MAX_BODY)
    except ClientDisconnect:
        raise Refusal("bad_request", "the client disconnected before the body was complete") from None
    return bytes(body)


def json_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object (RFC 8259). Repeated names are refused: two parsers could choose different values."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") > _MAX_VALUES:
        raise _bad("it has too many values")
    try:
        text = body.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_whole, parse_constant=_refuse_constant)
    except RecursionError:
        raise _bad("it is nested too deeply") from None
    except ValueError:  # not UTF-8, not JSON, or a number with too many digits
        raise _bad("it is not valid JSON") from None
    if not isinstance(value, dict):
        raise _bad("it is not a JSON object")
    return value


def form_fields(body: bytes) -> dict[str, str]:
    """Parse a form. Repeated fields and forms over `MAX_FORM` bytes are refused."""
    if len(body) > MAX_FORM:
        raise _too_large(MAX_FORM)
    try:
        pairs = parse_qsl(
            body.decode("utf-8"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MAX_FORM_FIELDS,
        )
    except ValueError:
        raise _bad("it is not a valid form") from None
    return _unique(pairs)


def query_fields(request: Request, *, names: Collection[str] | None = None) -> dict[str, str]:
    """The parameters of the query. Repeated ones are refused. With `names` all others are ignored; without, a query of
    another form is refused."""
    query: bytes = request.scope["query_string"]
    if len(query) > _MAX_QUERY:
        raise _bad(f"it is longer than {_MAX_QUERY} bytes", of="query")
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(query) and names is None,
            errors="strict" if names is None else "replace",
            max_num_fields=_MAX_FORM_FIELDS,
        )
    except ValueError:
        raise _bad("it is not a valid query", of="query") from None
    return _unique(pairs if names is None else (pair for pair in pairs if pair[0] in names), of="query")


def _unique(pairs: Iterable[tuple[str, Any]], *, of: str = "request body") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        name.encode()  # Lone surrogates raise UnicodeEncodeError, a ValueError (RFC 8259 8.2).
        if name in found:
            raise _bad("a field is repeated", of=of)
        found[name] = value
    return found


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError
    return int(digits)


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError  # NaN and Infinity are accepted by Python's parser, but are not JSON.


def _too_large(limit: int) -> Refusal:
    return Refusal("body_too_large", detail=f"The request body must be at most {limit} bytes")


def _bad(why: str, *, of: str = "request body") -> Refusal:
    return Refusal("bad_request", why, detail=f"The {of} was not accepted: {why}")


T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]

_MAX_USER_AGENT: Final = 256


def translate_storage_errors(handler: Endpoint) -> Endpoint:
    """Wraps a handler so that StorageUnavailable becomes a Refusal."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except StorageUnavailable as error:
            raise Refusal("storage_unavailable", str(error), retry_after=1) from error

    return endpoint


def cookie_of(request: Request) -> bytes | None:
    """The session cookie of a request whose credential it is."""
    return admission_of(request).request.fields.session_cookie


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


def origin_of(request: Request) -> ClientInfo:
    head = admission_of(request).request
    agent = request.headers.get("user-agent", "")[:_MAX_USER_AGENT]
    # PostgreSQL rejects NUL, and control characters must not reach the logs.
    return ClientInfo(head.client, "".join(filter(str.isprintable, agent)), head.request_id.decode("ascii"))


def actor_of(request: Request) -> Actor:
    """The caller as the author of a change in the audit trail."""
    return Actor(signed_in(request)[0].id, origin_of(request))


async def json_body(request: Request) -> dict[str, Any]:
    """Parse the body as a JSON object."""
    media_type(request, JSON)
    return json_object(await read_body(request))


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run work that hashes passwords, and cancel it if the client disconnects: abandoned requests must not occupy
    hashing threads.

    The body must have been read. A change already begun still completes (see ChangePublisher).
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
