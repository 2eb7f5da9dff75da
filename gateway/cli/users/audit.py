"""`gateway users audit` and `gateway db prune-audit`: read and prune the audit trail."""

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from gateway.accounts.administration import Administration
from gateway.accounts.serialize import audit_record
from gateway.accounts.store import AuditRecord, AuditSelection
from gateway.cli.configuration import config_option, json_option, loaded
from gateway.cli.output import print_json, print_table, say
from gateway.cli.stores import administration, open_database
from gateway.identity.user import COMMAND_LINE
from gateway.settings.model import Settings
from gateway.settings.types import format_duration, parse_duration
from gateway.storage.audit import AuditTrail
from gateway.storage.schema import prepare

_COLUMNS: Final = ("AT (UTC)", "ACTION", "SUBJECT", "ACTOR", "FROM", "CHANGE")
PAGE: Final = 500  # records read from the database at a time
# Younger records can still be needed for an investigation, and a typing error must not delete them.
_SHORTEST: Final = 30 * 86_400.0  # seconds


class Period(click.ParamType[float]):
    """A duration as in the configuration. The value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = value if isinstance(value, float) else parse_duration(str(value))
        if seconds is None:
            self.fail(f"{value!r} is not a duration (for example 15m, 24h or 400d)", param, ctx)
        return seconds


@click.command("audit")
@click.argument("who", metavar="[EMAIL]", required=False)
@click.option("--actor", metavar="WHO", help="Only changes by this account; 'command-line' selects commands.")
@click.option("--action", help="Only this kind of change, for example user.disabled.")
@click.option("--since", type=Period(), metavar="PERIOD", help="Only the last hours or days, for example 24h or 7d.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The maximum number of records.")
@config_option
@json_option
def audit(config: Path, as_json: bool, limit: int, **filters: Any) -> None:
    """Show changes of accounts and their authors, newest first.

    A deleted account is shown by its id.
    """
    records = asyncio.run(_read(loaded(config).settings, limit=limit, **filters))
    if as_json:
        print_json([audit_record(record) for record in records])
    else:
        print_table(_COLUMNS, [_row(record) for record in records])


async def _read(
    settings: Settings, *, limit: int, who: str | None, actor: str | None, action: str | None, since: float | None
) -> list[AuditRecord]:
    found: list[AuditRecord] = []
    async with administration(settings) as accounts:
        selection = AuditSelection(
            subject=await _id(accounts, who),
            actor=await _id(accounts, actor),
            action=action,
            since=None if since is None else _ago(since),
        )
        while True:
            page = await accounts.audit(selection._replace(limit=min(limit - len(found), PAGE)))
            found += page.records
            if page.next is None or len(found) >= limit:
                return found
            selection = selection._replace(after=page.next)


async def _id(accounts: Administration, who: str | None) -> str | None:
    """The id of an account given by address. Other names are used as they are in the trail."""
    return (await accounts.show(who)).id if who is not None and "@" in who else who


def _row(record: AuditRecord) -> tuple[str, ...]:
    at = record.at.strftime("%Y-%m-%d %H:%M:%S")
    return at, record.action, record.subject, record.actor, record.address or "-", _change(record)


def _change(record: AuditRecord) -> str:
    before, after = (
        None if state is None else json.dumps(state, ensure_ascii=False) for state in (record.before, record.after)
    )
    return after or before or "" if before is None or after is None else f"{before} -> {after}"


@click.command("prune-audit")
@click.option(
    "--older-than", type=Period(), metavar="PERIOD", required=True, help="Delete older records, for example 400d."
)
@click.option("--yes", is_flag=True, help="Skip the confirmation.")
@config_option
def prune_audit(older_than: float, yes: bool, config: Path) -> None:
    """Delete old audit records. PERIOD is at least 30 days.

    This is the only way to delete them. The deletion is recorded too.
    """
    if older_than < _SHORTEST:
        raise click.UsageError(f"--older-than must be {format_duration(_SHORTEST)} or more")
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete all audit records older than {format_duration(older_than)}?", abort=True, err=True)
    pruned = asyncio.run(_prune(loaded(config).settings, older_than))
    say(f"Deleted {pruned} audit record{'' if pruned == 1 else 's'} older than {format_duration(older_than)}.")


async def _prune(settings: Settings, older_than: float) -> int:
    async with open_database(settings) as database:
        await prepare(database, file=settings.position_of("storage").file)
        return await AuditTrail(database).prune(_ago(older_than), by=COMMAND_LINE)


def _ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)
