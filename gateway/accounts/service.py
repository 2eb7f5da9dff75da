"""The account service: register, log in, refresh, log out, change the password.

Methods raise Refusal for errors of the client. StorageUnavailable propagates. Every change is published to all replicas
before the response is sent. Account changes require a session of the gateway's own.
"""

import secrets
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Protocol

from gateway.accounts.change_publisher import ChangePublisher
from gateway.accounts.confirmation import Confirmation, wrong_password
from gateway.accounts.emails import EmailAddress
from gateway.accounts.expiry import CLOCK_SKEW
from gateway.accounts.lockout import Lockout
from gateway.accounts.passwords import Password, PasswordPool
from gateway.accounts.roles import admin_roles
from gateway.accounts.store import AccountStore, NewSession, NewUser, Reused, Rotated, Rotation, SessionStore
from gateway.errors import Refusal, StorageUnavailable
from gateway.identity.access_token import Tokens
from gateway.identity.refresh_token import RefreshToken
from gateway.identity.user import Actor, ChangeFeed, Claims, ClientInfo, UserRecord
from gateway.policy.roles import RoleHierarchy
from gateway.settings.model import Settings
from gateway.wire.addresses import Callers


def account_holder(claims: Claims, origin: ClientInfo) -> Actor:
    """The caller as the holder of the account. Raises `forbidden` without a session of the gateway's own.

    Subjects of external issuers manage passwords and sessions there. API keys are for machines: if a key could create
    another key or set a password, a stolen key could outlive its deletion.
    """
    if claims.roles is not None:
        raise Refusal("forbidden", "requires a session of the gateway's own")
    return Actor(claims.subject, origin)


# Tries of a login that conflicts with another change of the same account.
_ATTEMPTS: Final = 2


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
    """The service. `clock` returns seconds since the epoch and must equal the clock of stores and tokens."""

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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._users = users
        self._sessions = sessions
        self._passwords = passwords
        self._lockout = lockout
        self._registrations = registrations
        self._confirmation = Confirmation(users, passwords, lockout)
        self._callers = Callers()
        self._tokens = tokens
        self._announcer = ChangePublisher(feed)
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

    async def register(self, email: EmailAddress, password: Password, origin: ClientInfo) -> TokenPair:
        """Create an account and sign in. Raises `email_taken`, `registration_closed`, `rate_limited` or `overloaded`.

        The password is hashed before the address is checked, so that both outcomes take equally long.
        """
        self.require_open_registration()
        await self._registrations.count(origin.address)
        session = self._new_session(origin)
        user = NewUser(
            id=str(uuid.uuid4()),
            email=email.text,
            canonical=email.canonical,
            password_hash=await self._passwords.hash(password, caller=self._caller(origin)),
            roles=frozenset(self.settings.accounts.default_roles),
        )
        record = await self._announcer.changed(self._users.create(user, by=Actor(user.id, origin), session=session))
        assert record is not None
        return self._issue(record, session.id, session.token)

    def require_open_registration(self) -> None:
        """Raise `registration_closed` if registration is not allowed."""
        if self.settings.accounts.registration != "open":
            raise Refusal("registration_closed")
        if self._makes_admins:
            raise Refusal("registration_closed", "accounts.default_roles would make everyone an administrator")

    async def login(self, email: EmailAddress, password: Password | None, origin: ClientInfo) -> TokenPair:
        """Sign in. Raises `invalid_credentials`, `account_disabled` (only after the correct password), `locked_out` or
        `overloaded`."""
        attempt, caller = await self._lockout.attempt(email.canonical, origin.address), self._caller(origin)
        for _ in range(_ATTEMPTS):
            found = await self._users.credentials(email.canonical)
            stored = found.password_hash if found else None
            right = await self._passwords.matches(password, stored, caller=caller, check=attempt.check)
            if found is None or found.password_hash is None or password is None or not right:
                await attempt.failed()
                raise Refusal("invalid_credentials", "unknown user" if found is None else "wrong password")
            await attempt.succeeded()
            if not found.is_active:
                raise Refusal("account_disabled")
            rehashed = await self._rehashed(password, found.password_hash, caller)
            session = self._new_session(origin)
            opening = self._sessions.open(found.user_id, session, verified=found.password_hash, rehashed=rehashed)
            record = await self._announcer.changed(opening)
            if record is not None:
                return self._issue(record, session.id, session.token)
        raise Refusal("invalid_credentials", "the account changed during every attempt")

    async def refresh(self, token: RefreshToken | None, origin: ClientInfo) -> TokenPair:
        """Rotate a refresh token. Raises `refresh_invalid`, and `refresh_reused` for a token replaced longer ago than
        `tokens.refresh_grace`, which also ends the session."""
        if token is None:
            raise Refusal("refresh_invalid", "not a refresh token")
        rotated = await self._announcer.finish(self._rotated(token, origin))
        if rotated is None:
            raise Refusal("refresh_invalid", "belongs to no active session")
        return self._issue(rotated.record, rotated.session_id, rotated.successor)

    async def logout(self, claims: Claims, origin: ClientInfo) -> None:
        """End the caller's session. Raises `forbidden` like account_holder."""
        actor = account_holder(claims, origin)
        await self._announcer.changed(self._sessions.end(claims.subject, claims.session, reason="logout", by=actor))

    async def logout_all(self, claims: Claims, origin: ClientInfo) -> None:
        """End every session of the caller. Raises `forbidden` like account_holder."""
        actor = account_holder(claims, origin)
        await self._announcer.changed(self._sessions.end_all(claims.subject, reason="logout-all", by=actor))

    async def change_password(
        self, claims: Claims, current: Password | None, new: Password, *, origin: ClientInfo
    ) -> None:
        """Replace the caller's password and end every other session.

        Raises the refusals of Confirmation, `overloaded`, and `forbidden` like account_holder.
        """
        actor = account_holder(claims, origin)
        found = await self._confirmation.confirm(claims.subject, current, origin.address)
        hashed = await self._passwords.hash(new, caller=self._caller(origin))
        changing = self._users.set_password(
            claims.subject, hashed, by=actor, verified=found.password_hash, keep=claims.session
        )
        if await self._announcer.changed(changing) is None:
            raise wrong_password()

    def _caller(self, origin: ClientInfo) -> str:
        """The client's key in the password queue."""
        return self._callers.by_address(origin.address)

    async def _rehashed(self, password: Password, stored: str, caller: str) -> str | None:
        """A hash of the configured cost if the stored one has another cost."""
        return await self._passwords.hash(password, caller=caller) if self._passwords.is_outdated(stored) else None

    # ---- sessions and tokens

    def _new_session(self, origin: ClientInfo) -> NewSession:
        refreshable, accessible = self._ends()
        return NewSession(secrets.token_urlsafe(16), RefreshToken.new(), refreshable, accessible, origin)

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

    def _issue(self, record: UserRecord, session_id: str, refresh: RefreshToken) -> TokenPair:
        roles = self._hierarchy.expand(record.roles)
        issued = self._tokens.issue(user_id=record.id, session_id=session_id, roles=roles)
        return TokenPair(issued.token, issued.expires_in, refresh)
