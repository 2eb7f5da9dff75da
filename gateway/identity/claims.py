"""Validation of access token claims (RFC 7519 4.1, RFC 9068 2.2), including their JSON types.

PyJWT accepts numeric strings as numbers, and tokens without `exp` as unlimited. Here every claim is required and has
exactly its type: the gateway issues no other tokens. Tokens of version 0.1 lack `auth_time`, `acr` and `amr`.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.identity.jws import invalid
from gateway.identity.user import Claims

MAX_TEXT: Final = 255  # Characters of an id: the limit of `sub` in OpenID Connect Core 2.
_LAST_SECOND: Final = 253_402_300_799  # 9999-12-31. Larger values overflow in some libraries, or mean "never".


def local_claims(claims: Mapping[str, Any], *, issuer: str, audience: str) -> Claims:
    """The claims of one of the gateway's own tokens. Raises Refusal token_invalid. Does not check times."""
    if claims.get("iss") != issuer:
        raise invalid("iss: another issuer")
    if not meant_for(claims.get("aud"), audience):
        raise invalid("aud: another audience")
    subject = id_text(claims, "sub")
    if "|" in subject:  # NAME|SUB is a subject of the external issuer NAME. Only that issuer can assert it.
        raise invalid("sub: not an id of this gateway")
    issued, not_before, expires = (numeric_date(claims, name) for name in ("iat", "nbf", "exp"))
    return Claims(
        subject=subject,
        session=id_text(claims, "sid"),
        expires_at=expires,
        not_before=max(issued, not_before),
        token_id=id_text(claims, "jti"),
        issuer=issuer,
        auth_time=numeric_date(claims, "auth_time") if "auth_time" in claims else 0.0,
        acr=id_text(claims, "acr") if "acr" in claims else "",
        amr=_methods(claims.get("amr", [])),
    )


def _methods(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise invalid("amr: not a list of strings")
    return tuple(value)


def meant_for(claim: Any, audience: str | tuple[str, ...]) -> bool:
    """Whether the claim contains an accepted audience (RFC 7519 4.1.3: a string or a list of strings). Strings are
    compared whole, never as substrings."""
    accepted = (audience,) if isinstance(audience, str) else audience
    if isinstance(claim, list):
        return all(isinstance(each, str) for each in claim) and any(each in claim for each in accepted)
    return isinstance(claim, str) and claim in accepted


def id_text(claims: Mapping[str, Any], name: str) -> str:
    """A claim that is an id: printable text, safe in headers, log lines and store keys. Lone surrogates and NUL are
    refused.

    Raises Refusal token_invalid.
    """
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        raise invalid(f"{name}: missing, or not an id")
    return value


def numeric_date(claims: Mapping[str, Any], name: str) -> float:
    """A NumericDate (RFC 7519 2): seconds since the epoch, possibly fractional. Raises Refusal token_invalid."""
    value: Any = claims.get(name)
    # `type` instead of `isinstance`: True is an int in Python. 1e400 parses as infinity, which is out of range.
    if type(value) not in (int, float) or not 0 <= value <= _LAST_SECOND:
        raise invalid(f"{name}: missing, or not a number of seconds")
    return float(value)
