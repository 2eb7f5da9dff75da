"""A real SMTP server on loopback, with STARTTLS, TLS from the start, or neither."""

import asyncio
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from tests.support.processes import free_port
from tests.support.upstreams import Authority
from tests.support.waiting import eventually

Security = Literal["starttls", "tls", "none"]

_LINK = re.compile(r"https?://\S+?token=(gwl_[0-9A-Za-z]{38})")


class Received(NamedTuple):
    """One accepted message, with its envelope."""

    sender: str
    recipient: str
    message: EmailMessage

    @property
    def text(self) -> str:
        return _part(self.message, "plain")

    @property
    def html(self) -> str:
        return _part(self.message, "html")

    @property
    def has_link(self) -> bool:
        return _LINK.search(self.text) is not None

    @property
    def link(self) -> str:
        """The address of the link in the text."""
        found = _LINK.search(self.text)
        assert found is not None, self.text
        return found[0]

    @property
    def token(self) -> str:
        """The token of the link in the text."""
        found = _LINK.search(self.text)
        assert found is not None, self.text
        return found[1]


def _part(message: EmailMessage, kind: str) -> str:
    body = message.get_body(preferencelist=(kind,))
    assert body is not None
    text: str = body.get_content()
    return text


class SmtpServer:
    """The server. `answers` maps a recipient to the response to RCPT, for example "550 unknown".
    `mail_answer` replaces the response to every MAIL command. `passwords` are required if given."""

    def __init__(
        self,
        context: ssl.SSLContext | None = None,
        *,
        security: Security = "starttls",
        passwords: Mapping[str, str] | None = None,
        has_utf8: bool = True,
    ) -> None:
        self.port = free_port()
        self.received: list[Received] = []
        self.answers: dict[str, str] = {}
        self.mail_answer: str | None = None
        self.commands: list[str] = []
        self.connections = 0
        self._context = context
        self._security = security
        self._passwords = passwords
        self._has_utf8 = has_utf8
        self._controller: Any = None

    @property
    def address(self) -> str:
        scheme = {"starttls": "smtp", "tls": "smtps", "none": "smtp+plain"}[self._security]
        user = next(iter(f"{name}:{quote(word)}@" for name, word in (self._passwords or {}).items()), "")
        return f"{scheme}://{user}localhost:{self.port}"

    def start(self) -> "SmtpServer":
        options: dict[str, Any] = {"enable_SMTPUTF8": self._has_utf8, "server_hostname": "localhost"}
        if self._security == "tls":
            options["ssl_context"] = self._context
        elif self._security == "starttls":
            options |= {"tls_context": self._context, "require_starttls": True}
        if self._passwords is not None:
            options |= {"authenticator": self._authenticated, "auth_required": True}
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, **options)
        self._controller.start()
        self.connections, self.commands = 0, []
        return self

    def pause(self, seconds: float) -> None:
        """Answer nothing for some seconds."""
        self._controller.loop.call_soon_threadsafe(time.sleep, seconds)

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def mail_to(self, recipient: str, *, count: int = 1, within: float = 10.0) -> Received:
        """The newest of at least `count` mails to this address, which can still be on its way."""

        def found() -> list[Received]:
            return [one for one in list(self.received) if one.recipient == recipient]

        eventually(lambda: len(found()) >= count, timeout=within)
        return found()[-1]

    async def mail_within(
        self, recipient: str, *, count: int = 1, with_link: bool = False, within: float = 10.0
    ) -> Received:
        """The same for a coroutine, whose loop can run the sender. `with_link` ignores mails without a link."""
        async with asyncio.timeout(within):
            while True:
                mails = [one for one in list(self.received) if one.recipient == recipient]
                found = [one for one in mails if one.has_link] if with_link else mails
                if len(found) >= count:
                    return found[-1]
                await asyncio.sleep(0.02)

    # ---- hooks of aiosmtpd

    async def handle_EHLO(self, _server: Any, session: Any, _envelope: Any, hostname: str, lines: list[str]) -> Any:
        session.host_name = hostname
        self.connections += 1
        self.commands.append(f"EHLO {hostname}")
        return lines

    async def handle_MAIL(self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]) -> str:
        self.commands.append(f"MAIL {address}")
        if self.mail_answer is not None:
            return self.mail_answer
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]) -> str:
        self.commands.append(f"RCPT {address}")
        if address in self.answers:
            return self.answers[address]
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        message = message_from_bytes(envelope.content, policy=default)
        assert isinstance(message, EmailMessage)
        for recipient in envelope.rcpt_tos:
            self.received.append(Received(envelope.mail_from, recipient, message))
        return "250 accepted"

    def _authenticated(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword) and self._passwords is not None
        is_right = self._passwords.get(data.login.decode()) == data.password.decode()
        return AuthResult(success=is_right, handled=False)


@pytest.fixture(scope="session")
def mail_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority of the SMTP servers. A gateway trusts it with SSL_CERT_FILE."""
    return Authority(tmp_path_factory.mktemp("mail-authority"))


@pytest.fixture
def smtp_server(mail_authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmtpServer]:
    """A server with STARTTLS, whose certificate this process and its gateways trust."""
    monkeypatch.setenv("SSL_CERT_FILE", str(mail_authority.file))
    server = SmtpServer(mail_authority.context("localhost")).start()
    yield server
    server.stop()
