"""Accounts as an administrator sees them: the service behind `gateway users …` and the administration over HTTP.

Addresses, passwords and roles are taken as people type them; an account is named by its id or its address. Everything
raises Refusal: `invalid_fields` with every problem at once, `not_found`, `email_taken`, `last_admin`, `overloaded`;
StorageUnavailable passes. Every change writes an audit record in its transaction, and is announced to all replicas
before the method returns.
"""

import time
import uuid
from collections.abc import Iterable
from dataclasses import replace

from gateway.accounts.announcing import Announcer
from gateway.accounts.bodies import AccountChange, EmailOnly, NewAccount, PasswordOnly, RolesOnly
from gateway.accounts.clocks import key_known_until
from gateway.accounts.declaring import accept
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
from gateway.identity.audit import AuditPage, AuditReader, AuditSelection
from gateway.identity.records import ChangeFeed, UserRecord
from gateway.settings.model import Settings


class Administration:
    """The service. `by` is who does it, for the audit trail; `who` is an id or an address."""

    def __init__(
        self,
        *,
        users: AccountStore,
        sessions: SessionStore,
        trail: AuditReader,
        passwords: PasswordPool,
        feed: ChangeFeed,
        settings: Settings,
    ) -> None:
        self._users = users
        self._sessions = sessions
        self._trail = trail
        self._passwords = passwords
        self._announcer = Announcer(feed)
        self.renew(settings)

    def renew(self, settings: Settings) -> None:
        """Go by these settings from now on: other roles may be declared, and imply others."""
        self.settings = settings
        self._admin_roles = admin_roles(settings)

    async def page(self, selection: Selection) -> UserPage:
        """Some accounts. What is searched for is compared like an address: without case."""
        return await self._users.page(replace(selection, query=folded(selection.query.strip())))

    async def audit(self, selection: AuditSelection) -> AuditPage:
        """Some of the audit trail, newest first."""
        return await self._trail.page(selection)

    async def has_admin(self) -> bool:
        """Whether any active account may administrate."""
        return await self._users.any_active(self._admin_roles)

    async def show(self, who: str) -> UserRecord:
        """One account."""
        if "@" not in who:
            return _found(await self._users.user(who), "No account has this id")
        body = accept(EmailOnly, {"email": who}, self.settings)
        return _found(await self._users.by_email(body.email.canonical), "No account has this e-mail address")

    async def create(
        self, email: str, password: str, roles: Iterable[str] | None = None, *, by: Actor = COMMAND_LINE
    ) -> UserRecord:
        """Make an account, with `accounts.default_roles` unless told otherwise. It need not be open to register."""
        given = {"email": email, "password": password} | ({} if roles is None else {"roles": roles})
        return await self.make(accept(NewAccount, given, self.settings), by=by)

    async def make(self, body: NewAccount, *, by: Actor) -> UserRecord:
        """The same, of what was accepted already."""
        roles = frozenset(self.settings.accounts.default_roles) if body.roles is None else body.roles
        user = NewUser(
            id=str(uuid.uuid4()),
            email=body.email.text,
            canonical=body.email.canonical,
            password_hash=await self._passwords.hash(body.password),
            roles=roles,
        )
        return _found(await self._announcer.changed(self._users.create(user, by=by)))

    async def change(self, who: str, body: AccountChange, *, by: Actor) -> UserRecord:
        """Disable or enable an account, replace its roles, or both in one: all of it happens or nothing."""
        record = await self.show(who)
        changing = self._users.change(
            record.id, is_active=body.is_active, roles=body.roles, by=by, admin_roles=self._admin_roles
        )
        return _found(await self._announcer.changed(changing))

    async def disable(self, who: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Shut an account out. Nothing of it is lost: `enable` brings back what has not expired meanwhile."""
        return await self.change(who, AccountChange(is_active=False), by=by)

    async def enable(self, who: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Let a disabled account in again."""
        return await self.change(who, AccountChange(is_active=True), by=by)

    async def set_roles(self, who: str, roles: Iterable[str], *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Give an account these roles and no others."""
        body = accept(RolesOnly, {"roles": roles}, self.settings)
        return await self.change(who, AccountChange(roles=body.roles), by=by)

    async def set_password(self, who: str, password: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Replace a password; every session of the account ends."""
        body = accept(PasswordOnly, {"password": password}, self.settings)
        record = await self.show(who)
        hashed = await self._passwords.hash(body.password)
        return _found(await self._announcer.changed(self._users.set_password(record.id, hashed, by=by)))

    async def revoke(self, who: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """End every session of an account, and every API key."""
        record = await self.show(who)
        until = key_known_until(self.settings, time.time)
        ending = self._sessions.end_all(record.id, reason="revoked", by=by, keys_known_until=until)
        return _found(await self._announcer.changed(ending))

    async def delete(self, who: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Delete an account; its audit records stay. The record is what it was."""
        record = await self.show(who)
        return _found(await self._announcer.finish(self._delete(record.id, by)))

    async def _delete(self, user_id: str, by: Actor) -> UserRecord | None:
        record = await self._users.delete(user_id, by=by, admin_roles=self._admin_roles)
        if record is not None:
            await self._announcer.announce(user_id, None)
        return record


def _found(record: UserRecord | None, missing: str = "The account has been deleted meanwhile") -> UserRecord:
    if record is None:
        raise Refusal("not_found", detail=missing)
    return record
