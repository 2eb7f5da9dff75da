"""Verify bearer credentials of three kinds: the gateway's tokens, tokens of external issuers, API keys.

The kind is determined without cryptography: by a prefix, else by the unverified `iss` claim. That claim only selects
the keys and rules; the token must then satisfy all of them. A credential is never tried as two kinds, so tokens of an
issuer can only make statements about that issuer's subjects.
"""

from collections.abc import Iterator, Mapping
from math import inf
from typing import Final, Protocol

from gateway.errors import Refusal
from gateway.identity.access_token import Tokens
from gateway.identity.jws import invalid, json_object, parse_jws
from gateway.identity.principal import identity_value
from gateway.identity.user import Claims
from gateway.samples import Sample
from gateway.settings.model import HeaderSettings

KEY_PREFIX: Final = b"gwk_"
MAX_SIZE: Final = 8192  # In bytes.


class CredentialVerifier(Protocol):
    """A verifier for one kind of credential. Its caches are bounded."""

    def known(self, credential: bytes) -> Claims | None:
        """The cached claims; None if `ask` must be awaited.

        Raises Refusal for a credential that is certainly invalid.
        """

    async def ask(self, credential: bytes) -> Claims:
        """Verify with I/O. Raises Refusal, and StorageUnavailable if a store is down."""


class Issuer(CredentialVerifier, Protocol):
    """An external issuer whose tokens are accepted."""

    def remembered(self, credential: bytes) -> Claims | None:
        """The claims of a token verified before; None for others. Raises Refusal `token_expired`."""

    def ended(self, claims: Claims) -> Refusal | None:
        """The reason why once valid claims are no longer valid; None while they are."""


class Authenticator:
    """Verifies all kinds of credentials, up to `max_size` bytes.

    `issuers` are the external issuers by `iss`, `verified` the cached tokens of the gateway itself. Without `api_keys`,
    credentials that look like API keys are invalid.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        issuers: Mapping[str, Issuer] | None = None,
        api_keys: CredentialVerifier | None = None,
        max_size: int = MAX_SIZE,
    ) -> None:
        self._max_size = max_size
        self.tokens = tokens
        self.verified = tokens.verified
        self._clock = tokens.clock
        self._issuers = dict(issuers or {})
        self._api_keys = api_keys
        self._hits = self._misses = 0

    def samples(self) -> Iterator[Sample]:
        """Hits and misses of the token caches."""
        yield Sample("gateway_cache_lookups_total", ("token", "hit"), self._hits + self.tokens.hits)
        yield Sample("gateway_cache_lookups_total", ("token", "miss"), self._misses + self.tokens.misses)

    def known(self, credential: bytes) -> Claims | None:
        """The claims if they are cached; None if `ask` must be awaited. Raises Refusal for certainly invalid
        credentials."""
        verified = self.verified.young.get(credential)
        if verified is not None and verified[0] <= self._clock() < verified[1]:
            self._hits += 1
            return verified[2]
        for issuer in self._issuers.values():
            claims = issuer.remembered(credential)
            if claims is not None:
                self._hits += 1
                return claims
        source = self._source(credential)
        return self.tokens.verify(credential) if source is None else source.known(credential)

    async def ask(self, credential: bytes) -> Claims:
        source = self._source(credential)
        return self.tokens.verify(credential) if source is None else await source.ask(credential)

    def age(self, claims: Claims) -> float:
        """The age of the sign-in behind a credential, in seconds, with `tokens.leeway` in its favour. Infinite for a
        credential that contains none."""
        is_known = claims.auth_time and claims.kind in ("session", "token")
        return self._clock() - claims.auth_time - self.tokens.leeway if is_known else inf

    def ended(self, claims: Claims) -> Refusal | None:
        """The reason to end a stream whose claims were valid; None while they are."""
        issuer = self._issuers.get(claims.issuer) if claims.is_external else None
        return self.tokens.ended(claims) if issuer is None else issuer.ended(claims)

    def _source(self, credential: bytes) -> CredentialVerifier | None:
        """The verifier of a credential; None for the gateway's own tokens. Raises Refusal if it is no token."""
        if len(credential) > self._max_size:
            raise invalid(f"over {self._max_size} bytes (tokens.max_size)")
        if self._api_keys is not None and credential.startswith(KEY_PREFIX):
            return self._api_keys
        if not self._issuers or credential in self.verified:
            return None
        claimed = json_object(parse_jws(credential).payload, "claims").get("iss")
        found = self._issuers.get(claimed) if isinstance(claimed, str) else None
        self._misses += found is not None
        return found


class CredentialLines:
    """Makes the header lines of `identity.headers.acr` and `.session`, where they are configured.

    API keys and tokens of external issuers have no session here, and say nothing about an authentication: they have
    neither line.
    """

    def __init__(self, headers: HeaderSettings) -> None:
        self._acr = headers.acr
        self._session = headers.session

    @classmethod
    def of(cls, headers: HeaderSettings) -> "CredentialLines | None":
        """The lines of a configuration, None if it names neither header."""
        return None if headers.acr is None and headers.session is None else cls(headers)

    def __call__(self, claims: Claims) -> bytes:
        lines = b""
        if self._acr is not None and claims.acr:
            lines += _line(self._acr, claims.acr)
        if self._session is not None and has_session(claims):
            lines += _line(self._session, claims.session)
        return lines


def has_session(claims: Claims) -> bool:
    """Whether the credential belongs to a session of the gateway."""
    return claims.kind in ("session", "token")


def _line(name: str, value: str) -> bytes:
    return b"%b: %b\r\n" % (name.encode("ascii"), identity_value(value))
