"""Parse signed tokens (RFC 7515 compact form), more strictly than PyJWT.

Each token has exactly one encoding: base64url without padding, without foreign characters and without non-zero bits
after the last byte, so that two different credentials never carry the same signature. Members of a JSON object must be
unique (RFC 7515 4, RFC 7519 4): two parsers could choose different ones.
"""

import base64
import binascii
import json
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple, NoReturn

from gateway.errors import Refusal
from gateway.wire.credential_fields import MAX_CREDENTIAL


class Jws(NamedTuple):
    """The decoded parts of a token, not yet verified. `signed` is the signing input."""

    header: dict[str, Any]
    payload: bytes
    signed: bytes
    signature: bytes


def invalid(reason: str) -> Refusal:
    """The refusal of an invalid credential. `reason` appears only in the log."""
    return Refusal("token_invalid", reason, presented=True)


def parse_jws(credential: bytes) -> Jws:
    """Parse a compact JWS. Raises Refusal token_invalid for other input, and for more than 16 KiB."""
    if len(credential) > MAX_CREDENTIAL:
        raise invalid("over 16 KiB")
    parts = credential.split(b".")
    if len(parts) != 3:
        raise invalid("not three parts")
    header, payload, signature = map(_decoded, parts)
    return Jws(json_object(header, "header"), payload, credential.rpartition(b".")[0], signature)


def check_header(header: Mapping[str, Any], types: Collection[str]) -> tuple[str, str]:
    """Check the header of a token and return its `kid` and `alg`. Raises Refusal token_invalid.

    `types` are the accepted values of `typ` in lower case; a missing `typ` means "jwt". The check keeps tokens of other
    kinds out that the same key has signed (RFC 8725 3.11). `jku`, `x5u`, `jwk` and similar fields are ignored: the
    configuration decides where keys come from.
    """
    # RFC 7515 4.1.11: a verifier must understand every extension in `crit`. This one supports none (CVE-2026-32597),
    # not even RFC 7797.
    if "crit" in header or "b64" in header:
        raise invalid("crit: extensions are not supported")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in types:
        raise invalid("typ: another kind of token")
    kid, algorithm = header.get("kid"), header.get("alg")
    if not isinstance(kid, str) or not isinstance(algorithm, str):
        raise invalid("kid or alg: missing, or not a string")
    return kid, algorithm


def encode_jws(header: dict[str, Any], payload: dict[str, Any]) -> bytes:
    """The signing input of header and payload."""
    return _encoded(_json(header)) + b"." + _encoded(_json(payload))


def with_signature(signed: bytes, signature: bytes) -> str:
    """The token of a signing input and its signature."""
    return (signed + b"." + _encoded(signature)).decode("ascii")


def json_object(text: bytes, what: str) -> dict[str, Any]:
    """Parse the JSON object in a part of a token. Raises Refusal token_invalid for other values and repeated
    members."""
    try:
        value = strict_json(text)
    except ValueError:
        raise invalid(f"{what}: not JSON without repeated members") from None
    if not isinstance(value, dict):
        raise invalid(f"{what}: not a JSON object")
    return value


def strict_json(text: bytes) -> Any:
    """Parse JSON in UTF-8. Raises ValueError for other input and repeated members."""
    try:
        # Decoded here: given bytes, json also accepts UTF-16 and UTF-32, and RFC 7519 requires UTF-8.
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
    # The decoder skips unknown characters. Only the canonical encoding is accepted.
    if _encoded(data) != part:
        raise invalid("not canonical base64url")
    return data
