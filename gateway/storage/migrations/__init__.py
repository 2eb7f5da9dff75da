"""Runs Alembic without an alembic.ini, on the connection and in the transaction of the caller."""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from gateway.storage.tables import VERSION_TABLE

FOLDER: Final = Path(__file__).parent


def configuration(connection: Connection | None = None, version_table: str = VERSION_TABLE) -> Config:
    """Return Alembic's configuration, with the connection and the version table for `env.py`."""
    config = Config(attributes={"connection": connection, "version_table": version_table})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def migrate(connection: Connection, target: str) -> None:
    """Migrate the database to `target`. The caller commits."""
    command.upgrade(configuration(connection), target)
