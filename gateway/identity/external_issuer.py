"""Verify tokens of external issuers with the keys they publish.

Verified tokens are cached like the gateway's own: facts, never decisions, and valid tokens only. Each issuer has its
own cache (CVE-2026-33496: tokens verified for one issuer were accepted for another).
"""

import time
from collections.abc import Callable
from typing import Final, Protocol

from gateway.cache import TwoGenerationCache
from gateway.errors import Refusal
from gateway.identity.access_token import REMEMBERED, Verified, expired, in_time, report_skew
from gateway.identity.external_claims import TYPES, external_claims
from gateway.identity.jws import Jws, check_header, invalid, json_object, parse_jws
from gateway.identity.keys import VerifyingKey, canonical_algorithm
from gateway.identity.user import Claims
from gateway.settings.model import ExternalSettings

REMEMBERED_LENGTH: Final = 1024  # The average limit in bytes per cached token.
_LIFETIME: Final = 3600.0  # The minimum seconds for which an unused valid token stays cached.


class PublishedKeys(Protocol):
    """The known published keys of an issuer."""

    def get(self, kid: str, algorithm: str) -> tuple[VerifyingKey, ...]:
        """The keys with this id for this algorithm."""

    def holds(self, key: object) -> bool:
        """Whether this key object is still published, as far as known."""

    @property
    def may_be_asked(self) -> bool:
        """Whether an unknown key allows a fetch now, or a fetch is in progress."""

    async def ask(self) -> None:
        """Fetch the keys; concurrent calls share one fetch. A failed fetch is not an error and leaves the keys
        unchanged."""

    def on_loss(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a key is removed from the published set."""


class ExternalIssuer:
    """One external issuer. Caches at most `remembered` of its tokens. `clock` returns seconds since the epoch; `leeway`
    is in seconds."""

    def __init__(
        self,
        settings: ExternalSettings,
        keys: PublishedKeys,
        *,
        leeway: float,
        remembered: int = REMEMBERED,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._leeway = leeway
        self._clock = clock
        self._verified: TwoGenerationCache[bytes, Verified] = TwoGenerationCache(
            remembered, lifetime=_LIFETIME, max_key_length=remembered * REMEMBERED_LENGTH
        )
        # A removed key can have been stolen. Its tokens must be verified again, and fail.
        keys.on_loss(self._verified.clear)

    def remembered(self, credential: bytes) -> Claims | None:
        verified = self._verified.get(credential)
        if verified is None:
            return None
        now = self._clock()
        try:
            return in_time(verified, now)
        except Refusal:
            report_skew(verified, now, self._settings.name)
            raise

    def known(self, credential: bytes) -> Claims | None:
        """The claims of a token; None if the keys must be fetched first. Raises Refusal."""
        claims = self.remembered(credential)
        if claims is not None:
            return claims
        jws = parse_jws(credential)
        keys = self._keys_for(jws)
        claims = self._acceptable_claims(jws, keys)
        if not keys and self._keys.may_be_asked:
            return None
        return self._verify(credential, jws, keys, claims)

    async def ask(self, credential: bytes) -> Claims:
        """Verify a token, fetching the keys if needed. Raises Refusal."""
        jws = parse_jws(credential)
        if not self._keys_for(jws) and self._keys.may_be_asked:
            await self._keys.ask()
        keys = self._keys_for(jws)
        return self._verify(credential, jws, keys, self._acceptable_claims(jws, keys))

    def ended(self, claims: Claims) -> Refusal | None:
        """The reason to end a stream: the token has expired, or its key is no longer published. None while it is
        valid."""
        if self._clock() >= claims.expires_at + self._leeway:
            return expired(claims)
        return None if self._keys.holds(claims.signed_by) else invalid("its key is no longer published")

    def _keys_for(self, jws: Jws) -> tuple[VerifyingKey, ...]:
        kid, algorithm = check_header(jws.header, TYPES)
        if canonical_algorithm(algorithm) not in self._settings.algorithms:
            raise invalid("alg: not one that is accepted of this issuer")
        return self._keys.get(kid, algorithm)

    def _acceptable_claims(self, jws: Jws, keys: tuple[VerifyingKey, ...]) -> Claims:
        """The unverified claims, if they are acceptable now. Checked before a fetch, so that a token that would be
        refused anyway causes none."""
        claims = external_claims(json_object(jws.payload, "claims"), self._settings)
        verified, now = self._verified_as(claims), self._clock()
        try:
            return in_time(verified, now)
        except Refusal:
            if _key_that_signed(jws, keys) is not None:  # otherwise any client could write to the log
                report_skew(verified, now, self._settings.name)
            raise

    def _verify(self, credential: bytes, jws: Jws, keys: tuple[VerifyingKey, ...], claims: Claims) -> Claims:
        if not keys:
            raise invalid("kid: no key that this issuer publishes")
        key = _key_that_signed(jws, keys)
        if key is None:
            raise invalid("the signature is not the key's")
        claims = claims._replace(signed_by=key)
        self._verified.put(credential, self._verified_as(claims), self._clock())
        return claims

    def _verified_as(self, claims: Claims) -> Verified:
        return claims.not_before - self._leeway, claims.expires_at + self._leeway, claims


def _key_that_signed(jws: Jws, keys: tuple[VerifyingKey, ...]) -> VerifyingKey | None:
    return next((each for each in keys if each.verifies(jws.signed, jws.signature)), None)
