"""`gateway mail`: test the delivery of mail, and look at the outbox."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click

from gateway.accounts.commands import EmailOnly
from gateway.accounts.inputs import accept
from gateway.accounts.mail.ports import OutgoingMail, WaitingMail
from gateway.cli.configuration import config_option, loaded
from gateway.cli.output import complain, print_table, say
from gateway.cli.program import FINE, NO
from gateway.cli.stores import opened
from gateway.errors import CannotStart
from gateway.settings.model import Settings
from gateway.settings.types import format_duration
from gateway.storage.encryption import open_cipher
from gateway.storage.outbox import Outbox

_COLUMNS: Final = ("KIND", "RECIPIENT", "WAITS", "ATTEMPTS", "NEXT", "REASON")


@click.group("mail")
def command() -> None:
    """Test the delivery of mail, and look at the mails that wait."""


@command.command("test")
@click.argument("address")
@config_option
def test(address: str, config: Path) -> int:
    """Send one mail now, and print the conversation.

    Credentials are left out.
    """
    settings = _with_mail(config)
    email = accept(EmailOnly, {"email": address}, settings).email
    return asyncio.run(_tested(settings, email.text))


async def _tested(settings: Settings, recipient: str) -> int:
    # Imported here: the libraries of mails are for this command only.
    from gateway.accounts.mail.composing import Composer
    from gateway.accounts.mail.sender import catalogue_of, open_transport
    from gateway.accounts.mail.transport import DeliveryFailed, TransportDown

    now = datetime.now(UTC)
    mail = OutgoingMail(secrets.token_hex(16), "test", recipient, None, now, now + timedelta(hours=1))
    try:
        envelope = Composer(settings, catalogue_of(settings)).compose(mail)
        async with open_transport(settings, record=say).connect() as delivery:
            await delivery.send(envelope.message, sender=envelope.sender, recipient=envelope.recipient)
    except (DeliveryFailed, TransportDown) as error:
        complain(error.reason)
        return NO
    say(f"Sent a mail to {recipient}.")
    return FINE


@command.command("queue")
@click.option("--retry", is_flag=True, help="Make every mail that waits due now.")
@config_option
def queue(retry: bool, config: Path) -> None:
    """Show the mails that wait, how long, and why. Mails of the last days that were given up are shown too."""
    settings = _with_mail(config)

    async def run() -> tuple[WaitingMail, ...]:
        async with _outbox(settings) as outbox:
            if retry:
                say(f"{await outbox.hasten_all()} mails are due now.", err=True)
            return await outbox.listed()

    waiting = asyncio.run(run())
    now = datetime.now(UTC)
    print_table(_COLUMNS, [_row(mail, now) for mail in waiting])


def _row(mail: WaitingMail, now: datetime) -> tuple[str, ...]:
    due = max(0.0, (mail.due_at - now).total_seconds())
    following = "given up" if mail.given_up_at is not None else ("now" if due < 1 else f"in {_rounded(due)}")
    waits = _rounded((now - mail.created_at).total_seconds())
    return mail.kind, mail.recipient, waits, str(mail.attempts), following, mail.reason or ""


def _rounded(seconds: float) -> str:
    step = 60 if seconds >= 60 else 1
    return format_duration(float(max(1, round(seconds / step) * step)))


@asynccontextmanager
async def _outbox(settings: Settings) -> AsyncIterator[Outbox]:
    async with opened(settings) as (database, _):
        yield Outbox(database, open_cipher(settings))


def _with_mail(config: Path) -> Settings:
    settings = loaded(config).settings
    if settings.mail is None:
        raise CannotStart("the configuration has no section 'mail'")
    return settings
