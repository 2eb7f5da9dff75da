"""`gateway db`: manage the database."""

import asyncio
from pathlib import Path

import click

from gateway.cli.configuration import config_option, loaded
from gateway.cli.output import say
from gateway.cli.stores import open_database
from gateway.cli.users.audit import prune_audit
from gateway.settings.model import Settings
from gateway.storage.schema import HEAD
from gateway.storage.schema import upgrade as upgrade_schema


@click.group("db")
def command() -> None:
    """Manage the database: its tables, and old audit records."""


command.add_command(prune_audit)


@command.command("upgrade")
@config_option
def upgrade(config: Path) -> None:
    """Upgrade the tables of the database.

    The upgrade is one transaction. Running it again changes nothing.
    """
    changed = asyncio.run(_upgraded(loaded(config).settings))
    say(f"The database {'was upgraded to' if changed else 'was already at'} schema {HEAD}.")


async def _upgraded(settings: Settings) -> bool:
    async with open_database(settings, creates=True) as database:
        return await upgrade_schema(database)
