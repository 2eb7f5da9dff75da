"""What the claims of an access token must be (RFC 7519 4.1, RFC 9068 2.2), down to their JSON types.

PyJWT is generous: it takes text that looks like a number for one, and a token without `exp` for one that never ends.
Here every claim is there and has exactly its type; a token that differs was not made by this gateway.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.identity.jws import invalid
from gateway.identity.records import Claims

MAX_TEXT: Final = 255  # characters of an id, as many as OpenID Connect Core 2 gives a `sub`
_LAST_SECOND: Final = 253_402_300_799  # 9999-12-31; beyond lies what overflows somewhere, or means "never"


def local_claims(claims: Mapping[str, Any], *, issuer: str, audience: str) -> Claims:
    """The facts in the claims of one of the gateway's own tokens. Raises Refusal token_invalid; looks at no clock."""
    if claims.get("iss") != issuer:
        raise invalid("iss: another issuer")
    if not meant_for(claims.get("aud"), audience):
        raise invalid("aud: another audience")
    subject = id_text(claims, "sub")
    if "|" in subject:  # NAME|SUB is a user of the external issuer NAME, which only that issuer may say
        raise invalid("sub: not an id of this gateway")
    issued, not_before, expires = (numeric_date(claims, name) for name in ("iat", "nbf", "exp"))
    return Claims(
        subject=subject,
        session=id_text(claims, "sid"),
        expires_at=expires,
        not_before=max(issued, not_before),
        token_id=id_text(claims, "jti"),
        issuer=issuer,
    )


def meant_for(claim: Any, audience: str | tuple[str, ...]) -> bool:
    """Whether a claim names the audience, or one of several (RFC 7519 4.1.3: a string or a list of strings). A string
    that contains the audience is another one."""
    accepted = (audience,) if isinstance(audience, str) else audience
    if isinstance(claim, list):
        return all(isinstance(each, str) for each in claim) and any(each in claim for each in accepted)
    return isinstance(claim, str) and claim in accepted


def id_text(claims: Mapping[str, Any], name: str) -> str:
    """An id: text that can stand in a header, a log line and a key of any store. No lone surrogates, no NUL.

    Raises Refusal token_invalid.
    """
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        raise invalid(f"{name}: missing, or not an id")
    return value


def numeric_date(claims: Mapping[str, Any], name: str) -> float:
    """A NumericDate (RFC 7519 2): seconds since the epoch, which can have a fraction. Raises Refusal token_invalid."""
    value: Any = claims.get(name)
    # `type`, not `isinstance`: True is an int to Python, and no number to JSON. 1e400 is infinite, so out of range.
    if type(value) not in (int, float) or not 0 <= value <= _LAST_SECOND:
        raise invalid(f"{name}: missing, or not a number of seconds")
    return float(value)
