"""What a caller presents, told apart by kind: the gateway's own tokens, those of other issuers, API keys.

The kind is found without any cryptography: by a prefix, else by who the token says has issued it. That is believed for
one thing only, whose keys and rules it is verified by: it must then pass all of them. So a credential of one kind is
never tried as one of another, and what an issuer signs can only ever speak for that issuer.
"""

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from gateway.counting import Sample
from gateway.errors import Refusal
from gateway.identity.jws import invalid, json_object, parse_jws
from gateway.identity.records import Claims
from gateway.identity.tokens import Tokens

KEY_PREFIX: Final = b"gwk_"
MAX_SIZE: Final = 8192  # bytes


class Source(Protocol):
    """One kind of credential beside the gateway's own tokens. What it keeps of those it has seen is bounded."""

    def known(self, credential: bytes) -> Claims | None:
        """What the credential says, as far as that is known here and now; None: it must be asked for.

        Raises Refusal for one that is certainly no good.
        """

    async def ask(self, credential: bytes) -> Claims:
        """The same with whoever knows asked. Raises Refusal, and StorageUnavailable where a store is out."""


class Issuer(Source, Protocol):
    """Another issuer, whose tokens are accepted."""

    def remembered(self, credential: bytes) -> Claims | None:
        """What a token says that was verified before; None for any other. Raises Refusal `token_expired`."""

    def ended(self, claims: Claims) -> Refusal | None:
        """Why what was good is not any more; None: it is good still."""


class Credentials:
    """All that a caller can present, at most `max_size` bytes long. `issuers` are the other issuers by their `iss`;
    without `api_keys` there are none and a credential that looks like one is no good."""

    def __init__(
        self,
        tokens: Tokens,
        *,
        issuers: Mapping[str, Issuer] | None = None,
        api_keys: Source | None = None,
        max_size: int = MAX_SIZE,
    ) -> None:
        self._max_size = max_size
        self.tokens = tokens
        self._own = tokens.verified
        self._clock = tokens.clock
        self._issuers = dict(issuers or {})
        self._api_keys = api_keys
        self._hits = self._misses = 0

    def samples(self) -> Iterator[Sample]:
        """How often a token was known, and how often it had to be verified."""
        yield Sample("gateway_cache_lookups_total", ("token", "hit"), self._hits + self.tokens.hits)
        yield Sample("gateway_cache_lookups_total", ("token", "miss"), self._misses + self.tokens.misses)

    def known(self, credential: bytes) -> Claims | None:
        """What the credential says; None: `ask` must be awaited. Raises Refusal for one that is certainly no good."""
        verified = self._own.young.get(credential)
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
        """The same with whoever knows asked. Raises Refusal, and StorageUnavailable where a store is out."""
        source = self._source(credential)
        return self.tokens.verify(credential) if source is None else await source.ask(credential)

    def ended(self, claims: Claims) -> Refusal | None:
        """Why what was good is not any more, for what lasts longer than a request; None: it is good still."""
        issuer = self._issuers.get(claims.issuer) if claims.is_external else None
        return self.tokens.ended(claims) if issuer is None else issuer.ended(claims)

    def _source(self, credential: bytes) -> Source | None:
        """The source of this credential; None: the gateway's own tokens. Raises Refusal for one that is no token."""
        if len(credential) > self._max_size:
            raise invalid(f"over {self._max_size} bytes (tokens.max_size)")
        if self._api_keys is not None and credential.startswith(KEY_PREFIX):
            return self._api_keys
        if not self._issuers or credential in self._own:
            return None
        claimed = json_object(parse_jws(credential).payload, "claims").get("iss")
        found = self._issuers.get(claimed) if isinstance(claimed, str) else None
        self._misses += found is not None
        return found
