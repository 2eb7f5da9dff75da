"""The places of sign-ins: the owner of an account gets a mail about the first sign-in from a new one.

A place is a network (/24 of IPv4, /64 of IPv6) and a family of browsers. The audit records of sign-ins tell which
places an account had in the last 90 days.
"""

from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

from sqlalchemy import Connection, select

from gateway.identity.user import ClientInfo
from gateway.storage.tables import audit

BEGAN: Final = "session.began"
_REMEMBERED: Final = timedelta(days=90)
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


def is_new_place(connection: Connection, user_id: str, place: Place, now: datetime) -> bool:
    """Return whether the account has signed in lately, but never from this place. The first sign-in is none."""
    recent = (
        select(audit.c.after)
        .where(audit.c.subject == user_id, audit.c.action == BEGAN, audit.c.at > now - _REMEMBERED)
        .order_by(audit.c.at.desc(), audit.c.id.desc())
        .limit(_MOST)
    )
    places = {
        Place(after.get("network", ""), after.get("browser", ""))
        for after in connection.execute(recent).scalars()
        if after is not None
    }
    return bool(places) and place not in places
