"""Verify session cookies against the database and cache the result for `cache.user_ttl`.

The end of a session is published on the user's record, so every replica sees it at once. A renewal of the cookie raises
the version of the record: a copy read at an older version is read again, which tells the previous value from the
current one.

    cookie ─▶ cached? ─▶ record not newer than the copy? ─▶ claims
                 └──────────────┴─▶ database

A session without use for `idle` is over. Each process writes the use of a session at most once per minute or quarter of
`idle`, and a cached copy is good until the idle limit by the last use that was written.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final, NamedTuple

from gateway.cache import TwoGenerationCache
from gateway.errors import Refusal
from gateway.identity.access_token import Tokens
from gateway.identity.secret_lookups import NOTE_AFTER, SecretLookups, UseNotes
from gateway.identity.session_cookie import KnownSession, SessionReader, cookie_digest
from gateway.identity.user import Claims
from gateway.samples import Sample

_NOTED_EVERY: Final = 60.0  # In seconds, unless `idle` asks for more.
_NOTES_PER_IDLE: Final = 4


class _Copy:
    """A cached cookie. `good_until` ends its use, `note_at` is the time of the next use to write."""

    __slots__ = ("claims", "good_until", "note_at")

    def __init__(self, claims: Claims, good_until: float, note_at: float) -> None:
        self.claims = claims
        self.good_until = good_until
        self.note_at = note_at


class SessionLimits(NamedTuple):
    """`idle` is in seconds, `ttl` the time for which a copy is used, `remembered` the most copies."""

    idle: float
    ttl: float
    remembered: int


class SessionVerifier:
    """The verifier of session cookies. Uses the clock of `tokens`."""

    def __init__(self, store: SessionReader, tokens: Tokens, limits: SessionLimits) -> None:
        self._store = store
        self._clock = tokens.clock
        self._limits = limits
        self._note_every = min(_NOTED_EVERY, limits.idle / _NOTES_PER_IDLE)
        self._lookups: SecretLookups[KnownSession] = SecretLookups(store.known, kind="session cookies")
        self._uses = UseNotes(store.note_uses, clock=self._clock, after=min(NOTE_AFTER, self._note_every / 2))
        self._copies: TwoGenerationCache[bytes, _Copy] = TwoGenerationCache(limits.remembered, lifetime=limits.ttl)
        # The end of running streams: by session, the time until which the session certainly lasts.
        self._lasting: TwoGenerationCache[str, float] = TwoGenerationCache(limits.remembered, lifetime=limits.ttl)
        self._hits = self._misses = 0

    def known(self, cookie: bytes) -> Claims | None:
        """The cached claims of a cookie; None if `ask` must be awaited, or the value is no cookie of the gateway."""
        copy = self._copies.young.get(cookie) or self._copies.get(cookie)
        if copy is None:
            return None
        now = self._clock()
        if now >= copy.good_until:
            return None
        if now >= copy.note_at:
            self._note(copy, now)
        self._hits += 1
        return copy.claims

    def is_cookie(self, value: bytes) -> bool:
        """Whether a value has the form of a cookie of the gateway."""
        return value in self._copies or cookie_digest(value) is not None

    async def ask(self, cookie: bytes) -> Claims:
        """Verify a cookie against the store. Raises Refusal `token_invalid`, `token_revoked` or `token_expired`, and
        StorageUnavailable."""
        asked_at = self._clock()
        session = await self.look_up(cookie)
        self._misses += 1
        ends = self._end(session)
        copy = _Copy(_claims_of(session), min(asked_at + self._limits.ttl, ends), self._next_note(session))
        self._copies.put(cookie, copy, asked_at)
        self._note(copy, self._clock())
        return copy.claims

    async def look_up(self, cookie: bytes) -> KnownSession:
        """The open session of a cookie, without caching it. Raises like `ask`."""
        digest = cookie_digest(cookie)
        session = None if digest is None else await self._lookups.find(digest)
        if session is None:
            raise Refusal("token_invalid", "no such session cookie")
        if self._end(session) <= self._clock():
            raise Refusal("token_invalid", f"the cookie of session {session.id} was renewed")
        return session

    def lasts(self, claims: Claims) -> bool:
        """Whether the session of a running stream certainly lasts; otherwise `confirm` decides."""
        return self._clock() < (self._lasting.get(claims.session) or 0.0)

    async def confirm(self, claims: Claims) -> None:
        """Check that the session of a running stream lasts. Raises Refusal, and StorageUnavailable."""
        asked_at = self._clock()
        session = await self._store.session(claims.session)
        if session is None:
            raise Refusal("token_revoked", "the session no longer exists")
        self._lasting.put(session.id, min(asked_at + self._limits.ttl, self._end(session)), asked_at)

    def samples(self) -> Iterator[Sample]:
        """Hits and misses of the cache."""
        yield Sample("gateway_cache_lookups_total", ("session", "hit"), self._hits)
        yield Sample("gateway_cache_lookups_total", ("session", "miss"), self._misses)

    async def close(self) -> None:
        """Cancel lookups, and write pending uses if the store answers quickly."""
        await self._lookups.close()
        await self._uses.close()

    def _next_note(self, session: KnownSession) -> float:
        used_at = self._uses.get(session.id) or session.used_at
        return used_at.timestamp() + self._note_every

    def _note(self, copy: _Copy, now: float) -> None:
        if now >= copy.note_at:
            copy.note_at = now + self._note_every
            self._uses.add(copy.claims.session)

    def _end(self, session: KnownSession) -> float:
        """The time at which the cookie ends unless the session is used. Raises Refusal if the session is over."""
        if session.has_ended:
            raise Refusal("token_revoked", f"session {session.id} has ended")
        ends = session.expires_at
        if not session.remember:
            used_at = max(session.used_at, self._uses.get(session.id) or session.used_at)
            ends = min(ends, used_at + timedelta(seconds=self._limits.idle))
        if ends.timestamp() <= self._clock():
            raise Refusal("token_expired", f"session {session.id} is over since {ends:%Y-%m-%dT%H:%M:%SZ}")
        if session.replaced_until is not None:
            ends = min(ends, session.replaced_until)
        return ends.timestamp()


def _claims_of(session: KnownSession) -> Claims:
    return Claims(
        subject=session.user_id,
        session=session.id,
        expires_at=session.expires_at.timestamp(),
        not_before=0.0,
        token_id=session.id,
        issuer="",
        kind="session",
        auth_time=session.authentication.time,
        acr=session.authentication.acr,
        amr=session.authentication.amr,
        record_version=session.version,
    )
