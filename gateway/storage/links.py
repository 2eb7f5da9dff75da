"""One-time links in the database, and the changes that they make.

A change uses its link by a conditional update in its own transaction, so of any number of attempts at once one
succeeds, on any number of replicas. Every change locks the account first, as transactions.py describes, and compares
the address of the link with the current address of the account: a link proves the mailbox that it was sent to.
"""

import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select, update

from gateway.accounts.emails import EmailAddress
from gateway.accounts.links import Invitation, Link, LinkKind, link_invalid
from gateway.accounts.store import NewSession, NewUser
from gateway.errors import Refusal
from gateway.identity.user import COMMAND_LINE, Actor, UserRecord
from gateway.storage.audit import AuditedTransaction, write_audit
from gateway.storage.database import Database
from gateway.storage.link_rows import add_link, void_links, void_links_to
from gateway.storage.outbox import Addressee, Outbox, addressee
from gateway.storage.tables import blocked_subjects, links, user_roles, users
from gateway.storage.transactions import Ending, changed, end_keys, end_sessions, grant, lock_user
from gateway.storage.user_emails import account_row, change_address, mark_verified
from gateway.storage.user_queries import Clock, instant, record_by_id
from gateway.storage.users import create_user

T = TypeVar("T")

_MOST_LISTED: Final = 1000  # Open invitations.
_BEYOND_ACCOUNTS: Final = "|"  # Part of every id of an external issuer's subject.


