"""The account service: register, log in, refresh, log out, change the password.

Methods raise Refusal for errors of the client. StorageUnavailable propagates. Every change is published to all replicas
before the response is sent. Account changes require a session of the gateway's own.
"""

import re
import secrets
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol

from gateway.accounts.change_publisher import CLOCK_SKEW, ChangePublisher, key_known_until
from gateway.accounts.confirmation import Confirmation, require_fresh, wrong_password
from gateway.accounts.emails import EmailAddress
from gateway.accounts.lockout import Lockout
from gateway.accounts.mail.ports import MailLimiter
from gateway.accounts.passwords import Password, PasswordPool
from gateway.accounts.sign_in import CheckedPassword, PasswordSignIn, VerificationRequired
from gateway.accounts.store import (
    AccountStore,
    ActiveSession,
    CookieRenewal,
    NewSession,
    NewUser,
    PasswordEffects,
    Reused,
    Rotated,
    Rotation,
    SessionStore,
)
from gateway.errors import FieldError, Refusal, StorageUnavailable
from gateway.identity.access_token import Tokens
from gateway.identity.refresh_token import RefreshToken
from gateway.identity.user import Actor, Authentication, ChangeFeed, Claims, ClientInfo, UserRecord, by_password
from gateway.policy.roles import RoleHierarchy, admin_roles
from gateway.settings.model import Settings, Unset
from gateway.wire.addresses import Callers


def account_holder(claims: Claims, origin: ClientInfo) -> Actor:
    """The caller as the holder of the account. Raises `forbidden` without a session of the gateway's own.

    Subjects of external issuers manage passwords and sessions there. API keys are for machines: if a key could create
    another key or set a password, a stolen key could outlive its deletion.
    """
    if claims.roles is not None:
        raise Refusal("forbidden", "requires a session of the gateway's own")
    return Actor(claims.subject, origin)


class TokenPair(NamedTuple):
    """The tokens of a new or refreshed session; `expires_in` is in seconds."""

    access_token: str
    expires_in: int
    refresh_token: RefreshToken


class RegistrationLimiter(Protocol):
    """Bounds the attempts to register from one address."""

    async def count(self, address: str) -> None:
        """Count an attempt of a client at this address. Raises `rate_limited`, and then it is not counted."""


