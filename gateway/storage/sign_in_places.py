"""The places of sign-ins: the owner of an account gets a mail about the first sign-in from a new one.

A place is a network (/24 of IPv4, /64 of IPv6) and a family of browsers. The audit records of sign-ins tell which
places an account had in the last 90 days. Programs sign in often, so a sign-in by tokens is recorded at most once a day
for each place.
"""

from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Select, select

from gateway.identity.user import PASSWORD, Actor, ClientInfo
from gateway.storage.audit import AuditedTransaction, write_audit
from gateway.storage.outbox import Outbox
from gateway.storage.tables import audit

BEGAN: Final = "session.began"
_REMEMBERED: Final = timedelta(days=90)
_RECORDED: Final = timedelta(days=1)
_MOST: Final = 1000  # Sign-ins that are compared.
_PREFIXES: Final = {4: 24, 6: 64}
# The first that a User-Agent contains. Most browsers also name those that come later.
_FAMILIES: Final = ("Edg", "OPR", "Firefox", "Chrome", "Safari", "curl", "python")


class Place(NamedTuple):
    """The place of a sign-in, as audit records have it."""

    network: str
    browser: str


def place_of(origin: ClientInfo) -> Place:
    browser = next((name for name in _FAMILIES if name in origin.user_agent), "other")
    try:
        address = ip_address(origin.address)
    except ValueError:
        return Place("", browser)
    return Place(str(ip_network(f"{address}/{_PREFIXES[address.version]}", strict=False)), browser)


def notify_of_new_place(
    connection: Connection, outbox: Outbox, user_id: str, origin: ClientInfo, now: datetime
) -> None:
    """Mail the owner of an account about a sign-in from a new place. The first sign-in of an account causes no mail."""
    seen = _places(connection, user_id, now - _REMEMBERED)
    if place_of(origin) not in seen and (seen or _has_signed_in(connection, user_id)):
        outbox.notice(connection, "new-sign-in", user_id, now, address=origin.address)


def record_token_sign_in(
    connection: Connection, user_id: str, session_id: str, origin: ClientInfo, now: datetime
) -> None:
    """Record the place of a sign-in by tokens."""
    place = place_of(origin)
    if place not in _places(connection, user_id, now - _RECORDED):
        began = {"id": session_id, "kind": "token", "amr": [PASSWORD], **place._asdict()}
        change = AuditedTransaction(BEGAN, user_id, after=began)
        write_audit(connection, change, by=Actor(user_id, origin), at=now)


def _places(connection: Connection, user_id: str, since: datetime) -> set[Place]:
    recent = _sign_ins(user_id).where(audit.c.at > since).order_by(audit.c.at.desc(), audit.c.id.desc()).limit(_MOST)
    return {
        Place(after.get("network", ""), after.get("browser", ""))
        for after in connection.execute(recent).scalars()
        if after is not None
    }


def _has_signed_in(connection: Connection, user_id: str) -> bool:
    return connection.execute(_sign_ins(user_id).limit(1)).first() is not None


def _sign_ins(user_id: str) -> Select[tuple[Any]]:
    return select(audit.c.after).where(audit.c.subject == user_id, audit.c.action == BEGAN)
