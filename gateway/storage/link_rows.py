"""The rows of links: added and voided in the transaction of a change.

A void link is a deleted row. Its answer is that of a link that never existed.
"""

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, insert

from gateway.accounts.links import LinkKind, link_digest, new_link
from gateway.storage.tables import links
from gateway.storage.transactions import lock_address


class AddedLink(NamedTuple):
    """A new link and its token, which is stored nowhere."""

    id: str
    token: str
    expires_at: datetime


def add_link(
    connection: Connection,
    kind: LinkKind,
    now: datetime,
    *,
    lifetime: float,
    user_id: str | None,
    canonical: str,
    data: Mapping[str, Any],
) -> AddedLink:
    """Add a link, and void older ones of this kind for the same account, or for the same address without an account.
    `lifetime` is in seconds. The caller has locked the account."""
    if user_id is None:
        lock_address(connection, canonical)
    whose = links.c.canonical == canonical if user_id is None else links.c.user_id == user_id
    connection.execute(delete(links).where(links.c.kind == kind, whose))
    token = new_link()
    added = AddedLink(secrets.token_urlsafe(16), token, now + timedelta(seconds=lifetime))
    values = {
        "digest": link_digest(token),
        "id": added.id,
        "kind": kind,
        "user_id": user_id,
        "canonical": canonical,
        "data": dict(data),
        "created_at": now,
        "expires_at": added.expires_at,
    }
    connection.execute(insert(links).values(**values))
    return added


def void_links(connection: Connection, user_id: str, *, kind: LinkKind | None = None) -> None:
    """Void the links of an account, or those of one kind."""
    which = links.c.user_id == user_id
    connection.execute(delete(links).where(which if kind is None else and_(which, links.c.kind == kind)))


def void_links_to(connection: Connection, canonical: str) -> None:
    """Void the links that would register an address, which has an account now. An invitation can still add roles."""
    connection.execute(delete(links).where(links.c.canonical == canonical, links.c.kind == "register"))
