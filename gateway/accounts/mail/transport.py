"""Ways to deliver a mail: the interface, its errors, and a folder for development.

A failure belongs to one of two kinds. Delivery fails for one mail, temporarily or permanently. An outage concerns the
server as a whole, and every mail waits for its end.
"""

import asyncio
import os
import re
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import SMTPUTF8
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from gateway.errors import GatewayError, cannot_read

# CR and LF end a command, and NUL ends a string in some servers (GHSA-v3q9-hj7j-63hq).
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_REASON: Final = 300  # In characters: the server chooses the text.

Recorder = Callable[[str], None]


class DeliveryFailed(GatewayError):
    """One mail was not accepted. `is_permanent`: another attempt cannot succeed."""

    def __init__(self, reason: str, *, is_permanent: bool) -> None:
        self.reason = shown(reason)
        self.is_permanent = is_permanent
        super().__init__(self.reason)


class TransportDown(GatewayError):
    """No mail can be delivered: no connection, no TLS, or no login."""

    def __init__(self, reason: str) -> None:
        self.reason = shown(reason)
        super().__init__(self.reason)


def shown(reason: str) -> str:
    """A reason in one line of printable characters."""
    return "".join(each if each.isprintable() else " " for each in reason)[:_LONGEST_REASON]


def refuse_control_characters(*texts: str) -> None:
    """Raise DeliveryFailed if one of the texts could end a line of the conversation or of a header."""
    if any(_CONTROL.search(text) for text in texts):
        raise DeliveryFailed("an address or a header contains a control character", is_permanent=True)


class Delivery(Protocol):
    """An open connection. Both methods raise TransportDown and DeliveryFailed."""

    async def send(self, message: EmailMessage, *, sender: str, recipient: str) -> None:
        """Deliver one message. `sender` and `recipient` are the addresses of the envelope."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class MailTransport(Protocol):
    """Opens connections."""

    def connect(self) -> Delivery:
        """A connection, opened by `async with`."""


class FolderTransport:
    """Writes each mail as a file `.eml` with mode 0600, because it contains links."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def connect(self) -> "FolderTransport":
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, message: EmailMessage, *, sender: str, recipient: str) -> None:
        """Write the file. Its name sorts by time, and a second delivery of the same mail replaces the first."""
        name = message["Message-ID"].strip("<>").partition("@")[0]
        moment = message["Date"].datetime.strftime("%Y%m%dT%H%M%SZ")
        content = message.as_bytes(policy=SMTPUTF8)
        try:
            await asyncio.to_thread(_write, self._folder, f"{moment}-{name}.eml", content)
        except OSError as error:
            raise TransportDown(cannot_read(self._folder, error)) from None


def _write(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f".{name}.draft"
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
    draft.replace(folder / name)
