"""What the tokens of other issuers must say, and what is taken from them.

They come from many kinds of identity providers, of which few follow RFC 9068: a header without `typ`, or `typ: JWT`,
is what most send. So what such a token is must be told by its claims: it is refused where these are of an ID token, a
refresh token, a logout token, or of one that is bound to a key which nobody has proven to hold.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.identity.claims import id_text, meant_for, numeric_date
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
    _check_kind(claims, settings)
    issued, expires = numeric_date(claims, "iat"), numeric_date(claims, "exp")
    not_before = numeric_date(claims, "nbf") if "nbf" in claims else issued
    return Claims(
        subject=f"{settings.name}|{id_text(claims, 'sub')}",
        session="",
        expires_at=expires,
        not_before=max(issued, not_before),
        token_id=id_text(claims, "jti") if "jti" in claims else "",
        issuer=settings.issuer,
        roles=_roles(claims, settings),
        email=_email(claims),
    )


def _check_kind(claims: Mapping[str, Any], settings: ExternalSettings) -> None:
    """Refuse a token that was issued for another purpose, as far as its claims show."""
    # OpenID Connect Core 2, 3.1.3.6, 3.3.2.11 and RFC 8417 2.2: ID tokens have the nonce and the hashes, events the
    # events. Dex puts nonce and at_hash into its access tokens, which are ID tokens.
    for name in ("c_hash", "s_hash", "events", *(() if settings.id_tokens else ("at_hash", "nonce"))):
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
    """The roles here of those that the token names: a list, a text with spaces (RFC 9068 2.2.3.1), or a mapping whose
    keys are the roles (Zitadel). Any other value, or member of a list, names none: the token is good without it."""
    named = claim_path(claims, settings.roles_claim) if settings.roles_claim is not None else None
    if isinstance(named, str):
        named = named.split(" ")
    if not isinstance(named, list | Mapping):
        return frozenset()
    return frozenset(settings.role_map[name] for name in named if isinstance(name, str) and name in settings.role_map)


def _email(claims: Mapping[str, Any]) -> str:
    """The address that upstreams are told; "" where there is none, or one that the issuer itself has not verified."""
    email = claims.get("email")
    if email is None:
        return ""
    if not isinstance(email, str) or len(email) > _MAX_EMAIL or not email.isprintable():
        raise invalid("email: not an address")
    return email if claims.get("email_verified", True) in (True, "true") else ""
