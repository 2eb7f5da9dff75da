"""A signed token taken apart (RFC 7515 compact form), more strictly than PyJWT does it.

One token has one spelling: base64url without padding, without characters from outside its alphabet and without set bits
after the last byte, so that no two different credentials carry the same signature. No member of a JSON object may come
twice (RFC 7515 4, RFC 7519 4): two readers might believe two different ones.
"""

import base64
import binascii
import json
from typing import Any, Final, NamedTuple, NoReturn

from gateway.errors import Refusal
from gateway.wire.bearer import MAX_CREDENTIAL


class Jws(NamedTuple):
    """The parts of a token, decoded but not yet believed. `signed` is what the signature covers."""

    header: dict[str, Any]
    payload: bytes
    signed: bytes
    signature: bytes


def invalid(reason: str) -> Refusal:
    """The refusal of a credential that was presented and is no good; `reason` goes to the log only."""
    return Refusal("token_invalid", reason, presented=True)


def parse_jws(credential: bytes) -> Jws:
    """Take a compact JWS apart. Raises Refusal token_invalid for anything else, and for one that is over 16 KiB."""
    if len(credential) > MAX_CREDENTIAL:
        raise invalid("over 16 KiB")
    parts = credential.split(b".")
    if len(parts) != 3:
        raise invalid("not three parts")
    header, payload, signature = map(_decoded, parts)
    return Jws(json_object(header, "header"), payload, credential.rpartition(b".")[0], signature)


def encode_jws(header: dict[str, Any], payload: dict[str, Any]) -> bytes:
    """What is to be signed: header and payload, encoded and joined."""
    return _encoded(_json(header)) + b"." + _encoded(_json(payload))


def with_signature(signed: bytes, signature: bytes) -> str:
    """The token: what was signed, and the signature."""
    return (signed + b"." + _encoded(signature)).decode("ascii")


def json_object(text: bytes, what: str) -> dict[str, Any]:
    """The JSON object in a token's part. Raises Refusal token_invalid if it is not one, or holds a member twice."""
    try:
        value = strict_json(text)
    except ValueError:
        raise invalid(f"{what}: not JSON without repeated members") from None
    if not isinstance(value, dict):
        raise invalid(f"{what}: not a JSON object")
    return value


def strict_json(text: bytes) -> Any:
    """The value of a JSON text in UTF-8. Raises ValueError for what is none, and where a member comes twice."""
    try:
        # Decoded here: given bytes, json would guess among UTF-8, -16 and -32, and RFC 7519 knows UTF-8 only.
        return _DECODER.decode(text.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is repeated")
    return members


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_not_json)


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decoded(part: bytes) -> bytes:
    try:
        data = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except binascii.Error:
        raise invalid("not base64url") from None
    # The decoder skips what it does not know; only the spelling that encoding gives back is the token's.
    if _encoded(data) != part:
        raise invalid("not base64url as it is encoded")
    return data
