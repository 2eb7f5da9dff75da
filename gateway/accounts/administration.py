"""Account administration: the service behind `gateway users …` and the administration API.

Addresses, passwords and roles are validated here. An account is identified by its id or its address. Methods raise
Refusal: `invalid_fields` with every problem at once, `not_found`, `email_taken`, `last_admin` or `overloaded`.
StorageUnavailable propagates. Every change writes an audit record in its transaction, and is published to all replicas
before the method returns.

Only a command on the machine creates the first administrator. No request to the gateway can, because a one-time setup
page would be open to the first visitor.
"""

import shlex
import time
import uuid
from collections.abc import Iterable
from typing import Final

from gateway.accounts.change_publisher import ChangePublisher, key_known_until
from gateway.accounts.commands import AccountChange, EmailOnly, NewAccount, PasswordOnly, RolesOnly
from gateway.accounts.emails import folded
from gateway.accounts.inputs import accept
from gateway.accounts.passwords import PasswordPool
from gateway.accounts.store import (
    AccountStore,
    AuditPage,
    AuditReader,
    AuditSelection,
    BlockedSubject,
    NewUser,
    Selection,
    SessionStore,
    SubjectStore,
    UserPage,
)
from gateway.errors import FieldError, Refusal, StorageUnavailable
from gateway.identity.claims import MAX_TEXT
from gateway.identity.user import COMMAND_LINE, Actor, ChangeFeed, UserRecord
from gateway.policy.roles import admin_roles
from gateway.settings.model import ExternalSettings, Settings


class Administration:
    """The service. `by` is the author for the audit trail; `who` is an id or an address."""

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
        self._announcer = ChangePublisher(feed)
        self.renew(settings)

    def renew(self, settings: Settings) -> None:
        """Apply new settings, which can declare other roles and implications."""
        self.settings = settings
        self._admin_roles = admin_roles(settings)

    async def page(self, selection: Selection) -> UserPage:
        """A page of accounts. The query is case-folded like an address."""
        return await self._users.page(selection._replace(query=folded(selection.query.strip())))

    async def audit(self, selection: AuditSelection) -> AuditPage:
        """A page of the audit trail, newest first."""
        return await self._trail.page(selection)

    async def has_admin(self) -> bool:
        """Whether any active account is an administrator."""
        return await self._users.any_active(self._admin_roles)

    async def show(self, who: str) -> UserRecord:
        if "@" not in who:
            return _found(await self._users.user(who), "No account has this id")
        body = accept(EmailOnly, {"email": who}, self.settings)
        return _found(await self._users.by_email(body.email.canonical), "No account has this e-mail address")

    async def create(
        self, email: str, password: str, roles: Iterable[str] | None = None, *, by: Actor = COMMAND_LINE
    ) -> UserRecord:
        """Create an account, by default with `accounts.default_roles`. Independent of `accounts.registration`."""
        given = {"email": email, "password": password} | ({} if roles is None else {"roles": roles})
        return await self.make(accept(NewAccount, given, self.settings), by=by)

    async def make(self, body: NewAccount, *, by: Actor) -> UserRecord:
        """Create an account from a validated request."""
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
        """Change the active state, the roles, or both, atomically."""
        record = await self.show(who)
        changing = self._users.change(
            record.id, is_active=body.is_active, roles=body.roles, by=by, admin_roles=self._admin_roles
        )
        return _found(await self._announcer.changed(changing))

    async def disable(self, who: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Disable an account without deleting anything: `enable` restores sessions and keys that have not expired."""
        return await self.change(who, AccountChange(is_active=False), by=by)

    async def enable(self, who: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Enable a disabled account."""
        return await self.change(who, AccountChange(is_active=True), by=by)

    async def set_roles(self, who: str, roles: Iterable[str], *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Replace the roles of an account."""
        body = accept(RolesOnly, {"roles": roles}, self.settings)
        return await self.change(who, AccountChange(roles=body.roles), by=by)

    async def set_password(self, who: str, password: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Replace a password and end every session of the account."""
        body = accept(PasswordOnly, {"password": password}, self.settings)
        record = await self.show(who)
        hashed = await self._passwords.hash(body.password)
        return _found(await self._announcer.changed(self._users.set_password(record.id, hashed, by=by)))

    async def revoke(self, who: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """End every session and every API key of an account."""
        record = await self.show(who)
        until = key_known_until(self.settings, time.time)
        ending = self._sessions.end_all(record.id, reason="revoked", by=by, keys_known_until=until)
        return _found(await self._announcer.changed(ending))

    async def delete(self, who: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Delete an account except its audit records. Returns the last record."""
        record = await self.show(who)
        return _found(await self._announcer.finish(self._delete(record.id, by)))

    async def _delete(self, user_id: str, by: Actor) -> UserRecord | None:
        record = await self._users.delete(user_id, by=by, admin_roles=self._admin_roles)
        if record is not None:
            await self._announcer.announce(user_id, None)
        return record


def _found(record: UserRecord | None, missing: str = "The account has just been deleted") -> UserRecord:
    if record is None:
        raise Refusal("not_found", detail=missing)
    return record


async def how_to_make_one(administration: Administration) -> str | None:
    """The command to run if no administrator exists: no active account, and no role mapping of an external issuer."""
    settings = administration.settings
    mapped = {role for issuer in settings.tokens.external for role in issuer.role_map.values()}
    try:
        if not admin_roles(settings).isdisjoint(mapped) or await administration.has_admin():
            return None
    except StorageUnavailable:
        return None
    file = settings.position_of("accounts").file
    words = ["gateway", "users", "create", "EMAIL", "--role", settings.accounts.admin_role]
    return shlex.join([*words, "--config", file] if file else words)


MAX_REASON: Final = 500  # In characters.


class Blocking:
    """The service. A subject is `NAME|SUB`: the issuer's name in the configuration, and its `sub`."""

    def __init__(self, subjects: SubjectStore, feed: ChangeFeed, issuers: Iterable[ExternalSettings]) -> None:
        self._subjects = subjects
        self._announcer = ChangePublisher(feed)
        self._names = tuple(issuer.name for issuer in issuers)

    async def blocked(self) -> tuple[BlockedSubject, ...]:
        return await self._subjects.blocked()

    async def block(self, subject: str, reason: str = "", *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Block a subject on all replicas, independent of its tokens."""
        name, _, sub = subject.partition("|")
        if name not in self._names:
            known = ", ".join(self._names) or "none"
            raise _invalid("subject", f"must be NAME|SUB with the name of an issuer in tokens.external ({known})")
        if not 0 < len(sub) <= MAX_TEXT or not sub.isprintable():
            raise _invalid("subject", f"must be NAME|SUB with a SUB of 1 to {MAX_TEXT} printable characters")
        if len(reason) > MAX_REASON or not reason.isprintable():
            raise _invalid("reason", f"must be one line of at most {MAX_REASON} characters")
        record = await self._announcer.changed(self._subjects.block(subject, reason, by=by))
        assert record is not None
        return record

    async def unblock(self, subject: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Unblock a subject."""
        record = await self._announcer.changed(self._subjects.unblock(subject, by=by))
        if record is None:
            raise Refusal("not_found", detail="This subject is not blocked")
        return record


def _invalid(field: str, message: str) -> Refusal:
    return Refusal("invalid_fields", fields=[FieldError(field, message)])
