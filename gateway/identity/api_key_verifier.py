"""Verify API keys against the database and cache the result for `cache.user_ttl`.

Only immutable facts are cached: owner, role limit and expiry. Deletion is published on the user's record, as a
session's end is, so every replica sees it at once. Keys share the cache of verified tokens, so a cached key costs one
dict lookup, like a token.
"""

import math

from gateway.errors import Refusal
from gateway.identity.access_token import Tokens
from gateway.identity.api_keys import KeyReader, KnownKey, key_digest
from gateway.identity.jws import invalid
from gateway.identity.secret_lookups import NOTE_AFTER, SecretLookups, UseNotes
from gateway.identity.user import Claims


class ApiKeyVerifier:
    """The verifier of API keys. Caches a key for `ttl` seconds; shares the cache and clock of `tokens`."""

    def __init__(self, store: KeyReader, tokens: Tokens, *, ttl: float, note_after: float = NOTE_AFTER) -> None:
        self._lookups: SecretLookups[KnownKey] = SecretLookups(store.known, kind="API keys")
        self._uses = UseNotes(store.note_uses, clock=tokens.clock, after=note_after)
        self._remembered = tokens.verified
        self._clock = tokens.clock
        self._ttl = ttl

    def known(self, credential: bytes) -> Claims | None:
        """The cached claims of a key; None if `ask` must be awaited. Raises Refusal for a malformed key."""
        remembered = self._remembered.get(credential)
        if remembered is not None and self._clock() < remembered[1]:
            return remembered[2]
        if key_digest(credential) is None:
            raise _no_key()
        return None

    async def ask(self, credential: bytes) -> Claims:
        """Verify a key. Raises Refusal `token_invalid`, `token_revoked` or `token_expired`, and StorageUnavailable."""
        digest, asked_at = key_digest(credential), self._clock()
        if digest is None:
            raise _no_key()
        key = await self._lookups.find(digest)
        if key is None:
            raise invalid("no such API key")
        if key.has_ended:
            raise Refusal("token_revoked", f"API key {key.id} was deleted", presented=True)
        claims = _claims_of(key)
        if claims.expires_at <= self._clock():
            raise Refusal("token_expired", f"API key {key.id} has expired", presented=True)
        self._remembered.put(credential, (0.0, min(asked_at + self._ttl, claims.expires_at), claims), asked_at)
        self._uses.add(key.id)
        return claims

    async def close(self) -> None:
        """Cancel lookups, and write pending uses if the store answers quickly."""
        await self._lookups.close()
        await self._uses.close()


def _claims_of(key: KnownKey) -> Claims:
    return Claims(
        subject=key.user_id,
        session=key.id,
        expires_at=math.inf if key.expires_at is None else key.expires_at.timestamp(),
        not_before=0.0,
        token_id=key.id,
        issuer="",
        roles=key.roles,
        kind="api_key",
    )


def _no_key() -> Refusal:
    return invalid("not an API key of this gateway")
