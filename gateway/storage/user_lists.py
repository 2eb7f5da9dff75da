"""Pages of users out of millions: each selection is the range of an index, whatever the number of users."""

from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, exists, select, tuple_

from gateway.identity.accounts import Selection
from gateway.storage.records import RECORDS
from gateway.storage.tables import at_domain, user_roles, users

_FEW: Final = 1000  # holders of a role
# Sorts behind whatever follows a beginning: no address holds it, it is no character (Unicode 23.7).
_LAST: Final = "\U0010ffff"


def selected(connection: Connection, selection: Selection) -> Select[Any]:
    """The statement for a page, with one row more than asked for: whether there is a next page."""
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
    """Users with a role. For one that few have it is quick to look at those, for one that many have to go through all
    in their order; no database knows beforehand which it is."""
    holders = select(user_roles.c.user_id).where(user_roles.c.role == role).limit(_FEW + 1)
    ids = connection.execute(holders).scalars().all()
    if len(ids) <= _FEW:
        return users.c.id.in_(ids)
    return exists().where(user_roles.c.user_id == users.c.id, user_roles.c.role == role)
