"""Verify the gateway's assertions (docs/upstream-identity.md) with its published keys."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.cache import TwoGenerationCache
from gateway.errors import Refusal
from gateway.identity.claims import id_text, meant_for, numeric_date
from gateway.identity.discovery.jwks_client import PublishedKeySet, keys_at
from gateway.identity.jws import Jws, check_header, invalid, json_object, parse_jws
from gateway.identity.keys import VerifyingKey
from gateway.wire.addresses import is_trusted_transport

ALGORITHMS: Final = ("ES256", "ES384", "ES512", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
MAX_REMEMBERED: Final = 10_000  # The number of cached assertions.
_TYPES: Final = frozenset(("identity+jwt", "application/identity+jwt"))
_LIFETIME: Final = 300.0  # In seconds.


@dataclass(frozen=True, slots=True)
class Identity:
    """The caller's identity as asserted by the gateway. `roles` includes implied roles; `email` is "" if unknown; `id`
    is `NAME|SUB` for a subject of an external issuer."""

    id: str
    email: str
    roles: frozenset[str]


_Verified = tuple[float, float, Identity]  # valid from and until, leeway included, and the identity


class AssertionVerifier:
    """Verifies assertions of one gateway for one upstream.

    `jwks_url` is the URL of the gateway's public keys, `audience` the upstream's name in the gateway's configuration,
    `issuer` its `tokens.issuer`, `leeway` the tolerated clock difference in seconds. Keys are fetched over plain HTTP
    from another machine only with `insecure`, because an attacker on the network path could replace them.
    """

    def __init__(
        self,
        jwks_url: str,
        *,
        audience: str,
        issuer: str = "gateway",
        algorithms: Collection[str] = ALGORITHMS,
        leeway: float = 5.0,
        insecure: bool = False,
    ) -> None:
        if not insecure and not is_trusted_transport(jwks_url):
            raise ValueError("jwks_url must be an https:// URL or on this machine, unless insecure=True")
        if not algorithms or not set(algorithms) <= set(ALGORITHMS):
            raise ValueError(f"algorithms must be some of {', '.join(ALGORITHMS)}")
        self._audience = audience
        self._issuer = issuer
        self._leeway = leeway
        fetch = keys_at(jwks_url, insecure=insecure)
        self._keys = PublishedKeySet(issuer, fetch, algorithms=algorithms, clock=time.monotonic)
        self._verified: TwoGenerationCache[bytes, _Verified] = TwoGenerationCache(MAX_REMEMBERED, lifetime=_LIFETIME)
        self._keys.on_loss(self._verified.clear)

    async def verify(self, assertion: bytes) -> Identity:
        """Verify an assertion. Raises Refusal: `token_invalid` and `token_expired` (401), `upstream_unavailable` (503)
        until the first keys have been fetched."""
        self._keys.tick(time.monotonic())
        verified = self._verified.get(assertion)
        if verified is None:
            verified = await self._verify_anew(assertion)
        good_from, good_until, identity = verified
        now = time.time()
        if now < good_from:
            ahead = good_from + self._leeway - now
            raise invalid(f"iat lies {ahead:.1f} s in the future: the clocks differ (NTP)")
        if now >= good_until:
            raise Refusal("token_expired", "the assertion has expired", presented=True)
        return identity

    async def _verify_anew(self, assertion: bytes) -> _Verified:
        jws = parse_jws(assertion)
        verified = self._claims_of(json_object(jws.payload, "claims"))
        keys = await self._keys_for(jws)
        if not any(key.verifies(jws.signed, jws.signature) for key in keys):
            raise invalid("the signature is not the key's")
        self._verified.put(assertion, verified, time.time())
        return verified

    async def _keys_for(self, jws: Jws) -> tuple[VerifyingKey, ...]:
        kid, algorithm = check_header(jws.header, _TYPES)
        keys = self._keys.get(kid, algorithm)
        if not keys and self._keys.may_be_asked:
            await self._keys.ask()
            keys = self._keys.get(kid, algorithm)
        if not keys and self._keys.is_empty:
            detail = "The keys of the gateway are not available at the moment"
            raise Refusal("upstream_unavailable", "no keys have been fetched yet", detail=detail)
        if not keys:
            raise invalid("kid: not a key of the gateway")
        return keys

    def _claims_of(self, claims: Mapping[str, Any]) -> _Verified:
        if claims.get("iss") != self._issuer:
            raise invalid("iss: another issuer")
        # RFC 8725 3.9: assertions for another upstream are invalid here.
        if not meant_for(claims.get("aud"), self._audience):
            raise invalid("aud: another upstream")
        roles, email = claims.get("roles"), claims.get("email", "")
        if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
            raise invalid("roles: missing, or not a list of strings")
        if not isinstance(email, str):
            raise invalid("email: not a string")
        issued, expires = numeric_date(claims, "iat"), numeric_date(claims, "exp")
        identity = Identity(id_text(claims, "sub"), email, frozenset(roles))
        return issued - self._leeway, expires + self._leeway, identity