class Links:
    """Implements LinkStore and InvitationStore.

    `keys_known_for` is the time in seconds for which replicas can hold a copy of an API key. `clock` returns seconds
    since the epoch.
    """

    def __init__(self, database: Database, outbox: Outbox, *, keys_known_for: float, clock: Clock = time.time) -> None:
        self._database = database
        self._outbox = outbox
        self._keys_known_for = timedelta(seconds=keys_known_for)
        self._clock = clock

    async def find(self, digest: bytes, kinds: Collection[LinkKind]) -> Link | None:
        """Return a link that can be used. The address of an account that has changed since makes it useless."""
        now = instant(self._clock)
        which = and_(
            links.c.digest == digest,
            links.c.kind.in_(kinds),
            links.c.used_at.is_(None),
            links.c.expires_at > now,
            or_(links.c.user_id.is_(None), _fits_account()),
        )
        query = select(
            links, users.c.email.label("account_email"), users.c.email_verified_at.is_not(None).label("is_verified")
        ).outerjoin_from(links, users, users.c.id == links.c.user_id)
        row = await self._database.read(lambda connection: connection.execute(query.where(which)).one_or_none())
        return None if row is None else _link(row)

    async def verify(self, link: Link, *, by: Actor) -> UserRecord | None:
        """Verify the address of the account."""

        def work(connection: Connection, now: datetime) -> UserRecord | None:
            if self._account(connection, link, now) is None:
                return None
            assert link.user_id is not None
            return mark_verified(connection, link.user_id, now, by=by)

        return await self._write(work)

    async def claim(self, link: Link, password_hash: str, *, by: Actor) -> UserRecord | None:
        """Verify the address of an unverified account and take the account over."""

        def work(connection: Connection, now: datetime) -> UserRecord | None:
            account = self._account(connection, link, now)
            if account is None or account.email_verified_at is not None:
                return None
            return self._claim(connection, account, now, password_hash, by=by)

        return await self._write(work)

    async def reset(self, link: Link, password_hash: str, *, by: Actor) -> UserRecord | None:
        """Replace the password, and end everything that was begun with the old one."""

        def work(connection: Connection, now: datetime) -> UserRecord | None:
            account = self._account(connection, link, now)
            if account is None:
                return None
            if account.email_verified_at is None:
                return self._claim(connection, account, now, password_hash, by=by)
            connection.execute(update(users).where(users.c.id == account.id).values(password_hash=password_hash))
            ended = self._end_everything(connection, account.id, now, reason="password")
            write_audit(connection, AuditedTransaction("password.reset", account.id, after=ended), by=by, at=now)
            self._outbox.notice(connection, "password-changed", account.id, now)
            return changed(connection, account.id, now)

        return await self._write(work)

    async def change_email(self, link: Link, *, by: Actor) -> UserRecord | None:
        """Change the address of the account, which the link verifies."""

        def work(connection: Connection, now: datetime) -> UserRecord | None:
            account = self._account(connection, link, now)
            if account is None:
                return None
            new = Addressee(link.email, link.canonical, account.language, account.id)
            try:
                return change_address(connection, account, new, now, self._outbox, by=by, is_verified=True)
            except Refusal as refusal:
                raise link_invalid(refusal.code) from None

        return await self._write(work)

    async def register(
        self, link: Link, user: NewUser, *, by: Actor, admin_roles: Collection[str], session: NewSession | None
    ) -> UserRecord | None:
        """Create the account of a registration or an invitation."""

        def work(connection: Connection, now: datetime) -> UserRecord | None:
            if not _used(connection, link, now) or not _is_still_given(connection, link, admin_roles):
                return None
            try:
                record = create_user(connection, user, now, by=by, session=session)
            except Refusal:
                raise Refusal("account_exists") from None
            void_links_to(connection, link.canonical)
            if link.kind == "invitation":
                write_audit(connection, _accepted(link, user.id), by=by, at=now)
            return record

        return await self._write(work)

    async def join(
        self, link: Link, user_id: str, roles: frozenset[str], *, by: Actor, admin_roles: Collection[str]
    ) -> UserRecord | None:
        """Add the roles of an invitation to the account with its address."""

        def work(connection: Connection, now: datetime) -> UserRecord | None:
            lock_user(connection, user_id)
            account = account_row(connection, user_id)
            if account is None or not account.is_active or account.canonical != link.canonical:
                return None
            if not _used(connection, link, now) or not _is_still_given(connection, link, admin_roles):
                return None
            if account.email_verified_at is None:
                self._claim(connection, account, now, None, by=by)
            before = record_by_id(connection, user_id, now)
            assert before is not None, "the user's row is locked by this transaction"
            grant(connection, user_id, roles - before.roles)
            write_audit(connection, _accepted(link, user_id), by=by, at=now)
            return changed(connection, user_id, now)

        return await self._write(work)

    async def issue_reset(self, user_id: str, *, lifetime: float, deliver: bool, by: Actor) -> str | None:
        """Create a link that resets a password. Its author is in the audit trail, without the link."""

        def work(connection: Connection, now: datetime) -> str | None:
            user = lock_user(connection, user_id)
            to = addressee(connection, users.c.id == user_id)
            if user is None or to is None or not user.is_active:
                return None
            made = add_link(
                connection, "reset", now, lifetime=lifetime, user_id=user_id, canonical=to.canonical, data={}
            )
            if deliver:
                self._outbox.write(connection, "reset", to, now, link=made.token, lifetime=timedelta(seconds=lifetime))
            write_audit(connection, AuditedTransaction("password.reset_requested", user_id), by=by, at=now)
            return made.token

        return await self._write(work)

    # ---- invitations

    async def invite(
        self, email: EmailAddress, roles: frozenset[str], *, lifetime: float, deliver: bool, by: Actor
    ) -> tuple[Invitation, str] | None:
        """Create an invitation, and void earlier ones of the address. Return None if the address has an account."""

        def work(connection: Connection, now: datetime) -> tuple[Invitation, str] | None:
            if connection.execute(select(users.c.id).where(users.c.canonical == email.canonical)).first() is not None:
                return None
            what = {"email": email.text, "roles": sorted(roles)}
            made = add_link(
                connection,
                "invitation",
                now,
                lifetime=lifetime,
                user_id=None,
                canonical=email.canonical,
                data={**what, "by": by.id},
            )
            if deliver:
                to = Addressee(email.text, email.canonical)
                self._outbox.write(
                    connection, "invitation", to, now, link=made.token, lifetime=timedelta(seconds=lifetime)
                )
            write_audit(connection, AuditedTransaction("invitation.created", made.id, after=what), by=by, at=now)
            return Invitation(made.id, email.text, roles, by.id, now, made.expires_at), made.token

        return await self._write(work)

    async def open_invitations(self) -> tuple[Invitation, ...]:
        """Return the open invitations, newest first."""
        query = select(links).where(_is_open_invitation(instant(self._clock)))
        newest = query.order_by(links.c.created_at.desc(), links.c.id).limit(_MOST_LISTED)
        rows = await self._database.read(lambda connection: connection.execute(newest).all())
        return tuple(
            Invitation(
                row.id, row.data["email"], frozenset(row.data["roles"]), row.data["by"], row.created_at, row.expires_at
            )
            for row in rows
        )

    async def withdraw(self, invitation_id: str, *, by: Actor) -> bool:
        """Void an invitation."""

        def work(connection: Connection, now: datetime) -> bool:
            which = and_(links.c.id == invitation_id, _is_open_invitation(now))
            if connection.execute(delete(links).where(which)).rowcount == 0:
                return False
            write_audit(connection, AuditedTransaction("invitation.deleted", invitation_id), by=by, at=now)
            return True

        return await self._write(work)

    # ---- steps of several changes

    async def _write(self, work: Callable[[Connection, datetime], T]) -> T:
        now = instant(self._clock)
        return await self._database.write(lambda connection: work(connection, now))

    def _account(self, connection: Connection, link: Link, now: datetime) -> Any:
        """Lock the account of a link and use the link. Return the columns of the account, None if the link is void."""
        assert link.user_id is not None, "the link belongs to an account"
        lock_user(connection, link.user_id)
        account = account_row(connection, link.user_id)
        if account is None or not account.is_active:
            return None
        if link.kind != "email" and account.canonical != link.canonical:
            return None
        return account if _used(connection, link, now) else None

    def _claim(
        self, connection: Connection, account: Any, now: datetime, password_hash: str | None, *, by: Actor
    ) -> UserRecord:
        """Verify an account and remove everything that was added before its owner proved the mailbox.

        An attacker can have registered the address and waited for its owner ("pre-hijacking", CVE-2026-53516).
        """
        values = {"password_hash": password_hash, "email_verified_at": now}
        connection.execute(update(users).where(users.c.id == account.id).values(**values))
        ended = self._end_everything(connection, account.id, now, reason="claimed")
        after = {"email": account.email, "is_claimed": True, **ended}
        write_audit(connection, AuditedTransaction("email.verified", account.id, after=after), by=by, at=now)
        self._outbox.notice(connection, "account-claimed", account.id, now)
        return changed(connection, account.id, now)

    def _end_everything(self, connection: Connection, user_id: str, now: datetime, *, reason: str) -> dict[str, int]:
        copies_until = now + self._keys_known_for  # of API keys and browser sessions
        sessions_ended = end_sessions(connection, user_id, Ending(reason, now, copies_until))
        keys_ended = end_keys(connection, user_id, copies_until)
        void_links(connection, user_id)
        return {"sessions_ended": sessions_ended, "api_keys_ended": keys_ended}


