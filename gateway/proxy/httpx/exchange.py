"""One request under way by httpx: what the face holds, and what of the body waits to be sent."""

import asyncio
from typing import TYPE_CHECKING, Final

import httpcore
import httpx

from gateway.proxy.exchange import Downstream
from gateway.proxy.upstream_exchange import UpstreamExchange
from gateway.proxy.upstream_request import UpstreamRequest

if TYPE_CHECKING:
    from gateway.proxy.httpx.attempt import Attempt
    from gateway.proxy.httpx.engine import HttpxEngine

_HELD: Final = 65536  # bytes of a body that wait for the upstream before the caller is not read from any more


class HttpxExchange(UpstreamExchange):
    """Implements Exchange. `attempt` is what sends it now; None while it waits for a place, and when it is over."""

    attempt: "Attempt | None" = None

    def __init__(self, engine: "HttpxEngine", request: UpstreamRequest, downstream: Downstream) -> None:
        super().__init__(engine, request, downstream)
        self._upload: Upload | None = None
        self._pieces: list[bytes] = []  # of the body, that wait to be sent
        self._held = 0
        self._upload_paused = False
        self._upload_over = False

    @property
    def upload_is_stuck(self) -> bool:
        """Whether the upload waits for the target."""
        return self._upload_paused

    @property
    def waiting(self) -> bool:
        """Whether it has no connection yet."""
        return self.attempt is None or self.attempt.is_connecting

    def send(self, data: bytes) -> None:
        """Keep a piece of the body until httpx asks for it."""
        if self._upload_over:
            return
        self._pieces.append(data)
        self._held += len(data)
        if self._held > _HELD and not self._upload_paused:
            self._upload_paused = True
            self.downstream.pause_upload()
        self._tell()

    def end_body(self) -> None:
        """The body is complete."""
        self.body_ended = True
        self._tell()

    def cancel(self) -> None:
        """The caller has left."""
        if self.attempt is not None:
            self.attempt.drop()
        elif self.pool is not None:
            self.pool.withdraw(self)

    def pause(self) -> None:
        """The caller cannot keep up."""
        self.paused = True
        if self.attempt is not None:
            self.attempt.pause()

    def resume(self) -> None:
        """The caller takes the response again."""
        self.paused = False
        if self.attempt is not None:
            self.attempt.resume()

    # ---- for the attempt

    def upload(self) -> "Upload":
        """The body from here on, as httpx takes it."""
        self._upload = Upload(self)
        return self._upload

    def stop_upload(self) -> None:
        """The upstream has closed: what is still to be sent it does not take."""
        if self._upload is not None:
            self._upload.stop()

    def end_upload(self) -> None:
        """The attempt is over. The upload refers back to this object."""
        self._upload = None

    def forget_body(self) -> None:
        """The answer has begun, and there will be no other: nothing more of the body is needed."""
        self._upload_over = True
        self.taken()

    def taken(self) -> bytes:
        """What has come of the body since the last time. It is on its way: it cannot be sent again."""
        pieces, self._pieces, self._held = self._pieces, [], 0
        if self._upload_paused:
            self._upload_paused = False
            self.downstream.resume_upload()
        return b"".join(pieces)

    @property
    def holds_body(self) -> bool:
        """Whether anything of the body waits to be sent."""
        return self._held > 0

    def _tell(self) -> None:
        if self._upload is not None:
            self._upload.tell()


class Upload(httpx.AsyncByteStream):
    """The body of a request as httpx asks for it. An iterator: a generator that is not taken whole would have to be
    closed by somebody."""

    def __init__(self, exchange: HttpxExchange) -> None:
        self._exchange = exchange
        self._news = asyncio.Event()
        self._stopped = False

    def tell(self) -> None:
        """More has come, or the end."""
        self._news.set()

    def stop(self) -> None:
        """Nobody takes it any more."""
        self._stopped = True
        self._news.set()

    def __aiter__(self) -> "Upload":
        return self

    async def __anext__(self) -> bytes:
        exchange = self._exchange
        while True:
            if exchange.body_ended and not exchange.holds_body:
                raise StopAsyncIteration
            if self._stopped:
                # What httpcore raises itself when it cannot write: it goes on to what the upstream has said, if it has.
                raise httpcore.WriteError("the upstream has closed")
            if exchange.holds_body:
                exchange.body_sent = True
                return exchange.taken()
            self._news.clear()
            await self._news.wait()
