"""What the tokens of other issuers must say, and what is taken from them.

They come from many kinds of identity providers, of which few follow RFC 9068: a header without `typ`, or `typ: JWT`,
is what most send. So what such a token is must be told by its claims: it is refused where these are of an ID token, a
refresh token, a logout token, or of one that is bound to a key which nobody has proven to hold.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.identity.claims import id_text, meant_for, whole_second
from gateway.identity.jws import invalid
from gateway.identity.records import Claims, claim_path
from gateway.settings.model import ExternalSettings

# RFC 9068 2.1, and what issuers that do not know it say: nothing, or just that it is a token.
_TYPES: Final = frozenset(("at+jwt", "application/at+jwt", "jwt"))
# What Keycloak calls an access token in its claim `typ`; its others are ID, Refresh, Offline, Logout...
_KINDS: Final = frozenset(("bearer", "jwt", "at+jwt"))
_MAX_EMAIL: Final = 320


def check_type(header: Mapping[str, Any]) -> None:
    """Raise Refusal token_invalid where the header says that it is something else than an access token."""
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise invalid("typ: not an access token")


def external_claims(claims: Mapping[str, Any], settings: ExternalSettings) -> Claims:
    """The facts in the claims of a token of this issuer. Raises Refusal token_invalid; looks at no clock."""
    if claims.get("iss") != settings.issuer:
        raise invalid("iss: another issuer")
    if not meant_for(claims.get("aud"), settings.audience):
        raise invalid("aud: another audience")
    _check_kind(claims)
    issued, expires = whole_second(claims, "iat"), whole_second(claims, "exp")
    not_before = whole_second(claims, "nbf") if "nbf" in claims else issued
    return Claims(
        subject=f"{settings.name}|{id_text(claims, 'sub')}",
        session="",
        expires_at=float(expires),
        not_before=float(max(issued, not_before)),
        token_id=id_text(claims, "jti") if "jti" in claims else "",
        issuer=settings.issuer,
        roles=_roles(claims, settings),
        email=_email(claims),
    )


def _check_kind(claims: Mapping[str, Any]) -> None:
    """Refuse what was issued for another purpose, as far as its claims tell."""
    # OpenID Connect Core 3.1.3.6, 3.3.2.11 and RFC 8417 2.2: only ID tokens have the hashes, only events the events.
    for name in ("at_hash", "c_hash", "s_hash", "events"):
        if name in claims:
            raise invalid(f"{name}: not an access token")
    kind = claims.get("typ", "Bearer")
    if not isinstance(kind, str) or kind.lower() not in _KINDS:
        raise invalid("the claim typ: not an access token")
    if claims.get("token_use", "access") != "access":  # Amazon Cognito
        raise invalid("token_use: not an access token")
    # RFC 8705 3, RFC 9449 7.1: whoever found such a token could use it, were the key not asked for.
    if "cnf" in claims:
        raise invalid("cnf: bound to a key, of which a bearer proves nothing")


def _roles(claims: Mapping[str, Any], settings: ExternalSettings) -> frozenset[str]:
    """The roles here of those that the token names: a list, or a text with spaces in between (RFC 9068 2.2.3.1)."""
    named = claim_path(claims, settings.roles_claim) if settings.roles_claim is not None else None
    if named is None:
        return frozenset()
    if isinstance(named, str):
        named = named.split(" ")
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise invalid(f"{settings.roles_claim}: not a list of roles")
    return frozenset(settings.role_map[name] for name in named if name in settings.role_map)


def _email(claims: Mapping[str, Any]) -> str:
    """The address that upstreams are told; "" where there is none, or one that the issuer itself has not verified."""
    email = claims.get("email")
    if email is None:
        return ""
    if not isinstance(email, str) or len(email) > _MAX_EMAIL or not email.isprintable():
        raise invalid("email: not an address")
    return email if claims.get("email_verified", True) in (True, "true") else ""