def _fits_account() -> ColumnElement[bool]:
    is_current = or_(links.c.kind == "email", links.c.canonical == users.c.canonical)
    return and_(users.c.is_active, is_current)


def _used(connection: Connection, link: Link, now: datetime) -> bool:
    """Mark the link as used. Return False if it was used, voided or has expired in the meantime."""
    which = and_(links.c.digest == link.digest, links.c.used_at.is_(None), links.c.expires_at > now)
    return connection.execute(update(links).where(which).values(used_at=now)).rowcount == 1


def _is_still_given(connection: Connection, link: Link, admin_roles: Collection[str]) -> bool:
    """Return whether the author of an invitation is still an administrator. Commands on the machine always are.

    The roles of a subject of an external issuer are in its tokens only, so the check is whether it is blocked.
    """
    author = link.data.get("by", COMMAND_LINE.id)
    if link.kind != "invitation" or author == COMMAND_LINE.id:
        return True
    if _BEYOND_ACCOUNTS in author:
        blocked = select(blocked_subjects.c.is_blocked).where(blocked_subjects.c.subject == author)
        return not connection.execute(blocked).scalar_one_or_none()
    holds = (
        select(users.c.id)
        .join(user_roles, user_roles.c.user_id == users.c.id)
        .where(users.c.id == author, users.c.is_active, user_roles.c.role.in_(admin_roles))
    )
    return connection.execute(holds).first() is not None


def _is_open_invitation(now: datetime) -> ColumnElement[bool]:
    return and_(links.c.kind == "invitation", links.c.used_at.is_(None), links.c.expires_at > now)


def _accepted(link: Link, user_id: str) -> AuditedTransaction:
    after: Mapping[str, Any] = {"invitation": link.id, "roles": link.data["roles"], "by": link.data["by"]}
    return AuditedTransaction("invitation.accepted", user_id, after=after)


def _link(row: Any) -> Link:
    return Link(
        id=row.id,
        digest=row.digest,
        kind=row.kind,
        user_id=row.user_id,
        email=row.data.get("email") or row.account_email,
        canonical=row.canonical,
        expires_at=row.expires_at,
        is_verified=bool(row.is_verified),
        data=row.data,
    )
