"""`gateway users unlock`: reset the failed logins of an account."""

import asyncio
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path

import click

from gateway.accounts.lockout import unlock
from gateway.cli.configuration import config_option, loaded
from gateway.cli.output import say
from gateway.cli.stores import open_database, quiet_link
from gateway.errors import CannotStart
from gateway.identity.user import UserRecord
from gateway.settings.model import Settings
from gateway.settings.types import format_duration
from gateway.storage.schema import prepare
from gateway.storage.users import Users


@click.command("unlock")
@click.argument("email")
@click.option("--address", metavar="ADDRESS", help="Also reset the failures of this address over all accounts.")
@config_option
def command(email: str, address: str | None, config: Path) -> None:
    """Unlock an account (accounts.lockout).

    Resets its failed logins from all addresses. They are counted in storage.redis. Without it, a running gateway counts
    in its own memory, which commands cannot reach; its refusals end after accounts.lockout.ban.
    """
    if address is not None and not _is_address(address):
        raise click.BadParameter(f"{address!r} is not an IP address", param_hint="--address")
    settings = loaded(config).settings
    record = asyncio.run(_unlock(email, address, settings))
    also = f", and all failures of {address}" if address is not None else ""
    say(f"Reset the failed logins of {record.email}{also}.")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


async def _unlock(email: str, address: str | None, settings: Settings) -> UserRecord:
    if settings.storage.redis is None:
        ban = format_duration(settings.accounts.lockout.ban)
        raise CannotStart(
            "without storage.redis, a running gateway counts failed logins in its own memory, which commands cannot "
            f"reach: a locked-out user can try again {ban} after the last failure (accounts.lockout.ban), "
            "or at once after a restart of the gateway"
        )
    # Imported here, because it imports the driver.
    from gateway.storage.redis.failed_attempts import RedisFailures

    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings))
        await prepare(database, file=settings.position_of("storage").file)
        link = await quiet_link(settings.storage.redis, database, stack)
        if not link.available:
            raise CannotStart(
                "Redis did not answer, so nothing was unlocked: running gateways count separately until it is back "
                f"({link.why})"
            )
        return await unlock(email, address, users=Users(database), failures=RedisFailures(link), settings=settings)
