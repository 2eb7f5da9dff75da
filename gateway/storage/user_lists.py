"""Pages of users out of millions. Each selection reads a range of an index, so its cost does not depend on their
number."""

from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, exists, select, tuple_

from gateway.accounts.store import Selection
from gateway.storage.records import RECORDS
from gateway.storage.tables import at_domain, user_roles, users

_FEW: Final = 1000  # holders of a role
# Sorts after every continuation of a prefix. Addresses do not contain it, because it is a noncharacter (Unicode 23.7).
_LAST: Final = "\U0010ffff"


def selected(connection: Connection, selection: Selection) -> Select[Any]:
    """Build the statement for a page. It selects one row more than the page, which shows whether another page
    follows."""
    by_domain = selection.query.startswith("@")
    order = (at_domain, users.c.canonical) if by_domain else (users.c.canonical,)
    query = RECORDS.add_columns(users.c.canonical).order_by(*order).limit(selection.limit + 1)
    if selection.query:
        query = query.where(order[0] >= selection.query, order[0] < selection.query + _LAST)
    if selection.after is not None:
        query = query.where(_behind(selection.after, by_domain=by_domain))
    if selection.active is not None:
        query = query.where(users.c.is_active == selection.active)
    if selection.role is not None:
        query = query.where(_has_role(connection, selection.role))
    return query


def _behind(canonical: str, *, by_domain: bool) -> ColumnElement[bool]:
    if not by_domain:
        return users.c.canonical > canonical
    _, at, domain = canonical.rpartition("@")
    return tuple_(at_domain, users.c.canonical) > tuple_(at + domain, canonical)


def _has_role(connection: Connection, role: str) -> ColumnElement[bool]:
    """Build the condition that a user has a role.

    For a rare role the quick way is to read its holders, for a common one to scan all users in order. The databases'
    planners cannot tell the two cases apart.
    """
    holders = select(user_roles.c.user_id).where(user_roles.c.role == role).limit(_FEW + 1)
    ids = connection.execute(holders).scalars().all()
    if len(ids) <= _FEW:
        return users.c.id.in_(ids)
    return exists().where(user_roles.c.user_id == users.c.id, user_roles.c.role == role)
