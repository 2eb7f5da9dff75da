"""An SMTP server that fails at chosen steps: it refuses, gets silent, or closes the connection."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Literal

from tests.support.listening import listening

Step = Literal["greeting", "EHLO", "STARTTLS", "handshake", "AUTH", "MAIL", "RCPT", "DATA", "content", "QUIT"]

HANG: Final = "hang"
CUT: Final = "cut"
_ANSWERS: Final[Mapping[str, str]] = {
    "greeting": "220 ready",
    "STARTTLS": "220 go ahead",
    "AUTH": "235 welcome",
    "DATA": "354 end with a dot",
    "QUIT": "221 bye",
}


class _Cut(Exception):
    """The server closes the connection."""


@dataclass
class FaultySmtpServer:
    """The server. `faults` maps a step to HANG, CUT or an answer such as "451 try later". A recipient in `faulty`
    has these faults from RCPT on, and others have none; without `faulty` every mail has them. `received` are the
    recipients of accepted mails, also of those whose acceptance the client does not learn."""

    port: int = 0
    offers: tuple[str, ...] = ()
    context: ssl.SSLContext | None = None
    faults: dict[str, str] = field(default_factory=dict)
    faulty: frozenset[str] = frozenset()
    received: list[str] = field(default_factory=list)
    attempts: int = 0
    on_connection: Callable[[], None] | None = None

    @property
    def address(self) -> str:
        return f"smtp+plain://localhost:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        if self.on_connection is not None:
            self.on_connection()
        with suppress(_Cut, OSError, asyncio.IncompleteReadError):
            await self._converse(reader, writer)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recipient = ""
        await self._answer(writer, "greeting")
        while line := (await reader.readline()).decode().strip():
            step = line.partition(" ")[0].upper()
            if step == "RCPT":
                recipient = line.partition("<")[2].partition(">")[0]
                self.attempts += 1
            if step == "EHLO" and "EHLO" not in self.faults:
                writer.write(("".join(f"250-{each}\r\n" for each in ("here", *self.offers)) + "250 HELP\r\n").encode())
                continue
            is_accepted = await self._answer(writer, step, recipient)
            if step == "STARTTLS" and is_accepted:
                await self._answer(writer, "handshake", silent=True)
                assert self.context is not None
                await writer.start_tls(self.context)
            elif step == "DATA" and is_accepted:
                await reader.readuntil(b"\r\n.\r\n")
                if not self.faults.get("content", "250").startswith(("4", "5")) or not self._has_faults(recipient):
                    self.received.append(recipient)
                await self._answer(writer, "content", recipient)
            elif step == "QUIT":
                return

    def _has_faults(self, recipient: str) -> bool:
        return not self.faulty or recipient in self.faulty

    async def _answer(
        self, writer: asyncio.StreamWriter, step: str, recipient: str = "", *, silent: bool = False
    ) -> bool:
        """Answer, or fail as `faults` say. Return whether the step succeeded."""
        fault = self.faults.get(step) if self._has_faults(recipient) else None
        if fault == HANG:
            await asyncio.Event().wait()
        if fault == CUT:
            raise _Cut
        answer = fault or _ANSWERS.get(step, "250 fine")
        if not silent:
            writer.write(f"{answer}\r\n".encode())
        return fault is None


@asynccontextmanager
async def faulty_smtp_server(**options: object) -> AsyncIterator[FaultySmtpServer]:
    """Run a server on loopback."""
    made = FaultySmtpServer(**options)  # type: ignore[arg-type]
    async with listening(made.serve) as made.port:
        yield made
