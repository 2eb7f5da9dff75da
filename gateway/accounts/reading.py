"""From the bytes of a request body to the values in it. Nothing here may end in anything but a value or a Refusal."""

import json
from collections.abc import Iterable
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from gateway.errors import Refusal

MAX_BODY: Final = 64 * 1024  # bytes
MAX_FORM: Final = 8 * 1024  # bytes; decoding percent signs takes 0.4 ms for each KiB of them
_MAX_QUERY: Final = 16 * 1024  # bytes
JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
_MAX_FORM_FIELDS: Final = 32
_MAX_VALUES: Final = 5000  # of a JSON body; four times as many empty objects take 4 ms
_MAX_DIGITS: Final = 100  # of a whole number; Python takes quadratic time for long ones


def media_type(request: Request, *accepted: str) -> str:
    """Which of the accepted media types the body has. Raises `unsupported_media_type` for any other one, a charset
    other than UTF-8, and a body that is compressed."""
    lines = request.headers.getlist("content-type")
    name, _, parameters = (lines[0] if len(lines) == 1 else "").partition(";")
    name, parameters = name.strip().lower(), parameters.strip().lower().replace('"', "")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if name not in accepted or parameters not in ("", "charset=utf-8") or encoding != "identity":
        raise Refusal("unsupported_media_type", detail=f"The request body must be {' or '.join(accepted)} in UTF-8")
    return name


async def read_body(request: Request) -> bytes:
    """The whole body. Raises `body_too_large` as soon as that is known."""
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
        raise Refusal("bad_request", "the caller left before the body was complete") from None
    return bytes(body)


def json_object(body: bytes) -> dict[str, Any]:
    """The members of a JSON object (RFC 8259). A name that comes twice is refused: two readers might not agree on
    which one counts."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") > _MAX_VALUES:
        raise _bad("it holds too many values")
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
    """The fields of a form. One that comes twice is refused, and a form over `MAX_FORM` bytes."""
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
    """The parameters of a request's query. One that comes twice is refused."""
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
        name.encode()  # half a surrogate pair is a ValueError (RFC 8259 8.2: nobody can tell what it would do)
        if name in found:
            raise _bad("a field comes twice", of=of)
        found[name] = value
    return found


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError
    return int(digits)


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError  # NaN and Infinity are Python's, not JSON's


def _too_large(limit: int) -> Refusal:
    return Refusal("body_too_large", detail=f"The request body must be at most {limit} bytes")


def _bad(why: str, *, of: str = "request body") -> Refusal:
    return Refusal("bad_request", why, detail=f"The {of} was not accepted: {why}")
