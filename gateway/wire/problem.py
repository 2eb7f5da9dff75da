"""Error responses: problem+json (RFC 9457) with the header fields of each status."""

import json
from json.encoder import encode_basestring as _string
from typing import Final

from gateway.errors import Refusal

Field = tuple[bytes, bytes]

NO_STORE: Final[Field] = (b"cache-control", b"no-store")
_CONTENT_TYPE: Final[Field] = (b"content-type", b"application/problem+json")
_LINES: Final = b"%b: %b\r\n%b: %b\r\nx-request-id: %%b\r\n" % (*_CONTENT_TYPE, *NO_STORE)
# A cache must not give one caller's redirect to another (RFC 9110 12.5.5).
_OF_THE_REDIRECT: Final[Field] = (b"vary", b"Cookie, Sec-Fetch-Mode, Sec-Fetch-Dest, Accept")
_CHALLENGE: Final[Field] = (b"www-authenticate", b"Bearer")
# RFC 6750 3.1: the error code only if a credential was presented.
_CHALLENGE_INVALID: Final[Field] = (b"www-authenticate", b'Bearer error="invalid_token"')

# The bodies before the request id. Few refusals have a detail of their own, and a detail can be long.
_MOST_OPENINGS: Final = 64
_LONGEST_DETAIL: Final = 200
OPENINGS: Final[dict[tuple[str, int, str], bytes]] = {}


def problem_body(refusal: Refusal, request_id: bytes) -> bytes:
    """The body, without internal details. `request_id` is visible ASCII.

    Formatted by hand except for strings: a JSON encoder takes half as long as everything else about a refusal.
    """
    opening = OPENINGS.get((refusal.code, refusal.status, refusal.detail))
    if opening is None:
        opening = _opening(refusal)
    further = _further_members(refusal) if refusal.members or refusal.status == 422 else b""
    return b'%b"%b"%b}' % (opening, request_id.replace(b"\\", rb"\\").replace(b'"', rb"\""), further)


def _opening(refusal: Refusal) -> bytes:
    opening = _encoded(
        f'{{"type": "about:blank", "title": {_string(refusal.title)}, "status": {refusal.status}, '
        f'"detail": {_string(refusal.detail)}, "code": {_string(refusal.code)}, "request_id": '
    )
    if len(refusal.detail) <= _LONGEST_DETAIL:
        if len(OPENINGS) >= _MOST_OPENINGS:
            OPENINGS.clear()
        OPENINGS[refusal.code, refusal.status, refusal.detail] = opening
    return opening


def _further_members(refusal: Refusal) -> bytes:
    text = ""
    for name, value in refusal.members.items():
        text += f", {_string(name)}: {json.dumps(value, ensure_ascii=False)}"
    if refusal.status == 422:
        errors = [{"field": error.field, "message": error.message} for error in refusal.fields]
        text += f', "errors": {json.dumps(errors, ensure_ascii=False)}'
    return _encoded(text)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def problem_fields(refusal: Refusal, request_id: bytes) -> list[Field]:
    """The header fields of the response, without Content-Length."""
    return [_CONTENT_TYPE, NO_STORE, (b"x-request-id", request_id), *_further_fields(refusal)]


def problem_lines(refusal: Refusal, request_id: bytes) -> bytes:
    """The same fields, serialized."""
    lines = _LINES % request_id
    for field in _further_fields(refusal):
        lines += b"%b: %b\r\n" % field
    return lines


def _further_fields(refusal: Refusal) -> list[Field]:
    fields: list[Field] = []
    if refusal.status == 401:
        fields.append(_challenge(refusal))
    if refusal.location is not None:
        fields += [(b"location", refusal.location.encode("ascii")), _OF_THE_REDIRECT]
    if refusal.allow is not None:
        fields.append((b"allow", refusal.allow.encode("ascii")))
    if refusal.retry_after is not None:
        fields.append((b"retry-after", b"%d" % max(1, refusal.retry_after)))
    fields.extend(refusal.headers)
    return fields


def _challenge(refusal: Refusal) -> Field:
    if refusal.challenge is not None:
        return b"www-authenticate", refusal.challenge.encode("ascii")
    return _CHALLENGE_INVALID if refusal.presented else _CHALLENGE
