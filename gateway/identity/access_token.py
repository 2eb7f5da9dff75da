"""Issue and verify the gateway's own access tokens.

Verified tokens are cached by their bytes: checking a signature takes about 100 µs, a lookup 0.3. The cache contains
facts, never decisions: subject and validity period. The time is checked on every use, and revocation comes from the
user record, which is not cached here (CVE-2021-32701: a cached token skipped a check that depended on the request).
Invalid tokens are not cached, so that a flood of them cannot evict valid ones.
"""

import logging
import secrets
import time
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

from gateway.cache import TwoGenerationCache
from gateway.errors import Refusal
from gateway.identity.claims import local_claims
from gateway.identity.jws import check_header, encode_jws, invalid, json_object, parse_jws, with_signature
from gateway.identity.keys import KeyRing
from gateway.identity.user import Authentication, Claims
from gateway.settings.model import TokensSettings

REMEMBERED: Final = 100_000  # The default number of cached tokens, about 1 KiB each.
JUST_EXPIRED: Final = 60.0  # Seconds after expiry and leeway in which a clock difference can be the cause.
REMEMBERED_LENGTH: Final = 512  # The average limit in bytes per cached token.

_TYPE: Final = "at+jwt"  # RFC 9068 2.1: distinguishes access tokens from other tokens signed with the same key.
_TYPES: Final = frozenset((_TYPE, f"application/{_TYPE}"))

log: Final = logging.getLogger("gateway.identity.access_token")

Verified = tuple[float, float, Claims]  # valid from and until, leeway included, and the claims


def in_time(verified: Verified, now: float) -> Claims:
    """The claims if the token is valid now. Raises Refusal token_expired, or token_invalid before `nbf` or `iat`."""
    good_from, good_until, claims = verified
    if good_from <= now < good_until:
        return claims
    if now < good_from:
        raise invalid(f"nbf or iat lies {claims.not_before - now:.1f} s in the future")
    raise expired(claims)


def report_skew(verified: Verified, now: float, issuer: str) -> None:
    """Log the clock difference that could explain why a genuine token is refused because of its times.

    A late client can also present an expired token, so the cause is uncertain in that case.
    """
    good_from, good_until, claims = verified
    leeway = claims.not_before - good_from
    if now < good_from:
        log.warning(
            "a token of %s is refused: its iat or nbf lies %.1f s in the future, and tokens.leeway is %g s. The clock "
            "of its issuer is ahead of this one by at least that: synchronize both (NTP)",
            *(issuer, claims.not_before - now, leeway),
            extra={"cause": f"ahead: {issuer}"},
        )
    elif good_until <= now < good_until + JUST_EXPIRED:
        log.warning(
            "a token of %s is refused: it expired %.1f s ago, and tokens.leeway is %g s. Unless its client was late, "
            "the clock of its issuer is behind this one: synchronize both (NTP)",
            *(issuer, now - claims.expires_at, leeway),
            extra={"cause": f"behind: {issuer}"},
        )


class IssuedToken(NamedTuple):
    """A new access token. `expires_in` is in seconds, `expires_at` in seconds since the epoch."""

    token: str
    expires_in: int
    expires_at: float


