"""Sessions of browsers: begun by a password, carried by a cookie, confirmed and ended.

Methods raise Refusal for errors of the client. StorageUnavailable propagates. Every change is published to all replicas
before the response is sent.
"""

import secrets
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from gateway.accounts.change_publisher import ChangePublisher
from gateway.accounts.confirmation import Confirmation
from gateway.accounts.emails import EmailAddress
from gateway.accounts.passwords import Password
from gateway.accounts.service import account_holder
from gateway.accounts.sign_in import CheckedPassword, PasswordSignIn
from gateway.accounts.store import AccountStore, BrowserSessionStore, CookieRenewal, NewBrowserSession, SessionStore
from gateway.errors import Refusal
from gateway.identity.session_cookie import KnownSession, cookie_digest, following_cookie, new_cookie
from gateway.identity.session_verifier import SessionVerifier
from gateway.identity.user import Actor, Authentication, ChangeFeed, Claims, ClientInfo, UserRecord
from gateway.samples import Sample
from gateway.settings.model import SessionSettings, Settings

_BY_PASSWORD: Final = ("password",)


class CurrentSession(NamedTuple):
    """A session as shown to its user. `idle_until` is None without an idle limit. `methods` are the ways in which this
    account can confirm that it is the user."""

    user: UserRecord
    id: str
    authentication: Authentication
    expires_at: datetime
    idle_until: datetime | None
    methods: tuple[str, ...]


class SessionCookie(NamedTuple):
    """A cookie to set. `max_age` is in seconds, None for a cookie that ends with the browser."""

    value: str
    max_age: int | None

    def __repr__(self) -> str:
        return "SessionCookie(********)"


class BeganSession(NamedTuple):
    """A session with a new cookie."""

    session: CurrentSession
    cookie: SessionCookie


class NextCookie(NamedTuple):
    """The cookie that replaces the one of an open session, and the change that makes it valid."""

    cookie: SessionCookie
    renewal: CookieRenewal


class BrowserSessions:
    """The service. `clock` returns seconds since the epoch and must equal the clock of the stores."""

    def __init__(
        self,
        store: BrowserSessionStore,
        *,
        users: AccountStore,
        sessions: SessionStore,
        sign_in: PasswordSignIn,
        confirmation: Confirmation,
        verifier: SessionVerifier,
        feed: ChangeFeed,
        settings: Settings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._users = users
        self._sessions = sessions
        self._sign_in = sign_in
        self._confirmation = confirmation
        self._verifier = verifier
        self._publisher = ChangePublisher(feed)
        self._clock = clock
        self._begun = 0
        self.renew(settings)

    def renew(self, settings: Settings) -> None:
        """Apply new settings."""
        assert settings.sessions is not None, "sessions are configured"
        self.settings = settings
        self._limits: SessionSettings = settings.sessions

    def samples(self) -> Iterator[Sample]:
        yield Sample("gateway_sessions_begun_total", ("browser",), self._begun)

    async def begin(
        self,
        email: EmailAddress,
        password: Password | None,
        *,
        remember: bool,
        origin: ClientInfo,
        previous: bytes | None = None,
    ) -> BeganSession:
        """Sign in, and end the session of the `previous` cookie that the browser has. Raises the refusals of
        PasswordSignIn."""
        value, now = new_cookie(), self._now()
        lifetime = self._limits.remember if remember else None
        expires_at = now + timedelta(seconds=self._limits.lifetime if lifetime is None else lifetime)
        digest = _digest(value.encode("ascii"))
        new = NewBrowserSession(secrets.token_urlsafe(16), digest, expires_at, remember, origin)

        def begin(checked: CheckedPassword) -> Coroutine[Any, Any, UserRecord | None]:
            verified, rehashed = checked.verified, checked.rehashed
            most = self._limits.per_account
            return self._store.begin(checked.user_id, new, most=most, verified=verified, rehashed=rehashed)

        user = await self._sign_in.run(email, password, origin, begin)
        self._begun += 1
        await self.end(previous, origin, reason="sign-in")
        return BeganSession(await self._of(user, new.id), self._cookie(value, expires_at, remember=remember))

    async def current(self, cookie: bytes | None) -> CurrentSession | None:
        """The session of a cookie, None for a cookie without an open session."""
        found = await self._known(cookie)
        user = None if found is None else await self._users.user(found.user_id)
        if found is None or user is None or not user.is_active:
            return None
        return self._shown(user, found)

    async def confirm(
        self, claims: Claims, cookie: bytes | None, password: Password | None, origin: ClientInfo
    ) -> BeganSession:
        """Prove the password again, and replace the cookie of the session. The cookie of before keeps the time of its
        authentication.

        Raises the refusals of Confirmation, and `token_revoked` if the session has just ended.
        """
        holder = account_holder(claims, origin)
        await self._confirmation.confirm(holder.id, password, origin.address)
        following = await self.next_cookie(claims, cookie)
        if following is None:
            raise _just_ended()
        user = await self._publisher.changed(self._store.renew(holder.id, claims.session, following.renewal))
        if user is None:
            raise _just_ended()
        return BeganSession(await self._of(user, claims.session), following.cookie)

    async def next_cookie(self, claims: Claims, cookie: bytes | None) -> NextCookie | None:
        """The cookie that follows `cookie`, that of the request, to be stored with another change; None for other
        credentials.

        Raises the refusals of a cookie: another request can have renewed it twice since the gate has accepted it.
        """
        if claims.kind != "session" or cookie is None:
            return None
        found = await self._verifier.look_up(cookie)
        value = following_cookie(cookie, found.secret)
        renewal = CookieRenewal(_digest(cookie), _digest(value.encode("ascii")), self.settings.tokens.refresh_grace)
        return NextCookie(self._cookie(value, found.expires_at, remember=found.remember), renewal)

    async def end(self, cookie: bytes | None, origin: ClientInfo, *, reason: str = "logout") -> None:
        """End the session of a cookie on all replicas. A cookie without a session changes nothing."""
        found = await self._known(cookie)
        if found is not None:
            ending = self._sessions.end(found.user_id, found.id, reason=reason, by=Actor(found.user_id, origin))
            await self._publisher.changed(ending)

    async def _known(self, cookie: bytes | None) -> KnownSession | None:
        if cookie is None:
            return None
        try:
            return await self._verifier.look_up(cookie)
        except Refusal:
            return None

    async def _of(self, user: UserRecord, session_id: str) -> CurrentSession:
        found = await self._store.session(session_id)
        if found is None:
            raise _just_ended()
        return self._shown(user, found)

    def _shown(self, user: UserRecord, found: KnownSession) -> CurrentSession:
        idle_until = None
        if not found.remember:  # this request is a use
            idle_until = min(self._now() + timedelta(seconds=self._limits.idle), found.expires_at)
        methods = _BY_PASSWORD if user.has_password else ()
        return CurrentSession(user, found.id, found.authentication, found.expires_at, idle_until, methods)

    def _cookie(self, value: str, expires_at: datetime, *, remember: bool) -> SessionCookie:
        left = (expires_at - self._now()).total_seconds()
        return SessionCookie(value, max(1, int(left)) if remember else None)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _digest(cookie: bytes) -> bytes:
    digest = cookie_digest(cookie)
    assert digest is not None, "the cookie is well-formed"
    return digest


def _just_ended() -> Refusal:
    return Refusal("token_revoked", "the session or the account has just ended")
