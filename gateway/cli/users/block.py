"""`gateway users block`, `unblock` and `blocked`: subjects of external issuers, who have no account."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import click

from gateway.accounts.administration import Blocking
from gateway.accounts.store import BlockedSubject
from gateway.cli.configuration import config_option, json_option, loaded
from gateway.cli.output import print_json, print_table, say
from gateway.cli.stores import opened
from gateway.identity.user import UserRecord
from gateway.settings.model import Settings
from gateway.settings.types import format_duration
from gateway.storage.subjects import Subjects

T = TypeVar("T")

_COLUMNS: Final = ("SUBJECT", "SINCE (UTC)", "BY", "REASON")

subject_argument = click.argument("subject", metavar="'NAME|SUB'")


@click.command("block")
@subject_argument
@click.option("--reason", default="", help="The reason, for the audit trail and for `blocked`.")
@config_option
@json_option
def block(subject: str, reason: str, config: Path, as_json: bool) -> None:
    """Block a subject of an external issuer.

    The block takes effect at once and overrides valid tokens. NAME is the name of the issuer in tokens.external, SUB
    the subject's id there; together they are the user id sent to upstreams. Quote them, because | is special in a
    shell.
    """
    settings = loaded(config).settings
    record = _run(settings, lambda blocking: blocking.block(subject, reason))
    _show(settings, record, "Blocked", as_json=as_json)


@click.command("unblock")
@subject_argument
@config_option
@json_option
def unblock(subject: str, config: Path, as_json: bool) -> None:
    """Unblock a subject of an external issuer."""
    settings = loaded(config).settings
    _show(settings, _run(settings, lambda blocking: blocking.unblock(subject)), "Unblocked", as_json=as_json)


@click.command("blocked")
@config_option
@json_option
def blocked(config: Path, as_json: bool) -> None:
    """Show the blocked subjects of external issuers."""
    found = _run(loaded(config).settings, lambda blocking: blocking.blocked())
    if as_json:
        print_json([_as_json(each) for each in found])
    else:
        print_table(_COLUMNS, [_row(each) for each in found])


def _run(settings: Settings, work: Callable[[Blocking], Awaitable[T]]) -> T:
    async def run() -> T:
        async with opened(settings) as (database, feed):
            return await work(Blocking(Subjects(database), feed, settings.tokens.external))

    return asyncio.run(run())


def _show(settings: Settings, record: UserRecord, done: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"subject": record.id, "is_blocked": not record.is_active})
    else:
        say(f"{done} {record.id}.")
    if settings.storage.redis is None:
        ttl = format_duration(settings.cache.user_ttl)
        say(f"Without storage.redis, a running gateway applies this within {ttl} (cache.user_ttl).", err=True)


def _as_json(found: BlockedSubject) -> dict[str, str]:
    since = found.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"subject": found.subject, "since": since, "by": found.by, "reason": found.reason}


def _row(found: BlockedSubject) -> tuple[str, ...]:
    return found.subject, found.at.strftime("%Y-%m-%d %H:%M"), found.by, found.reason