class Tokens:
    """Issues and verifies access tokens. `keys` stays the same object across reloads. `clock` returns seconds since the
    epoch.

    `verified` caches at most `remembered` valid tokens by their bytes, each with its validity period, leeway included,
    and claims. `Credentials` reads this cache directly, which saves a call per request. `hits` and `misses` count only
    the calls of `verify`.
    """

    def __init__(
        self,
        keys: KeyRing,
        settings: TokensSettings,
        *,
        remembered: int = REMEMBERED,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.keys = keys
        self._settings = settings
        self.clock = clock
        self.verified: TwoGenerationCache[bytes, Verified] = TwoGenerationCache(
            remembered, lifetime=settings.access_ttl, max_key_length=remembered * REMEMBERED_LENGTH
        )
        self.hits = self.misses = 0

    def renew(self, keys: KeyRing | None, settings: TokensSettings) -> bool:
        """Apply new settings, and new keys if given. Returns whether a key was removed: its tokens are refused from now
        on, cached or not."""
        self._settings = settings
        has_lost = keys is not None and self.keys.renew(keys)
        if has_lost:
            self.verified.clear()
        return has_lost

    def issue(
        self,
        *,
        user_id: str,
        session_id: str,
        roles: Collection[str],
        authentication: Authentication | None = None,
    ) -> IssuedToken:
        """Issue an access token. It contains `roles` only with `tokens.include_roles`, for other verifiers, and says
        nothing about an unknown authentication."""
        now = int(self.clock())
        expires_in = max(1, int(self._settings.access_ttl))
        claims: dict[str, Any] = {
            "iss": self._settings.issuer,
            "sub": user_id,
            "aud": self._settings.audience,
            "exp": now + expires_in,
            "iat": now,
            "nbf": now,
            "jti": secrets.token_urlsafe(16),
            "sid": session_id,
        }
        if authentication is not None:
            claims["auth_time"] = int(authentication.time)
            claims["acr"], claims["amr"] = authentication.acr, list(authentication.amr)
        if self._settings.include_roles:
            claims["roles"] = sorted(roles)
        return IssuedToken(self.sign(_TYPE, claims), expires_in, float(now + expires_in))

    @property
    def leeway(self) -> float:
        """Tolerated difference between clocks, in seconds."""
        return self._settings.leeway

    @property
    def issuer(self) -> str:
        """The `iss` of all issued tokens."""
        return self._settings.issuer

    def sign(self, kind: str, claims: dict[str, Any]) -> str:
        """Sign a token of this `typ` with the first key."""
        key = self.keys.signer
        signed = encode_jws({"alg": key.algorithm, "kid": key.kid, "typ": kind}, claims)
        return with_signature(signed, key.sign(signed))

    def issue_scoped_token(self, kind: str, claims: Claims, *, audience: str) -> str:
        """Issue a token of another `typ` for the same session, valid as long as `claims`. Type and audience distinguish
        it from access tokens for every verifier that knows the keys (RFC 8725 3.11, 3.12)."""
        now = int(self.clock())
        names = {"iss": self._settings.issuer, "sub": claims.subject, "aud": audience, "sid": claims.session}
        times = {"exp": int(claims.expires_at), "iat": now, "nbf": now}
        return self.sign(kind, {**names, **times, "jti": secrets.token_urlsafe(16)})

    def verify_scoped_token(self, kind: str, credential: bytes, *, audience: str) -> Claims:
        """The claims of a token of exactly this `typ`. Not cached. Raises Refusal token_invalid or token_expired for
        any other input."""
        return in_time(self._read(credential, (kind,), audience), self.clock())

    def verify(self, credential: bytes) -> Claims:
        """The claims of a token. Raises Refusal token_invalid or token_expired for any other input."""
        verified = self.verified.get(credential)
        if verified is None:
            self.misses += 1
            verified = self._verify_anew(credential)
        else:
            self.hits += 1
        return in_time(verified, self.clock())

    def ended(self, claims: Claims) -> Refusal | None:
        """The reason to end a stream: the token has expired, or its key was removed. None while it is valid."""
        if self.clock() >= claims.expires_at + self._settings.leeway:
            return expired(claims)
        if claims.signed_by is not None and not self.keys.holds(claims.signed_by):
            return invalid("the key that signed it was removed")
        return None

    def _verify_anew(self, credential: bytes) -> Verified:
        verified = self._read(credential, _TYPES, self._settings.audience)
        now = self.clock()
        if now < verified[1]:
            self.verified.put(credential, verified, now)
        if not verified[0] <= now < verified[1]:
            report_skew(verified, now, self._settings.issuer)
        return verified

    def _read(self, credential: bytes, types: Collection[str], audience: str) -> Verified:
        jws = parse_jws(credential)
        kid, algorithm = check_header(jws.header, types)
        key = self.keys.get(kid)
        if key is None or algorithm != key.algorithm:
            raise invalid("kid: no key of ours" if key is None else "alg: not the key's")
        if not key.verifies(jws.signed, jws.signature):
            raise invalid("the signature is not the key's")
        members = json_object(jws.payload, "claims")
        claims = local_claims(members, issuer=self._settings.issuer, audience=audience)
        leeway = self._settings.leeway
        return claims.not_before - leeway, claims.expires_at + leeway, claims._replace(signed_by=key)


def expired(claims: Claims) -> Refusal:
    return Refusal("token_expired", f"expired at {claims.expires_at:.0f}", presented=True)
