"""Accounts as an administrator sees them: the service behind `gateway users …`.

Addresses, passwords and roles are taken as people type them. Everything raises Refusal: `invalid_fields` with every
problem at once, `not_found`, `email_taken`, `last_admin`, `overloaded`; StorageUnavailable passes. Every change writes
an audit record and is announced to all replicas before the method returns.
"""

import uuid
from collections.abc import Iterable

from gateway.accounts.announcing import Announcer
from gateway.accounts.bodies import EmailOnly, NewAccount, PasswordOnly, RolesOnly, accept
from gateway.accounts.emails import folded
from gateway.accounts.passwords import PasswordPool
from gateway.accounts.roles import admin_roles
from gateway.errors import Refusal
from gateway.identity.accounts import (
    COMMAND_LINE,
    AccountStore,
    Actor,
    NewUser,
    Selection,
    SessionStore,
    UserPage,
)
from gateway.identity.records import ChangeFeed, UserRecord
from gateway.settings.model import Settings


class Administration:
    """The service. `by` is who does it, for the audit trail."""

    def __init__(
        self,
        *,
        users: AccountStore,
        sessions: SessionStore,
        passwords: PasswordPool,
        feed: ChangeFeed,
        settings: Settings,
    ) -> None:
        self._users = users
        self._sessions = sessions
        self._passwords = passwords
        self._announcer = Announcer(feed)
        self._settings = settings
        self._admin_roles = admin_roles(settings)

    async def list(
        self,
        *,
        query: str = "",
        role: str | None = None,
        active: bool | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> UserPage:
        """Accounts in the order of their addresses: those whose address contains `query`. `after` is the `next` of the
        page before."""
        return await self._users.page(Selection(folded(query), role, active, limit, after))

    async def show(self, email: str) -> UserRecord:
        """The account of this address."""
        body = accept(EmailOnly, {"email": email}, self._settings)
        return _found(await self._users.by_email(body.email.canonical))

    async def create(
        self, email: str, password: str, roles: Iterable[str] | None = None, *, by: Actor = COMMAND_LINE
    ) -> UserRecord:
        """Make an account, with `accounts.default_roles` unless told otherwise. It need not be open to register."""
        given = self._settings.accounts.default_roles if roles is None else roles
        body = accept(NewAccount, {"email": email, "password": password, "roles": given}, self._settings)
        user = NewUser(
            id=str(uuid.uuid4()),
            email=body.email.text,
            canonical=body.email.canonical,
            password_hash=await self._passwords.hash(body.password),
            roles=body.roles,
        )
        return _found(await self._announcer.changed(self._users.create(user, by=by)))

    async def disable(self, email: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Shut an account out. Nothing of it is lost: `enable` brings back what has not expired meanwhile."""
        return await self._set_active(email, False, by=by)

    async def enable(self, email: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Let a disabled account in again."""
        return await self._set_active(email, True, by=by)

    async def set_roles(self, email: str, roles: Iterable[str], *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Give an account these roles and no others."""
        body = accept(RolesOnly, {"roles": roles}, self._settings)
        record = await self.show(email)
        changing = self._users.set_roles(record.id, body.roles, by=by, admin_roles=self._admin_roles)
        return _found(await self._announcer.changed(changing))

    async def set_password(self, email: str, password: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Replace a password; every session of the account ends."""
        body = accept(PasswordOnly, {"password": password}, self._settings)
        record = await self.show(email)
        hashed = await self._passwords.hash(body.password)
        return _found(await self._announcer.changed(self._users.set_password(record.id, hashed, by=by)))

    async def revoke(self, email: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """End every session of an account."""
        record = await self.show(email)
        ending = self._sessions.end_all(record.id, reason="revoked", by=by)
        return _found(await self._announcer.changed(ending))

    async def delete(self, email: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Delete an account; its audit records stay. The record is what it was."""
        record = await self.show(email)
        return _found(await self._announcer.finish(self._delete(record.id, by)))

    async def _set_active(self, email: str, active: bool, *, by: Actor) -> UserRecord:
        record = await self.show(email)
        changing = self._users.set_active(record.id, active, by=by, admin_roles=self._admin_roles)
        return _found(await self._announcer.changed(changing))

    async def _delete(self, user_id: str, by: Actor) -> UserRecord | None:
        record = await self._users.delete(user_id, by=by, admin_roles=self._admin_roles)
        if record is not None:
            await self._announcer.announce(user_id, None)
        return record


def _found(record: UserRecord | None) -> UserRecord:
    if record is None:
        raise Refusal("not_found", detail="No account has this e-mail address")
    return record
