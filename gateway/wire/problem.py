"""Error responses: problem+json (RFC 9457) with the header fields of each status."""

import json
from collections.abc import Callable
from functools import lru_cache
from json.encoder import encode_basestring as _string
from typing import Final

from gateway.errors import Refusal

Field = tuple[bytes, bytes]

NO_STORE: Final[Field] = (b"cache-control", b"no-store")
# A cache must not give one caller's redirect to another (RFC 9110 12.5.5).
_OF_THE_REDIRECT: Final[Field] = (b"vary", b"Cookie, Sec-Fetch-Mode, Sec-Fetch-Dest, Accept")
_CHALLENGE: Final[Field] = (b"www-authenticate", b"Bearer")
# RFC 6750 3.1: the error code only if a credential was presented.
_CHALLENGE_INVALID: Final[Field] = (b"www-authenticate", b'Bearer error="invalid_token"')


def _format_opening(title: str, status: int, detail: str, code: str) -> str:
    return (
        f'{{"type": "about:blank", "title": {_string(title)}, "status": {status}, '
        f'"detail": {_string(detail)}, "code": {_string(code)}, "request_id": '
    )


# Few refusals have a detail of their own.
_opening: Final[Callable[[str, int, str, str], str]] = lru_cache(maxsize=64)(_format_opening)


def problem_body(refusal: Refusal, request_id: bytes) -> bytes:
    """The body, without internal details.

    Formatted by hand except for strings: a JSON encoder takes half as long as everything else about a refusal.
    """
    text = _opening(refusal.title, refusal.status, refusal.detail, refusal.code) + _string(request_id.decode("ascii"))
    for name, value in refusal.members.items():
        text += f", {_string(name)}: {json.dumps(value, ensure_ascii=False)}"
    if refusal.status == 422:
        errors = [{"field": error.field, "message": error.message} for error in refusal.fields]
        text += f', "errors": {json.dumps(errors, ensure_ascii=False)}'
    return (text + "}").encode("utf-8", "backslashreplace")


def problem_fields(refusal: Refusal, request_id: bytes) -> list[Field]:
    """The header fields of the response, without Content-Length."""
    fields = [(b"content-type", b"application/problem+json"), NO_STORE, (b"x-request-id", request_id)]
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
