"""The id of an installation: random, created with the database, and part of every name that the gateway uses in
Redis."""

from typing import Final

from sqlalchemy import Connection, select

from gateway.errors import CannotStart, StorageUnavailable
from gateway.storage.database import Database
from gateway.storage.tables import installation

_LIMIT: Final = 10.0  # seconds; the id is read once, at the start


async def installation_id(database: Database) -> str:
    """Return the id from a database with current tables. Raises CannotStart if it cannot be read."""
    try:
        found = await database.read(_id, limit=_LIMIT)
    except StorageUnavailable as error:
        raise CannotStart(f"storage.database cannot be used: {error.reason}") from error
    if found is None:
        raise CannotStart(
            "storage.database has no row in the table 'installation', whose id is part of the names in storage.redis; "
            "insert one with a random id"
        )
    return found


def _id(connection: Connection) -> str | None:
    found: str | None = connection.execute(select(installation.c.id).limit(1)).scalar_one_or_none()
    return found
