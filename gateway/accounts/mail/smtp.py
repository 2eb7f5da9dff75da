"""Delivery over SMTP (RFC 5321), with TLS.

    smtp://        STARTTLS (RFC 3207); a server without it is an outage, so that no mail and no password goes in clear
    smtps://       TLS from the start (RFC 8314)
    smtp+plain://  without TLS, for a server on this machine

Certificates are checked against SSL_CERT_FILE and SSL_CERT_DIR if set, else against those of the system.
"""

import asyncio
import re
import ssl
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Final, Self, cast
from urllib.parse import unquote, urlsplit

import aiosmtplib

from gateway.accounts.mail.transport import DeliveryFailed, Recorder, TransportDown, refuse_control_characters

STEP: Final = 10.0  # Seconds for each step of the conversation.
# The server has often accepted the mail before it answers. A client that gives up too early sends the mail again (RFC
# 5321 4.5.3.2.6).
_ACCEPTANCE: Final = 3  # Steps that the answer to a message can take.
_PORTS: Final = {"smtp": 587, "smtps": 465, "smtp+plain": 25}
_PERMANENT: Final = 500
# Refusals that do not concern the mail. 421: the server closes the connection (RFC 5321 4.2.3). 530: it requires a
# login (RFC 4954 6) or TLS (RFC 3207 4).
_CONCERNS_EVERY_MAIL: Final = frozenset((421, 530))
# No stored address contains these characters. In a command they would end the address and add parameters.
_BREAKS_COMMAND: Final = re.compile(r'[\s<>"]').search


class SmtpTransport:
    """Opens connections to the server at `address`, such as `smtp://user:password@mail.example.com:587`."""

    def __init__(self, address: str, *, client_host: str, record: Recorder | None = None, step: float = STEP) -> None:
        """`client_host` is the name with which this client greets the server. `step` is in seconds."""
        url = urlsplit(address)
        assert url.hostname is not None, "the settings check the address"
        self._scheme = url.scheme
        self._host = url.hostname
        self._port = url.port or _PORTS[url.scheme]
        self._user = None if url.username is None else unquote(url.username)
        self._password = None if url.password is None else unquote(url.password)
        self._client_host = client_host
        self._record = record
        self._step = step
        self._context: ssl.SSLContext | None = None

    def connect(self) -> "SmtpDelivery":
        if self._context is None and self._scheme != "smtp+plain":
            self._context = _context()
        client = _Client(
            hostname=self._host,
            port=self._port,
            username=self._user,
            password=self._password,
            # The library's default asks the resolver for the name of this machine, which can take seconds.
            local_hostname=self._client_host,
            timeout=self._step,
            use_tls=self._scheme == "smtps",
            start_tls=self._scheme == "smtp",
            tls_context=self._context,
        )
        return SmtpDelivery(client, self._record)


class _Client(aiosmtplib.SMTP):
    """Waits longer for the answer to a message."""

    async def data(self, message: str | bytes, /, **_: Any) -> aiosmtplib.SMTPResponse:
        return await super().data(message, timeout=_ACCEPTANCE * (self.timeout or STEP))


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class SmtpDelivery:
    """One connection."""

    def __init__(self, client: aiosmtplib.SMTP, record: Recorder | None) -> None:
        self._client = client
        self._record = record or _ignore

    async def __aenter__(self) -> Self:
        self._record(f"connecting to {self._client.hostname}:{self._client.port}")
        try:
            greeting = await self._client.connect()
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise TransportDown(_reason(error)) from None
        self._record(f"< {greeting.code} {greeting.message}")
        self._note_tls()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # uvloop's transports do not inherit from asyncio's.
        transport = cast("asyncio.WriteTransport | None", self._client.transport)
        try:
            if kind is None and self._client.is_connected:
                await self._client.quit()
        except (aiosmtplib.SMTPException, OSError):
            pass  # every mail has been answered
        finally:
            self._client.close()
            if transport is not None:
                # A TLS transport waits for the server's close_notify. A command ends before that and would leave it
                # open.
                transport.abort()

    async def send(self, message: EmailMessage, *, sender: str, recipient: str) -> None:
        """Deliver one message."""
        refuse_control_characters(sender, recipient)
        if _BREAKS_COMMAND(sender) or _BREAKS_COMMAND(recipient):
            raise DeliveryFailed("an address contains a space, a quote or a bracket", is_permanent=True)
        self._record(f"> MAIL FROM:<{sender}>, RCPT TO:<{recipient}>, DATA")
        try:
            _, answer = await self._client.send_message(message, sender=sender, recipients=[recipient])
        except (aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPTimeoutError, OSError) as error:
            raise TransportDown(_reason(error)) from None
        except (aiosmtplib.SMTPNotSupported, ValueError) as error:
            raise DeliveryFailed(_reason(error), is_permanent=True) from None
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _refused(error.recipients[0]) from None
        except aiosmtplib.SMTPResponseException as error:
            raise _refused(error) from None
        except aiosmtplib.SMTPException as error:
            raise DeliveryFailed(_reason(error), is_permanent=False) from None
        self._record(f"< 250 {answer}")

    def _note_tls(self) -> None:
        connection = self._client.get_transport_info("ssl_object")
        if isinstance(connection, ssl.SSLSocket | ssl.SSLObject):
            self._record(f"{connection.version()}, certificate checked")


def _refused(error: aiosmtplib.SMTPResponseException) -> DeliveryFailed | TransportDown:
    reason = f"{error.code} {error.message}"
    if error.code in _CONCERNS_EVERY_MAIL:
        return TransportDown(reason)
    return DeliveryFailed(reason, is_permanent=error.code >= _PERMANENT)


def _reason(error: Exception) -> str:
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"{error.code} {error.message}"
    if isinstance(error, asyncio.TimeoutError) and not str(error):
        return f"no answer within {STEP:.0f} s"
    return str(error) or type(error).__name__


def _ignore(_: str) -> None:
    pass
