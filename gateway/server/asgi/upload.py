"""The request body over ASGI, limited by `server.body_timeout` and `server.min_body_rate`."""

import asyncio
from time import monotonic

from starlette.types import Message, Receive

from gateway.errors import Refusal
from gateway.server.upload_rate import UploadRate
from gateway.settings.model import ServerSettings


class Upload:
    """Reads the messages of one request. `broken_off` is True if the client was too slow.

    The time between two calls of `receive` does not count, because the reader is slow then and not the client.
    """

    def __init__(self, server: ServerSettings, receive: Receive) -> None:
        self._server = server
        self._receive = receive
        self._rate: UploadRate | None = None
        self._received = 0
        self._complete = False
        self.broken_off = False

    async def receive(self) -> Message:
        """Return the next message. Raises Refusal `request_timeout`."""
        if self._complete:
            return await self._receive()
        begun = monotonic()
        try:
            async with asyncio.timeout(self._server.body_timeout):
                message = await self._receive()
        except TimeoutError:
            raise self._break_off("the body paused too long") from None
        self._complete = not message.get("more_body", False)
        self._received += len(message.get("body", b""))
        if not self._complete and self._server.min_body_rate and self._too_slow(begun):
            raise self._break_off("the body came too slowly")
        return message

    def _too_slow(self, begun: float) -> bool:
        if self._rate is None:
            self._rate = UploadRate(self._server.min_body_rate, self._server.body_timeout, begun)
        self._rate.too_slow(begun, self._received, held_back=True)
        return self._rate.too_slow(monotonic(), self._received)

    def _break_off(self, reason: str) -> Refusal:
        self.broken_off = True
        return Refusal("request_timeout", reason, detail="The request body came too slowly")
