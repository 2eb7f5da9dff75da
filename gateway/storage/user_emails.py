"""Changes of the address of an account, in the transactions of links and of administrators."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, select, update
from sqlalchemy.exc import IntegrityError

from gateway.errors import Refusal
from gateway.identity.user import Actor, UserRecord
from gateway.storage.audit import AuditedTransaction, write_audit
from gateway.storage.database import release
from gateway.storage.link_rows import void_links, void_links_to
from gateway.storage.outbox import Addressee, Outbox
from gateway.storage.tables import users
from gateway.storage.transactions import changed


def mark_verified(connection: Connection, user_id: str, now: datetime, *, by: Actor) -> UserRecord:
    """Mark the address of a locked account as verified, and void the links that would do so."""
    unverified = and_(users.c.id == user_id, users.c.email_verified_at.is_(None))
    if connection.execute(update(users).where(unverified).values(email_verified_at=now)).rowcount:
        email = connection.execute(select(users.c.email).where(users.c.id == user_id)).scalar_one()
        change = AuditedTransaction("email.verified", user_id, after={"email": email})
        write_audit(connection, change, by=by, at=now)
    void_links(connection, user_id, kind="verify")
    return changed(connection, user_id, now)


def change_address(
    connection: Connection,
    account: Any,
    new: Addressee,
    now: datetime,
    outbox: Outbox,
    *,
    by: Actor,
    is_verified: bool,
) -> UserRecord:
    """Change the address of a locked account, and notify both addresses. Raises Refusal("email_taken")."""
    values = {
        "email": new.email,
        "canonical": new.canonical,
        "email_verified_at": now if is_verified else None,
    }
    try:
        connection.execute(update(users).where(users.c.id == account.id).values(**values))
    except IntegrityError as error:
        release(error)
        raise Refusal("email_taken") from None
    void_links(connection, account.id)
    void_links_to(connection, new.canonical)
    before, after = {"email": account.email}, {"email": new.email, "email_verified": is_verified}
    write_audit(connection, AuditedTransaction("email.changed", account.id, before, after), by=by, at=now)
    # Each change is a notice of its own: the second of two within minutes can be the work of an intruder.
    for to in (Addressee(account.email, account.canonical, account.language, account.id), new):
        outbox.write(connection, "address-changed", to, now, data={"old": account.email, "email": new.email})
    return changed(connection, account.id, now)


def account_row(connection: Connection, user_id: str) -> Any:
    """Return the columns of an account that links depend on."""
    columns = (
        users.c.id,
        users.c.email,
        users.c.canonical,
        users.c.is_active,
        users.c.email_verified_at,
        users.c.language,
    )
    return connection.execute(select(*columns).where(users.c.id == user_id)).one_or_none()
