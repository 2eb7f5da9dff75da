"""The mail of one configuration: its transport, its texts and its sender."""

from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from gateway.accounts.mail import OutboxStore, RequestResolver
from gateway.mail.composing import Composer
from gateway.mail.sender import EVERY, Sender
from gateway.mail.transport import FolderTransport, MailTransport, Recorder
from gateway.settings.model import PageSettings, Settings
from gateway.texts.catalogue import Catalogue


def open_sender(settings: Settings, outbox: OutboxStore, requests: RequestResolver) -> Sender:
    """The sender. Raises ConfigurationError for unusable texts."""
    composer = Composer(settings, catalogue_of(settings))
    return Sender(outbox, requests, open_transport(settings), composer, every=EVERY)


def catalogue_of(settings: Settings) -> Catalogue:
    """The texts of the configured languages. Raises ConfigurationError."""
    pages = settings.accounts.pages or PageSettings()
    return Catalogue.load(pages.languages, None if pages.messages is None else Path(pages.messages))


def open_transport(settings: Settings, *, record: Recorder | None = None) -> MailTransport:
    """The configured transport. `record` receives each line of the conversation, without credentials."""
    mail, public_url = settings.mail, settings.server.public_url
    assert mail is not None and public_url is not None, "the settings check both"
    if mail.smtp is None:
        assert mail.folder is not None, "the settings name a server or a folder"
        return FolderTransport(Path(mail.folder))
    from gateway.mail.smtp import SmtpTransport  # Imports aiosmtplib.

    return SmtpTransport(mail.smtp.reveal(), client_host=_client_host(public_url), record=record)


def _client_host(public_url: str) -> str:
    """The argument of EHLO: a name, or an address in brackets (RFC 5321 4.1.3)."""
    host = urlsplit(public_url).hostname or "localhost"
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"
