"""`gateway db`: the database itself."""

import asyncio
from pathlib import Path

import click

from gateway.cli.audit import prune_audit
from gateway.cli.configuration import loaded
from gateway.cli.options import config_option
from gateway.cli.output import say
from gateway.storage.database import COMMAND, Database
from gateway.storage.schema import HEAD
from gateway.storage.schema import upgrade as upgrade_schema


@click.group("db")
def command() -> None:
    """Manage the database: its tables, and old audit records."""


command.add_command(prune_audit)


@command.command("upgrade")
@config_option
def upgrade(config: Path) -> None:
    """Bring the tables of the database up to date.

    It is one transaction: all of it happens or nothing, and doing it again does no harm.
    """
    changed = asyncio.run(_upgraded(loaded(config).settings.storage.database.reveal()))
    say(f"The database {'has been brought to' if changed else 'was already at'} schema {HEAD}.")


async def _upgraded(url: str) -> bool:
    database = Database.open(url, limits=COMMAND)
    try:
        return await upgrade_schema(database)
    finally:
        await database.close()
