"""Composition of mails: the texts of the catalogue, as plain text and as HTML.

Mails contain no images, no remote content and no tracking. The only text in them that another person can choose is an
e-mail address. A name, a message or a User-Agent would go to others under the name of the gateway.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from html import escape
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from gateway.accounts.emails import email_address
from gateway.accounts.links import LinkKind, link_address
from gateway.accounts.mail.ports import WITH_LINK, MailKind, OutgoingMail
from gateway.accounts.mail.transport import DeliveryFailed, refuse_control_characters
from gateway.accounts.texts.catalogue import Catalogue, Texts, fill, time_text
from gateway.settings.model import Settings

_LINKS: Final[Mapping[MailKind, LinkKind]] = {
    "verify": "verify",
    "change-email": "email",
    "welcome-back": "reset",
    "reset": "reset",
    "invitation": "invitation",
}
# Notices of changes that can be the work of another person.
_ALARMING: Final[frozenset[MailKind]] = frozenset(
    ("address-change-requested", "address-changed", "password-changed", "api-key-created", "new-sign-in")
)
_MIDDLE: Final = 0.179  # The relative luminance at which black and white have the same contrast.
_ACCENT: Final = "#0a5fd7"
_BUTTON: Final = "display:inline-block;padding:12px 20px;border-radius:6px;font-weight:600;text-decoration:none;"
# Of `gateway mail test`, which an operator sends to an address of the organisation.
_TEST: Final = {
    "subject": "Test of the mail of {name}",
    "heading": "Mail works",
    "body": "This message shows that the gateway of {name} can send mail to {email}.",
}
_HTML: Final = """\
<!doctype html>
<html lang="{language}" dir="{direction}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light">
<title>{subject}</title>
</head>
<body style="margin:0;padding:24px;background:#ffffff;color:#1a1a1a;font:16px/1.5 system-ui,sans-serif">
<div style="max-width:560px;margin:0 auto">
<h1 style="font-size:22px;line-height:1.3">{heading}</h1>
{content}
<hr style="border:0;border-top:1px solid #d9d9d9;margin:24px 0">
<p style="font-size:13px;color:#595959">{footer}</p>
</div>
</body>
</html>
"""


class Envelope(NamedTuple):
    """A message, and the addresses for the server. The domain of a recipient is in its ASCII form."""

    message: EmailMessage
    sender: str
    recipient: str


class Composer:
    """Composes mails for one configuration."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        mail, public_url = settings.mail, settings.server.public_url
        assert mail is not None and public_url is not None, "the settings check both"
        pages = settings.accounts.pages
        self._settings = settings
        self._catalogue = catalogue
        self._public_url = public_url.rstrip("/")
        self._pages = pages
        self._from = _mailbox(mail.from_)
        self._reply_to = None if mail.reply_to is None else _mailbox(mail.reply_to)
        self._colour = (None if pages is None else pages.accent) or _ACCENT
        self._name = (pages.name if pages is not None else None) or urlsplit(public_url).hostname or ""

    def compose(self, mail: OutgoingMail) -> Envelope:
        """Compose a mail. Raises DeliveryFailed for control characters in an address or a name."""
        sender_name, sender = self._from
        reply_name, reply_to = self._reply_to or ("", "")
        refuse_control_characters(mail.recipient, sender_name, sender, reply_name, reply_to, self._name)
        recipient = _envelope_address(mail.recipient)
        texts = self._catalogue.texts(mail.language)
        content = self._content(mail, texts)
        message = EmailMessage()
        message["From"] = _header_address(sender_name, sender)
        # A domain outside ASCII would become an encoded word, which no address can contain (RFC 2047 5).
        message["To"] = _header_address("", recipient)
        if reply_to:
            message["Reply-To"] = _header_address(reply_name, reply_to)
        # A text of one's own can contain line breaks, which no header field can.
        message["Subject"] = " ".join(content.subject.split())
        message["Date"] = format_datetime(mail.created_at)
        # The same for every attempt, so that programs recognise a mail that arrives twice.
        message["Message-ID"] = f"<{mail.id}@{sender.rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no automatic responses.
        # Without line breaks inside the link, so that developers can copy it out of a file of `mail.folder`.
        plain = content.plain()
        message.set_content(plain, cte="7bit" if plain.isascii() else "8bit")
        message.add_alternative(content.html(self._colour), subtype="html", cte="quoted-printable")
        # Without "=", which a decoder of quoted-printable for the whole file would turn into bytes outside UTF-8.
        message.set_boundary(f"part-{mail.id}")
        return Envelope(message, sender, recipient)

    def _content(self, mail: OutgoingMail, texts: Texts) -> "_Content":
        own, common = texts["mail"].get(mail.kind, _TEST), texts["mail"]["common"]
        values = {**mail.data, "name": self._name, "email": mail.data.get("email", mail.recipient)}
        values["time"] = time_text(texts, mail.created_at)
        if mail.kind in WITH_LINK:
            until = fill(common["until"], {"time": time_text(texts, mail.link_expires_at or mail.expires_at)})
            notes = [until, common["ignore"]]
        else:
            notes = [common["not_you"]] if mail.kind in _ALARMING else []
        support = None if self._pages is None else self._pages.links.support
        return _Content(
            language=mail.language if mail.language in self._catalogue.languages else self._catalogue.default,
            direction=texts["language"]["direction"],
            subject=fill(own["subject"], values),
            heading=fill(own["heading"], values),
            body=fill(own["body"], values),
            action=own.get("action", ""),
            link=link_address(self._settings, _LINKS[mail.kind], mail.link) if mail.link else "",
            copy_link=common["copy_link"],
            notes=notes,
            automatic=fill(common["automatic"], values),
            support=(common["support"], self._absolute(support)) if support else None,
        )

    def _absolute(self, link: str) -> str:
        return self._public_url + link if link.startswith("/") else link


