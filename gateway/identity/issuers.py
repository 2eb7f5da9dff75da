"""The tokens of other issuers, verified by the keys that those publish.

Verified tokens are remembered as the gateway's own are: facts, never decisions, and only good ones. Each issuer has a
memory of its own (CVE-2026-33496: what one had vouched for was taken for another's word).
"""

import time
from collections.abc import Callable
from typing import Final, Protocol

from gateway.errors import Refusal
from gateway.identity.external_claims import check_type, external_claims
from gateway.identity.generations import Generations
from gateway.identity.jws import Jws, invalid, json_object, parse_jws
from gateway.identity.key_sets import canonical_algorithm
from gateway.identity.keys import VerifyingKey
from gateway.identity.records import Claims
from gateway.identity.tokens import REMEMBERED, Verified, expired, in_time, report_skew
from gateway.settings.model import ExternalSettings

REMEMBERED_LENGTH: Final = 1024  # bytes of a token at most, on average over all that may be remembered
_LIFETIME: Final = 3600.0  # seconds that a token which is not used stays remembered for at least, if it is good so long


class PublishedKeys(Protocol):
    """The keys that an issuer publishes, as far as they are known here."""

    def get(self, kid: str, algorithm: str) -> tuple[VerifyingKey, ...]:
        """The keys of this id for this algorithm."""

    def holds(self, key: object) -> bool:
        """Whether this very key is still published, as far as is known."""

    @property
    def may_be_asked(self) -> bool:
        """Whether the issuer may be asked for a key that is not known, or is being asked just now."""

    async def ask(self) -> None:
        """Ask the issuer, together with whoever else does. That it does not answer is no error: nothing is new."""

    def on_loss(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a key is published no more."""


class ExternalIssuer:
    """One other issuer. At most `remembered` of its tokens are; `clock` gives seconds since the epoch, `leeway` is in
    seconds."""

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
        self._verified: Generations[bytes, Verified] = Generations(
            remembered, lifetime=_LIFETIME, max_key_length=remembered * REMEMBERED_LENGTH
        )
        # A key that is published no more may have been stolen: what it signed is verified anew, and fails.
        keys.on_loss(self._verified.clear)

    def remembered(self, credential: bytes) -> Claims | None:
        """What a token says that was verified before; None for any other. Raises Refusal `token_expired`."""
        verified = self._verified.young.get(credential) or self._verified.aged(credential)
        if verified is None:
            return None
        now = self._clock()
        try:
            return in_time(verified, now)
        except Refusal:
            report_skew(verified, now, self._settings.name)
            raise

    def known(self, credential: bytes) -> Claims | None:
        """What a token says; None where the issuer must be asked for its key. Raises Refusal."""
        claims = self.remembered(credential)
        if claims is not None:
            return claims
        jws = parse_jws(credential)
        keys = self._keys_for(jws)
        claims = self._said(jws, keys)
        if not keys and self._keys.may_be_asked:
            return None
        return self._verify(credential, jws, keys, claims)

    async def ask(self, credential: bytes) -> Claims:
        """The same with the issuer asked for its keys. Raises Refusal."""
        jws = parse_jws(credential)
        if not self._keys_for(jws) and self._keys.may_be_asked:
            await self._keys.ask()
        keys = self._keys_for(jws)
        return self._verify(credential, jws, keys, self._said(jws, keys))

    def ended(self, claims: Claims) -> Refusal | None:
        """Why what was good is not any more, for what lasts longer than a request: it has expired, or its key is
        published no more. None: it is good still."""
        if self._clock() >= claims.expires_at + self._leeway:
            return expired(claims)
        return None if self._keys.holds(claims.signed_by) else invalid("its key is published no more")

    def _keys_for(self, jws: Jws) -> tuple[VerifyingKey, ...]:
        """The keys that the header names. `jku`, `x5u`, `jwk` and the like are never looked at: keys come from where
        the configuration says."""
        header = jws.header
        # RFC 7515 4.1.11: what `crit` names must be understood, and nothing is (CVE-2026-32597), RFC 7797 least.
        if "crit" in header or "b64" in header:
            raise invalid("crit: extensions are not supported")
        check_type(header)
        kid, algorithm = header.get("kid"), header.get("alg")
        if not isinstance(kid, str) or not isinstance(algorithm, str):
            raise invalid("kid or alg: missing, or not a string")
        if canonical_algorithm(algorithm) not in self._settings.algorithms:
            raise invalid("alg: not one that is accepted of this issuer")
        return self._keys.get(kid, algorithm)

    def _said(self, jws: Jws, keys: tuple[VerifyingKey, ...]) -> Claims:
        """The claims, unverified, if they would do in this moment: for one that would not, nobody need be asked."""
        claims = external_claims(json_object(jws.payload, "claims"), self._settings)
        verified, now = self._verified_as(claims), self._clock()
        try:
            return in_time(verified, now)
        except Refusal:
            if _key_that_signed(jws, keys) is not None:  # else anyone could write to the log
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
