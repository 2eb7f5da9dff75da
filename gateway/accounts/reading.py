"""Parse request bodies and queries. All errors are Refusals."""

import json
from collections.abc import Iterable
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from gateway.errors import Refusal

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


def query_fields(request: Request) -> dict[str, str]:
    """The parameters of the query. Repeated ones are refused."""
    query: bytes = request.scope["query_string"]
    if len(query) > _MAX_QUERY:
        raise _bad(f"it is longer than {_MAX_QUERY} bytes", of="query")
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(query),
            errors="strict",
            max_num_fields=_MAX_FORM_FIELDS,
        )
    except ValueError:
        raise _bad("it is not a valid query", of="query") from None
    return _unique(pairs, of="query")


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
