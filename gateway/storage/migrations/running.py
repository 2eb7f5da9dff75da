"""Alembic without an alembic.ini, on a connection and in a transaction that are already there."""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from gateway.storage.tables import VERSION_TABLE

FOLDER: Final = Path(__file__).parent


def configuration(connection: Connection | None = None, version_table: str = VERSION_TABLE) -> Config:
    """Alembic's configuration, with the connection and the version table for `env.py`."""
    config = Config(attributes={"connection": connection, "version_table": version_table})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def migrate(connection: Connection, target: str) -> None:
    """Apply what lies between the version of this database and `target`. The caller commits."""
    command.upgrade(configuration(connection), target)
