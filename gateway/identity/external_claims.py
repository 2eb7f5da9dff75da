"""Validation and mapping of the claims of external tokens.

Few identity providers follow RFC 9068; most send no `typ` or `typ: JWT`, so `typ` cannot be relied on. Tokens are
rejected by their claims: ID, refresh and logout tokens, and sender-constrained tokens (`cnf`), whose proof the gateway
does not check.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.identity.claims import id_text, meant_for, numeric_date
from gateway.identity.jws import invalid
from gateway.identity.user import Claims, claim_path
from gateway.settings.model import ExternalSettings

# RFC 9068 2.1, and the values of issuers that do not implement it.
TYPES: Final = frozenset(("at+jwt", "application/at+jwt", "jwt"))
# Keycloak's claim `typ` for access tokens. Other values are ID, Refresh, Offline, Logout.
_KINDS: Final = frozenset(("bearer", "jwt", "at+jwt"))
_MAX_EMAIL: Final = 320


def external_claims(claims: Mapping[str, Any], settings: ExternalSettings) -> Claims:
    """The claims of a token of this issuer. Raises Refusal token_invalid. Does not check times."""
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
        kind="external",
    )


def _check_kind(claims: Mapping[str, Any], settings: ExternalSettings) -> None:
    """Refuse a token whose claims show another purpose."""
    # OpenID Connect Core 2, 3.1.3.6, 3.3.2.11 and RFC 8417 2.2: nonce and hashes identify ID tokens, `events` security
    # events. The access tokens of Dex are ID tokens with nonce and at_hash.
    for name in ("c_hash", "s_hash", "events", *(() if settings.id_tokens else ("at_hash", "nonce"))):
        if name in claims:
            raise invalid(f"{name}: not an access token")
    kind = claims.get("typ", "Bearer")
    if not isinstance(kind, str) or kind.lower() not in _KINDS:
        raise invalid("the claim typ: not an access token")
    if claims.get("token_use", "access") != "access":  # Amazon Cognito
        raise invalid("token_use: not an access token")
    # RFC 8705 3, RFC 9449 7.1: without checking the key, the gateway would accept such a token from a thief.
    if "cnf" in claims:
        raise invalid("cnf: bound to a key, whose possession a bearer does not prove")


def _roles(claims: Mapping[str, Any], settings: ExternalSettings) -> frozenset[str]:
    """The mapped roles of a token.

    The claim is a list, a space-separated string (RFC 9068 2.2.3.1), or a mapping with roles as keys (Zitadel). Other
    values and members are ignored: the token is valid without roles.
    """
    named = claim_path(claims, settings.roles_claim) if settings.roles_claim is not None else None
    if isinstance(named, str):
        named = named.split(" ")
    if not isinstance(named, list | Mapping):
        return frozenset()
    return frozenset(settings.role_map[name] for name in named if isinstance(name, str) and name in settings.role_map)


def _email(claims: Mapping[str, Any]) -> str:
    """The address for upstreams; "" if the token has none or its issuer has not verified it."""
    email = claims.get("email")
    if email is None:
        return ""
    if not isinstance(email, str) or len(email) > _MAX_EMAIL or not email.isprintable():
        raise invalid("email: not an address")
    return email if claims.get("email_verified", True) in (True, "true") else ""
