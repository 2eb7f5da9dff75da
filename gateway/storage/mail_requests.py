"""The answers to requests for mail: which account an address belongs to, and which mail it gets.

The sender runs this after the response. A request for an unknown address is deleted like one for a known address, so
neither the response nor its time depends on the account.
"""

import time
from datetime import timedelta
from typing import Final, assert_never

from sqlalchemy import Connection, select

from gateway.accounts.links import LinkKind, LinkLifetimes
from gateway.accounts.mail.ports import MailKind, MailRequest
from gateway.storage.database import Database
from gateway.storage.link_rows import add_link
from gateway.storage.outbox import Addressee, Outbox, addressee
from gateway.storage.tables import sessions, users
from gateway.storage.transactions import lock_user
from gateway.storage.user_emails import account_row
from gateway.storage.user_queries import Clock, instant

_AT_ONCE: Final = 20  # Requests answered in one transaction.


class MailRequests:
    """Implements RequestResolver. `clock` returns seconds since the epoch."""

    def __init__(
        self, database: Database, outbox: Outbox, lifetimes: LinkLifetimes, *, clock: Clock = time.time
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._lifetimes = lifetimes
        self._clock = clock

    async def resolve(self) -> int:
        """Answer due requests. Return their number."""

        def work(connection: Connection) -> int:
            due = self._outbox.due_requests(connection, instant(self._clock), _AT_ONCE)
            for request in due:
                self._answer(connection, request)
            return len(due)

        return await self._database.write(work)

    def _answer(self, connection: Connection, request: MailRequest) -> None:
        match request.kind:
            case "asked-reset":
                self._link_for_owner(connection, request, link="reset", mail="reset")
            case "asked-register":
                if not self._link_for_owner(connection, request, link="reset", mail="welcome-back"):
                    to = Addressee(request.email.text, request.email.canonical)
                    self._send_link(connection, to, link="register", mail="verify")
            case "asked-verify":
                self._verify(connection, request)
            case "asked-email":
                self._change_email(connection, request)
            case _:
                assert_never(request.kind)

    def _link_for_owner(self, connection: Connection, request: MailRequest, *, link: LinkKind, mail: MailKind) -> bool:
        """Mail a link to the account of the address, at the stored form of the address: the requested form can be that
        of another mailbox (CVE-2019-19844). Return whether an account exists. A disabled one gets no mail."""
        owner = addressee(connection, users.c.canonical == request.email.canonical)
        if owner is None or owner.user_id is None:
            return False
        user = lock_user(connection, owner.user_id)
        if user is not None and user.is_active:
            self._send_link(connection, owner, link=link, mail=mail)
        return True

    def _verify(self, connection: Connection, request: MailRequest) -> None:
        assert request.user_id is not None, "an account asked"
        user = lock_user(connection, request.user_id)
        account = account_row(connection, request.user_id)
        if user is None or not user.is_active or account.email_verified_at is not None:
            return
        to = Addressee(account.email, account.canonical, account.language, account.id)
        self._send_link(connection, to, link="verify", mail="verify")

    def _change_email(self, connection: Connection, request: MailRequest) -> None:
        """Mail a link to the new address, or a notice if it is the address of another account. The old address gets a
        notice in both cases.

        A reset ends the session of an intruder who asked just before. A link written afterwards would undo it.
        """
        assert request.user_id is not None, "an account asked"
        user = lock_user(connection, request.user_id)
        if user is None or not user.is_active or not _is_open(connection, request.session_id):
            return
        now = instant(self._clock)
        account = account_row(connection, request.user_id)
        self._outbox.notice(connection, "address-change-requested", account.id, now)
        owner = addressee(connection, users.c.canonical == request.email.canonical)
        if owner is not None:
            self._outbox.notice_to(connection, "address-in-use", owner, now)
            return
        to = Addressee(request.email.text, request.email.canonical, account.language, account.id)
        self._send_link(connection, to, link="email", mail="change-email")

    def _send_link(self, connection: Connection, to: Addressee, *, link: LinkKind, mail: MailKind) -> None:
        now, lifetime = instant(self._clock), self._lifetimes.seconds(link)
        data = {} if link in ("reset", "verify") else {"email": to.email}
        added = add_link(
            connection, link, now, lifetime=lifetime, user_id=to.user_id, canonical=to.canonical, data=data
        )
        self._outbox.write(connection, mail, to, now, link=added.token, lifetime=timedelta(seconds=lifetime))


def _is_open(connection: Connection, session_id: str | None) -> bool:
    """Whether the session that asked is open; true for a request without one."""
    if session_id is None:
        return True
    found = select(sessions.c.id).where(sessions.c.id == session_id, sessions.c.ended_at.is_(None))
    return connection.execute(found).first() is not None