@dataclass(frozen=True, slots=True)
class _Content:
    """The texts of one mail, filled. `link` and `action` are empty without a link. `support`: its label and link."""

    language: str
    direction: str
    subject: str
    heading: str
    body: str
    action: str
    link: str
    copy_link: str
    notes: list[str]
    automatic: str
    support: tuple[str, str] | None

    def plain(self) -> str:
        parts = [self.heading, self.body, self.link, *self.notes]
        footer = [self.automatic, *([f"{self.support[0]}: {self.support[1]}"] if self.support else [])]
        return "\n\n".join([*filter(None, parts), "-- \n" + "\n".join(footer)]) + "\n"

    def html(self, colour: str) -> str:
        """Inline styles only, because many mail programs drop style sheets."""
        footer = escape(self.automatic)
        if self.support:
            label, link = map(escape, self.support)
            footer += f' <a href="{link}" style="color:inherit">{label}</a>'
        paragraphs = [f"<p>{escape(self.body)}</p>", self._button(colour)]
        paragraphs += [f'<p style="font-size:14px;color:#595959">{escape(note)}</p>' for note in self.notes]
        return _HTML.format(
            language=escape(self.language),
            direction=escape(self.direction),
            subject=escape(self.subject),
            heading=escape(self.heading),
            content="\n".join(filter(None, paragraphs)),
            footer=footer,
        )

    def _button(self, colour: str) -> str:
        if not self.link:
            return ""
        link = escape(self.link)
        style = f"{_BUTTON}background:{colour};color:{_text_colour(colour)}"
        return (
            f'<p><a href="{link}" style="{style}">{escape(self.action)}</a></p>\n'
            f'<p style="font-size:14px;color:#595959">{escape(self.copy_link)}:<br>'
            f'<span style="word-break:break-all">{link}</span></p>'
        )


def _text_colour(background: str) -> str:
    """Black or white, whichever has the higher contrast on a colour (WCAG 2.2, relative luminance)."""
    channels = (int(background[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels)
    luminance = sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000000" if luminance > _MIDDLE else "#ffffff"


def _mailbox(text: str) -> tuple[str, str]:
    """The name and the address of a mailbox, whose form the settings have checked. `email.utils.parseaddr` reads
    brackets in a name as a part of the address."""
    name, bracket, address = text.rpartition(" <")
    return (name.strip('"'), address.removesuffix(">")) if bracket else ("", text)


def _header_address(name: str, address: str) -> Address:
    local, _, domain = address.rpartition("@")
    return Address(name, local, domain)


def _envelope_address(recipient: str) -> str:
    """The address for the server: the stored local part, and the domain in its ASCII form. Only a local part outside
    ASCII needs SMTPUTF8 (RFC 6531)."""
    try:
        canonical = email_address(recipient).canonical
    except ValueError as error:
        raise DeliveryFailed(f"the address {error}", is_permanent=True) from None
    return f"{recipient.rpartition('@')[0]}@{canonical.rpartition('@')[2]}"