class Accounts:
    """The service. `mail_limits` bound the links that registrations cause, None without mail. `clock` returns seconds
    since the epoch and must equal the clock of stores and tokens."""

    def __init__(
        self,
        *,
        users: AccountStore,
        sessions: SessionStore,
        passwords: PasswordPool,
        lockout: Lockout,
        registrations: RegistrationLimiter,
        tokens: Tokens,
        feed: ChangeFeed,
        settings: Settings,
        verification: VerificationRequired | None = None,
        mail_limits: MailLimiter | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._users = users
        self._sessions = sessions
        self._passwords = passwords
        self._registrations = registrations
        self._mail_limits = mail_limits
        self._confirmation = Confirmation(users, passwords, lockout)
        self._callers = Callers()
        self._tokens = tokens
        self._announcer = ChangePublisher(feed)
        self.sign_in = PasswordSignIn(users, passwords, lockout, self._announcer, verification=verification)
        self._clock = clock
        self.renew(settings)

    def renew(self, settings: Settings) -> None:
        """Apply new settings, which can declare other roles and implications."""
        self.settings = settings
        self._hierarchy = RoleHierarchy(settings.roles)
        # A configuration file with such defaults is rejected, but a reload can change the implications of roles.
        self._makes_admins = not admin_roles(settings).isdisjoint(settings.accounts.default_roles)

    async def prepare(self) -> None:
        """Learn the cost of stored hashes before the first login. An unavailable store is not an error: the first check
        of a more expensive hash provides the same information."""
        with suppress(StorageUnavailable):
            self._passwords.expect(await self._users.most_rounds())

    async def note_language(self, user_id: str, language: str) -> None:
        """Store the language of a sign-in page for mails. An unavailable store is no error: the user is signed in."""
        with suppress(StorageUnavailable):
            await self._users.note_language(user_id, language)

    async def register(self, email: EmailAddress, password: Password, origin: ClientInfo) -> TokenPair:
        """Create an account and sign in by tokens. Raises the refusals of `create`."""
        session = self._new_session(origin)
        record = await self.create(email, password, origin, session=session)
        return self.tokens_for(record, session)

    async def create(
        self, email: EmailAddress, password: Password, origin: ClientInfo, *, session: NewSession | None = None
    ) -> UserRecord:
        """Create an account. Raises `email_taken`, `registration_closed`, `rate_limited` or `overloaded`.

        The password is hashed before the address is checked, so that both outcomes take equally long.
        """
        self.require_open_registration()
        await self._registrations.count(origin.address)
        user = NewUser(
            id=str(uuid.uuid4()),
            email=email.text,
            canonical=email.canonical,
            password_hash=await self._passwords.hash(password, caller=self._caller(origin)),
            roles=frozenset(self.settings.accounts.default_roles),
        )
        asks = await self._asks_to_verify(email, origin)
        creating = self._users.create(user, by=Actor(user.id, origin), session=session, asks_to_verify=asks)
        record = await self._announcer.changed(creating)
        assert record is not None
        return record

    async def _asks_to_verify(self, email: EmailAddress, origin: ClientInfo) -> bool:
        """Whether a registration causes a mail. Beyond `mail.limits` the account is created without one: a client
        could otherwise make the gateway mail any number of addresses."""
        if self._mail_limits is None or self.settings.accounts.email.verification != "optional":
            return False
        return await self._mail_limits.admits(email.canonical, origin.address)

    def require_open_registration(self) -> None:
        """Raise `registration_closed` if registration is not allowed."""
        if self.settings.accounts.registration != "open":
            raise Refusal("registration_closed")
        if self._makes_admins:
            raise Refusal("registration_closed", "accounts.default_roles would make everyone an administrator")

    async def login(self, email: EmailAddress, password: Password | None, origin: ClientInfo) -> TokenPair:
        """Sign in. Raises the refusals of PasswordSignIn."""
        session = self._new_session(origin)

        def begin(checked: CheckedPassword) -> Coroutine[Any, Any, UserRecord | None]:
            return self._sessions.open(checked.user_id, session, verified=checked.verified, rehashed=checked.rehashed)

        record = await self.sign_in.run(email, password, origin, begin)
        return self._issue(record, session.id, session.token, self._just_now())

    async def confirm(self, claims: Claims, password: Password | None, origin: ClientInfo) -> TokenPair:
        """Prove the password again in a session of tokens, and return new tokens of this session. Those of before keep
        the time of their authentication, and their refresh tokens end.

        Raises the refusals of Confirmation, `forbidden` like account_holder, and `token_revoked` if the session has
        just ended.
        """
        account_holder(claims, origin)
        await self._confirmation.confirm(claims.subject, password, origin.address)
        session = self._new_session(origin, claims.session)
        record = await self._announcer.finish(self._sessions.reissue(claims.subject, session))
        if record is None:
            raise Refusal("token_revoked", "the session or the account has just ended", presented=True)
        return self._issue(record, session.id, session.token, self._just_now())

    async def refresh(self, token: RefreshToken | None, origin: ClientInfo) -> TokenPair:
        """Rotate a refresh token. Raises `refresh_invalid`, and `refresh_reused` for a token replaced longer ago than
        `tokens.refresh_grace`, which also ends the session."""
        if token is None:
            raise Refusal("refresh_invalid", "not a refresh token")
        rotated = await self._announcer.finish(self._rotated(token, origin))
        if rotated is None:
            raise Refusal("refresh_invalid", "belongs to no active session")
        return self._issue(rotated.record, rotated.session_id, rotated.successor, rotated.authentication)

    async def logout(self, claims: Claims, origin: ClientInfo) -> None:
        """End the caller's session. Raises `forbidden` like account_holder."""
        actor = account_holder(claims, origin)
        await self._announcer.changed(self._sessions.end(claims.subject, claims.session, reason="logout", by=actor))

    async def logout_all(self, claims: Claims, origin: ClientInfo) -> None:
        """End every session of the caller. Raises `forbidden` like account_holder."""
        actor = account_holder(claims, origin)
        await self._announcer.changed(self._sessions.end_all(claims.subject, reason="logout-all", by=actor))

    async def change_password(
        self,
        claims: Claims,
        current: Password | Unset | None,
        new: Password,
        *,
        origin: ClientInfo,
        end_api_keys: bool = False,
        renewal: CookieRenewal | None = None,
    ) -> None:
        """Replace the caller's password and end every other session, and with `end_api_keys` every API key. `renewal`
        is the next cookie of the caller's browser session.

        An account without a password needs a recent authentication instead of the `current` one. Raises the refusals of
        Confirmation, `reauthentication_required`, `overloaded`, and `forbidden` like account_holder.
        """
        actor = account_holder(claims, origin)
        verified = await self._proved(claims, current, origin)
        hashed = await self._passwords.hash(new, caller=self._caller(origin))
        keys_known_until = key_known_until(self.settings, self._clock) if end_api_keys else None
        effects = PasswordEffects(claims.session, renewal, keys_known_until)
        changing = self._users.set_password(claims.subject, hashed, by=actor, verified=verified, effects=effects)
        if await self._announcer.changed(changing) is None:
            raise wrong_password()

    async def _proved(self, claims: Claims, current: Password | Unset | None, origin: ClientInfo) -> str | None:
        """The stored hash that the current password matches, None for an account without one."""
        if not isinstance(current, Unset):
            return (await self._confirmation.confirm(claims.subject, current, origin.address)).password_hash
        found = await self._users.credentials_of(claims.subject)
        if found is None or found.password_hash is not None:
            raise Refusal("invalid_fields", fields=[FieldError("current_password", "is required")])
        require_fresh(claims, self.settings, now=self._clock())
        return None

    def _caller(self, origin: ClientInfo) -> str:
        """The client's key in the password queue."""
        return self._callers.by_address(origin.address)

    # ---- sessions and tokens

    def opening(self, origin: ClientInfo) -> NewSession:
        """A session to open with a new account."""
        return self._new_session(origin)

    def tokens_for(self, record: UserRecord, session: NewSession) -> TokenPair:
        """The tokens of a session that was opened with a new account."""
        return self._issue(record, session.id, session.token, self._just_now())

    def _new_session(self, origin: ClientInfo, session_id: str | None = None) -> NewSession:
        refreshable, accessible = self._ends()
        session_id = secrets.token_urlsafe(16) if session_id is None else session_id
        return NewSession(session_id, RefreshToken.new(), refreshable, accessible, origin)

    def _just_now(self) -> Authentication:
        return by_password(self._clock())

    def _ends(self) -> tuple[datetime, datetime]:
        """The expiry of refresh tokens issued now, and the time until which their access tokens can be accepted
        anywhere."""
        now, tokens = datetime.fromtimestamp(self._clock(), UTC), self.settings.tokens
        accessible = timedelta(seconds=tokens.access_ttl + tokens.leeway + CLOCK_SKEW)
        return now + timedelta(seconds=tokens.refresh_ttl), now + accessible

    async def _rotated(self, token: RefreshToken, origin: ClientInfo) -> Rotated | None:
        refreshable, accessible = self._ends()
        outcome = await self._sessions.rotate(
            Rotation(token, self.settings.tokens.refresh_grace, refreshable, accessible, origin)
        )
        if isinstance(outcome, Reused):
            await self._announcer.announce(outcome.record.id, outcome.record)
            raise Refusal("refresh_reused", f"session of user {outcome.record.id} ended")
        return outcome

    def _issue(
        self, record: UserRecord, session_id: str, refresh: RefreshToken, authentication: Authentication
    ) -> TokenPair:
        roles = self._hierarchy.expand(record.roles)
        issued = self._tokens.issue(
            user_id=record.id, session_id=session_id, roles=roles, authentication=authentication
        )
        return TokenPair(issued.token, issued.expires_in, refresh)


# The format of secrets.token_urlsafe. Other text needs no query, and PostgreSQL rejects NUL.
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch


class SessionService:
    def __init__(self, sessions: SessionStore, feed: ChangeFeed) -> None:
        self._sessions = sessions
        self._announcer = ChangePublisher(feed)

    async def list(self, claims: Claims, origin: ClientInfo) -> tuple[ActiveSession, ...]:
        """The caller's sessions, most recently used first. Raises `forbidden` like account_holder."""
        return await self._sessions.living(account_holder(claims, origin).id)

    async def end(self, claims: Claims, session_id: str, origin: ClientInfo) -> None:
        """End a session of the caller on all replicas. Raises `not_found` unless it is an active session of the caller,
        `forbidden` like account_holder."""
        holder = account_holder(claims, origin)
        if _ID(session_id) is None:
            raise Refusal("not_found")
        ending = self._sessions.end_living(holder.id, session_id, reason="removed", by=holder)
        if await self._announcer.changed(ending) is None:
            raise Refusal("not_found")
