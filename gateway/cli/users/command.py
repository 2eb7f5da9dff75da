"""`gateway users`: manage accounts in the database, and announce changes to running gateways."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import click

from gateway.accounts.administration import Administration
from gateway.accounts.serialize import account
from gateway.accounts.store import Selection
from gateway.cli.configuration import config_option, json_option, loaded
from gateway.cli.output import print_json, print_table, say
from gateway.cli.stores import administration
from gateway.cli.users import unlock
from gateway.cli.users.audit import audit
from gateway.cli.users.block import block, blocked, unblock
from gateway.cli.users.links import invite, reset, set_email, verify
from gateway.errors import CannotStart, Refusal
from gateway.identity.user import UserRecord
from gateway.policy.loader import Configuration
from gateway.settings.types import format_duration

T = TypeVar("T")
Work = Callable[[Administration], Awaitable[T]]

_COLUMNS: Final = ("EMAIL", "ID", "STATE", "ROLES", "CREATED (UTC)")
_TAKEN: Final = (
    "Email already registered, possibly by another person: before giving it a role, take it over with "
    "'gateway users set-password', which ends its sessions"
)
_PAGE: Final = 500  # accounts read from the database at a time

email_argument = click.argument("email")
password_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of standard input."
)


@click.group("users")
def command() -> None:
    """Manage accounts in the database.

    Accounts are given by e-mail address or id.

    Running gateways see changes at once through storage.redis, otherwise after cache.user_ttl.
    """


command.add_command(unlock.command)
command.add_command(audit)


@command.command("create")
@email_argument
@click.option("--role", "roles", multiple=True, help="A role it gets, repeatable.  [default: accounts.default_roles]")
@password_option
@config_option
@json_option
def create(email: str, roles: tuple[str, ...], password_stdin: bool, config: Path, as_json: bool) -> None:
    """Make an account, even if registration is closed."""
    configuration = loaded(config)
    password = _new_password(password_stdin)

    async def work(accounts: Administration) -> UserRecord:
        try:
            return await accounts.create(email, password, roles or None)
        except Refusal as refusal:
            if refusal.code != "email_taken":
                raise
            # Giving it the roles would give them to the person who registered it and knows its password.
            raise Refusal("email_taken", detail=_TAKEN) from None

    _change(configuration, work, "Created", as_json=as_json, is_new=True)


@command.command("list")
@click.option("--query", default="", help="Only addresses with this prefix; '@example.com' selects a domain.")
@click.option("--role", help="Only accounts that have this role themselves.")
@click.option("--active/--disabled", default=None, help="Only active accounts, or only disabled ones.")
@config_option
@json_option
def list_(query: str, role: str | None, active: bool | None, config: Path, as_json: bool) -> None:
    """Show all accounts, ordered by address."""

    async def work(accounts: Administration) -> list[UserRecord]:
        selection = Selection(query, role, active, _PAGE)
        page = await accounts.page(selection)
        found = list(page.users)
        while page.next is not None:
            page = await accounts.page(selection._replace(after=page.next))
            found += page.users
        return found

    records = _run(loaded(config), work)
    if as_json:
        print_json([account(record) for record in records])
    else:
        print_table(_COLUMNS, [_row(record) for record in records])


@command.command("show")
@email_argument
@config_option
@json_option
def show(email: str, config: Path, as_json: bool) -> None:
    """Show one account."""
    record = _run(loaded(config), lambda accounts: accounts.show(email))
    if as_json:
        print_json(account(record))
    else:
        for name, value in zip(_COLUMNS, _row(record), strict=True):
            say(f"{name.partition(' ')[0].lower():<8} {value}")


@command.command("disable")
@email_argument
@config_option
@json_option
def disable(email: str, config: Path, as_json: bool) -> None:
    """Disable an account at once, without deleting anything."""
    _change(loaded(config), lambda accounts: accounts.disable(email), "Disabled", as_json=as_json)


@command.command("enable")
@email_argument
@config_option
@json_option
def enable(email: str, config: Path, as_json: bool) -> None:
    """Enable a disabled account."""
    _change(loaded(config), lambda accounts: accounts.enable(email), "Enabled", as_json=as_json)


@command.command("set-roles")
@email_argument
@click.argument("roles", metavar="ROLE...", nargs=-1, required=True)
@config_option
@json_option
def set_roles(email: str, roles: tuple[str, ...], config: Path, as_json: bool) -> None:
    """Replace the roles of an account."""
    _change(loaded(config), lambda accounts: accounts.set_roles(email, roles), "Changed", as_json=as_json)


@command.command("set-password")
@email_argument
@password_option
@config_option
@json_option
def set_password(email: str, password_stdin: bool, config: Path, as_json: bool) -> None:
    """Replace the password, and end every session."""
    configuration = loaded(config)
    password = _new_password(password_stdin)
    done = "Ended every session and replaced the password of"
    _change(configuration, lambda accounts: accounts.set_password(email, password), done, as_json=as_json)


@command.command("revoke")
@email_argument
@config_option
@json_option
def revoke(email: str, config: Path, as_json: bool) -> None:
    """End every session and API key; the password stays."""
    done = "Ended every session and API key of"
    _change(loaded(config), lambda accounts: accounts.revoke(email), done, as_json=as_json)


@command.command("delete")
@email_argument
@click.option("--yes", is_flag=True, help="Skip the confirmation.")
@config_option
@json_option
def delete(email: str, yes: bool, config: Path, as_json: bool) -> None:
    """Delete an account; its changes stay in the audit trail."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete {email} for good?", abort=True, err=True)
    _change(loaded(config), lambda accounts: accounts.delete(email), "Deleted", as_json=as_json)


for each in (invite, reset, verify, set_email, block, unblock, blocked):
    command.add_command(each)


def _run(configuration: Configuration, work: Work[T], *, creates: bool = False) -> T:
    """Run work with the accounts of a configuration. `creates`: create a missing SQLite file."""

    async def run() -> T:
        async with administration(configuration.settings, creates=creates) as accounts:
            return await work(accounts)

    return asyncio.run(run())


def _change(
    configuration: Configuration, work: Work[UserRecord], done: str, *, as_json: bool, is_new: bool = False
) -> None:
    """Change an account and print the result. Running gateways can hold a copy of an existing account."""
    record = _run(configuration, work, creates=is_new)
    if as_json:
        print_json(account(record))
    else:
        say(f"{done} {record.email} ({_state(record)}, roles: {_roles(record) or 'none'}, id {record.id}).")
    settings = configuration.settings
    if not is_new and settings.storage.redis is None:
        ttl = format_duration(settings.cache.user_ttl)
        say(f"Without storage.redis, a running gateway applies this within {ttl} (cache.user_ttl).", err=True)


def _new_password(from_stdin: bool) -> str:
    """Read a password from standard input, or twice from the terminal without echo. Raises CannotStart."""
    if from_stdin:
        line = sys.stdin.readline()
        if not line:
            raise CannotStart("--password-stdin: standard input is empty")
        return line.removesuffix("\n").removesuffix("\r")
    if not sys.stdin.isatty():
        raise CannotStart("a password is typed at a terminal; otherwise use --password-stdin")
    password: str = click.prompt("Password", hide_input=True, confirmation_prompt="Repeat", err=True)
    return password


def _row(record: UserRecord) -> tuple[str, ...]:
    created = record.created_at.strftime("%Y-%m-%d %H:%M")
    return record.email, record.id, _state(record), _roles(record), created


def _state(record: UserRecord) -> str:
    return "active" if record.is_active else "disabled"


def _roles(record: UserRecord) -> str:
    return ", ".join(sorted(record.roles))
