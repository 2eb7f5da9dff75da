"""`gateway users invite|reset|verify|set-email`: links and addresses of accounts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import click

from gateway.accounts.administration import Administration
from gateway.accounts.change_publisher import CLOCK_SKEW, ChangePublisher
from gateway.accounts.commands import EmailOnly, NewInvitation
from gateway.accounts.inputs import accept
from gateway.accounts.invitations import Invitations
from gateway.accounts.links import LinkLifetimes, link_address
from gateway.accounts.serialize import rfc3339
from gateway.cli.configuration import config_option, loaded
from gateway.cli.output import say
from gateway.cli.stores import administration_of, opened
from gateway.errors import CannotStart, Refusal
from gateway.identity.user import COMMAND_LINE, UserRecord
from gateway.settings.model import Settings
from gateway.settings.types import parse_duration
from gateway.storage.encryption import open_cipher
from gateway.storage.links import Links
from gateway.storage.outbox import Outbox
from gateway.storage.users import Users

T = TypeVar("T")


class _Parts(NamedTuple):
    """The stores and services of a command."""

    settings: Settings
    administration: Administration
    users: Users
    links: Links
    publisher: ChangePublisher


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[_Parts]:
    async with opened(settings) as (database, feed):
        outbox = Outbox(database, open_cipher(settings))
        links = Links(database, outbox, keys_known_for=settings.cache.user_ttl + CLOCK_SKEW)
        with administration_of(settings, database, feed) as administration:
            users = Users(database, outbox=outbox)
            yield _Parts(settings, administration, users, links, ChangePublisher(feed))


def _run(config: Path, work: Callable[[_Parts], Awaitable[T]]) -> T:
    settings = loaded(config).settings

    async def run() -> T:
        async with _opened(settings) as parts:
            return await work(parts)

    return asyncio.run(run())


def _require_mail(settings: Settings, *, prints: bool) -> None:
    if settings.server.public_url is None:
        raise CannotStart(
            "links need server.public_url, and a page: accounts.pages, or its entry in accounts.pages.urls"
        )
    if not prints and settings.mail is None:
        raise CannotStart("no mail is configured; --print-link prints the link instead")


_email_argument = click.argument("email")
_print_option = click.option("--print-link", "prints", is_flag=True, help="Print the link instead of mailing it.")


@click.command("invite")
@_email_argument
@click.option("--role", "roles", multiple=True, help="A role of the account, repeatable.")
@click.option("--ttl", help="The lifetime of the link, at most accounts.invitations.ttl.  [default: that]")
@_print_option
@config_option
def invite(email: str, roles: tuple[str, ...], ttl: str | None, prints: bool, config: Path) -> None:
    """Mail a link that creates an account with these roles."""

    async def work(parts: _Parts) -> None:
        _require_mail(parts.settings, prints=prints)
        chosen = roles or parts.settings.accounts.default_roles
        body: dict[str, object] = {"email": email, "roles": list(chosen), "deliver": not prints}
        if ttl is not None:
            body["expires_in"] = _seconds(ttl)
        accepted = accept(NewInvitation, body, parts.settings)
        made = await Invitations(parts.links, parts.settings).create(accepted, by=COMMAND_LINE)
        if made.link is not None:
            say(made.link)
            return
        invitation = made.invitation
        say(f"Invited {invitation.email} ({_named(invitation.roles)}) until {rfc3339(invitation.expires_at)}.")

    _run(config, work)


@click.command("reset")
@_email_argument
@_print_option
@config_option
def reset(email: str, prints: bool, config: Path) -> None:
    """Mail a link with which the owner sets a new password."""

    async def work(parts: _Parts) -> None:
        _require_mail(parts.settings, prints=prints)
        record = await parts.administration.show(email)
        lifetime = LinkLifetimes.of(parts.settings).reset
        token = await parts.links.issue_reset(record.id, lifetime=lifetime, deliver=not prints, by=COMMAND_LINE)
        if token is None:
            raise Refusal("account_disabled")
        say(link_address(parts.settings, "reset", token) if prints else f"Mailed a link to {record.email}.")

    _run(config, work)


@click.command("verify")
@_email_argument
@config_option
def verify(email: str, config: Path) -> None:
    """Mark the address of an account as verified."""

    async def work(parts: _Parts) -> UserRecord:
        record = await parts.administration.show(email)
        return _found(await parts.publisher.changed(parts.users.verify_email(record.id, by=COMMAND_LINE)))

    say(f"The address {_run(config, work).email} is verified.")


@click.command("set-email")
@_email_argument
@click.argument("new")
@config_option
def set_email(email: str, new: str, config: Path) -> None:
    """Change the address of an account. It is unverified then, and every link of the account is void."""

    async def work(parts: _Parts) -> UserRecord:
        address = accept(EmailOnly, {"email": new}, parts.settings).email
        record = await parts.administration.show(email)
        return _found(await parts.publisher.changed(parts.users.set_email(record.id, address, by=COMMAND_LINE)))

    say(f"The address of the account is {_run(config, work).email}, unverified.")


def _seconds(text: str) -> int:
    seconds = parse_duration(text)
    if seconds is None:
        raise click.BadParameter(f"a duration like 3d is expected, found {text!r}", param_hint="--ttl")
    return int(seconds)


def _found(record: UserRecord | None) -> UserRecord:
    if record is None:
        raise Refusal("not_found", detail="The account has just been deleted")
    return record


def _named(roles: frozenset[str]) -> str:
    return f"roles: {', '.join(sorted(roles)) or 'none'}"
