"""Verify API keys against the database and cache the result for `cache.user_ttl`.

Only immutable facts are cached: owner, role limit and expiry. Deletion is published on the user's record, as a
session's end is, so every replica sees it at once. Keys share the cache of verified tokens, so a cached key costs one
dict lookup, like a token.

Unknown keys need a database query, and clients can invent well-formed keys. Concurrent lookups are therefore batched,
one batch at a time: a flood occupies only one database connection.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from gateway.errors import Refusal, StorageUnavailable, without_traceback
from gateway.identity.access_token import Tokens
from gateway.identity.api_keys import KeyReader, KnownKey, key_digest
from gateway.identity.jws import invalid
from gateway.identity.user import Claims

_AT_A_TIME: Final = 128
MAX_ASKED: Final = 4096  # Concurrent lookups; beyond this number the store counts as unavailable.
MAX_NOTED: Final = 10_000  # Keys whose use is not yet written.
NOTE_AFTER: Final = 1.0  # In seconds.
_TOO_MANY: Final = "too many API keys are being looked up"

log: Final = logging.getLogger("gateway.identity")

_Outcome = KnownKey | StorageUnavailable | None


class ApiKeyVerifier:
    """The verifier of API keys. Caches a key for `ttl` seconds; shares the cache and clock of `tokens`."""

    def __init__(self, store: KeyReader, tokens: Tokens, *, ttl: float, note_after: float = NOTE_AFTER) -> None:
        self._store = store
        self._remembered = tokens.verified
        self._clock = tokens.clock
        self._ttl = ttl
        self._note_after = note_after
        self._asked: dict[bytes, asyncio.Future[_Outcome]] = {}
        self._used: dict[str, datetime] = {}
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None

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
        key = await self._looked_up(digest)
        if key is None:
            raise invalid("no such API key")
        if key.has_ended:
            raise Refusal("token_revoked", f"API key {key.id} was deleted", presented=True)
        claims = _claims_of(key)
        if claims.expires_at <= self._clock():
            raise Refusal("token_expired", f"API key {key.id} has expired", presented=True)
        self._remembered.put(credential, (0.0, min(asked_at + self._ttl, claims.expires_at), claims), asked_at)
        self._note(key.id)
        return claims

    async def close(self) -> None:
        """Cancel lookups, and write pending uses if the store answers quickly."""
        tasks = [task for task in (self._reader, self._writer) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._write()

    # ---- lookups

    def _looked_up(self, digest: bytes) -> Awaitable[KnownKey | None]:
        outcome = self._asked.get(digest)
        if outcome is None:
            if len(self._asked) >= MAX_ASKED:
                log.warning("the database is unavailable (%s)", _TOO_MANY)
                raise StorageUnavailable("database", _TOO_MANY)
            loop = asyncio.get_running_loop()
            outcome = self._asked[digest] = loop.create_future()
            if self._reader is None:
                self._reader = loop.create_task(self._read())
        return _answered(outcome)

    async def _read(self) -> None:
        try:
            while self._asked:
                batch = dict(islice(self._asked.items(), _AT_A_TIME))
                for digest in batch:
                    del self._asked[digest]
                await self._answer(batch)
        finally:
            self._reader = None
            _give_up(self._asked)
            self._asked = {}

    async def _answer(self, batch: "dict[bytes, asyncio.Future[_Outcome]]") -> None:
        try:
            found = await self._store.known(tuple(batch))
            for digest, outcome in batch.items():
                outcome.set_result(found.get(digest))
        except StorageUnavailable as error:
            for outcome in batch.values():
                outcome.set_result(without_traceback(error))
        finally:
            _give_up(batch)  # no waiter is left behind, however this ended

    # ---- recording uses

    def _note(self, key_id: str) -> None:
        if len(self._used) < MAX_NOTED:
            self._used[key_id] = datetime.fromtimestamp(self._clock(), UTC)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_soon())

    async def _write_soon(self) -> None:
        try:
            while self._used:
                await asyncio.sleep(self._note_after)
                await self._write()
        finally:
            self._writer = None

    async def _write(self) -> None:
        uses, self._used = self._used, {}
        if uses:
            with suppress(StorageUnavailable):  # the next use of the key is recorded
                await self._store.note_uses(uses)


def _claims_of(key: KnownKey) -> Claims:
    return Claims(
        subject=key.user_id,
        session=key.id,
        expires_at=math.inf if key.expires_at is None else key.expires_at.timestamp(),
        not_before=0.0,
        token_id=key.id,
        issuer="",
        roles=key.roles,
    )


async def _answered(outcome: "asyncio.Future[_Outcome]") -> KnownKey | None:
    # Shielded: a cancelled waiter must not cancel the lookup of the others.
    found = await asyncio.shield(outcome)
    if isinstance(found, StorageUnavailable):
        raise StorageUnavailable(found.store, found.reason)
    return found


def _give_up(asked: "dict[bytes, asyncio.Future[_Outcome]]") -> None:
    for outcome in asked.values():
        if not outcome.done():
            outcome.set_result(StorageUnavailable("database", "the lookup was cancelled"))


def _no_key() -> Refusal:
    return invalid("not an API key of this gateway")
