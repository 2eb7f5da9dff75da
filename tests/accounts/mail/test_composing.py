"""Composed mails, in every language: their headers, both forms of their text, and no remote content."""

import quopri
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import get_args

import pytest
import yaml

from gateway.accounts.mail.composing import Composer
from gateway.accounts.mail.ports import WITH_LINK, MailKind, OutgoingMail
from gateway.accounts.mail.transport import DeliveryFailed
from gateway.accounts.texts.catalogue import SHIPPED, Catalogue
from tests.accounts.mail.mailing import mail_settings

NOW = datetime(2026, 11, 30, 8, 30, tzinfo=UTC)
LINK = "https://app.example.com/account/"
COMPOSER = Composer(mail_settings(accent="#ffdd00", links={"support": "/help"}), Catalogue.load(SHIPPED))


def mail(kind: MailKind = "reset", language: str | None = None, recipient: str = "ann@example.com") -> OutgoingMail:
    token = "gwl_" + "x" * 38 if kind in WITH_LINK else ""
    data = {"old": "old@example.com", "address": "192.0.2.7"}
    return OutgoingMail("a" * 32, kind, recipient, language, NOW, NOW + timedelta(hours=1), link=token, data=data)


def part(message: EmailMessage, kind: str) -> str:
    body = message.get_body(preferencelist=(kind,))
    assert body is not None
    text: str = body.get_content()
    return text


@pytest.mark.parametrize("language", SHIPPED)
@pytest.mark.parametrize("kind", get_args(MailKind))
def test_every_mail_is_complete_in_every_language(kind: MailKind, language: str) -> None:
    message = COMPOSER.compose(mail(kind, language)).message
    plain, html = part(message, "plain"), part(message, "html")
    assert message["Auto-Submitted"] == "auto-generated"
    assert (message["From"], message["To"]) == ("Example <no-reply@example.com>", "ann@example.com")
    assert message["Message-ID"] == f"<{'a' * 32}@example.com>"
    assert (LINK in plain, LINK in html) == (kind in WITH_LINK, kind in WITH_LINK)
    assert not re.search(r"\{[a-z_]+\}", plain + html), "a placeholder is left"
    assert f'lang="{language}"' in html and "https://app.example.com/help" in html
    assert not re.search(r"<img|<link|<script|src=|url\(|@import", html)
    assert message.as_bytes(policy=SMTP.clone(cte_type="7bit")).isascii(), "for servers without 8BITMIME"
    shown = quopri.decodestring(message.as_bytes()).decode()  # as `python3 -m quopri -d FILE.eml` prints it
    assert plain.strip() in shown and html.strip() in shown


def test_a_button_has_the_text_colour_of_the_higher_contrast() -> None:
    html = part(COMPOSER.compose(mail()).message, "html")
    assert "background:#ffdd00;color:#000000" in html


def test_an_address_is_escaped_in_html() -> None:
    html = part(COMPOSER.compose(mail(recipient="a&b'c@example.com")).message, "html")
    assert "a&amp;b&#x27;c@example.com" in html and "a&b" not in html


@pytest.mark.parametrize("utf8", [False, True])
def test_the_envelope_and_the_header_have_the_ascii_form_of_the_domain(utf8: bool) -> None:
    envelope = COMPOSER.compose(mail(recipient="ann@bücher.example"))
    assert envelope.recipient == "ann@xn--bcher-kva.example"
    wire = envelope.message.as_bytes(policy=SMTP.clone(cte_type="7bit", utf8=utf8))
    assert b"\r\nTo: ann@xn--bcher-kva.example\r\n" in wire


@pytest.mark.parametrize("recipient", ["ann@example.com\r\nBcc: eve@evil.example", "ann\0@example.com", "ann"])
def test_an_address_with_a_control_character_is_refused(recipient: str) -> None:
    with pytest.raises(DeliveryFailed):
        COMPOSER.compose(replace(mail(), recipient=recipient))


@pytest.mark.parametrize(
    "subject", ["Reset\nBcc: eve@example.com", "Reset\r\nBcc: eve@example.com", "Re\u2028set", "Reset\n"]
)
def test_a_line_break_in_a_text_of_ones_own_adds_no_header_field(tmp_path: Path, subject: str) -> None:
    (tmp_path / "en.yaml").write_text(yaml.safe_dump({"mail": {"reset": {"subject": subject}}}))
    message = Composer(mail_settings(), Catalogue.load(["en"], tmp_path)).compose(mail()).message
    assert (message["Subject"], message["Bcc"]) == (" ".join(subject.split()), None)
    assert message.as_bytes(policy=SMTP.clone(cte_type="7bit"))


@pytest.mark.parametrize(
    "name", ["Example's [x]", "A. B.", "J\u00f6rg M\u00fcller", '"Doe, Jane"', '"A <b"', "no-reply"]
)
def test_the_name_of_the_sender_is_no_part_of_the_address(name: str) -> None:
    settings = mail_settings()
    assert settings.mail is not None
    sender = replace(settings, mail=replace(settings.mail, from_=f"{name} <no-reply@example.com>"))
    envelope = Composer(sender, Catalogue.load(["en"])).compose(mail())
    [parsed] = envelope.message["From"].addresses
    assert (envelope.sender, parsed.addr_spec, parsed.display_name) == (
        "no-reply@example.com",
        "no-reply@example.com",
        name.strip('"'),
    )
