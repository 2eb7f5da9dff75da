"""The engine of an upstream in the event loop of a test, without a gateway: requests go in, outcomes come out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from gateway.errors import Refusal
from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.httpx_engine.connection import HttpxEngine
from gateway.proxy.interfaces import Exchange, Field
from gateway.proxy.proxy import engine_of
from gateway.proxy.tls import TlsContexts
from gateway.proxy.upstream import Upstream
from gateway.settings.model import UpstreamSettings
from gateway.ticker import Ticker


class Outcome:
    """Implements Downstream: the outcome of one request. `done` is set once, with the reason that closed the
    exchange."""

    def __init__(self, client: str = "") -> None:
        self.forwarded_at = 0.0
        self.client = client
        self.status = 0
        self.pieces: list[bytes] = []
        self.refusal: Refusal | None = None
        self.aborted: str | None = None
        self.upload_paused = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def content(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def code(self) -> str:
        return "" if self.refusal is None else self.refusal.code

    def interim(self, status: int, fields: Sequence[Field]) -> None:
        pass

    def head(
        self,
        status: int,
        reason: bytes,
        fields: Sequence[Field],
        length: int | None,
        serialized: bytes | None = None,
    ) -> None:
        self.status = status

    def on_event_stream(self) -> None:
        pass

    def upgraded(self, fields: Sequence[Field], upstream: asyncio.Transport, early: bytes) -> None:
        upstream.abort()

    def body(self, data: bytes) -> None:
        self.pieces.append(data)

    def end(self, trailers: Sequence[Field] = ()) -> None:
        self.done.set_result(None)

    def abort(self, reason: str) -> None:
        self.aborted = reason
        self.done.set_result(None)

    def refuse(self, refusal: Refusal) -> None:
        self.refusal, self.status = refusal, refusal.status
        self.done.set_result(None)

    def flush(self) -> None:
        pass

    def pause_upload(self) -> None:
        self.upload_paused = True

    def resume_upload(self) -> None:
        self.upload_paused = False


# The default engine of the tests; `either_engine` sets it.
ENGINE = "native"


def settings(*targets: str, **values: Any) -> UpstreamSettings:
    return UpstreamSettings(name="web", targets=targets, **{"engine": ENGINE} | values)


class Harness:
    """One engine. `ask` sends a request and waits for its outcome."""

    def __init__(self, engine: Upstream | HttpxEngine, ticker: Ticker) -> None:
        self.engine = engine
        self.ticker = ticker
        self._loop = asyncio.get_running_loop()

    def begin(
        self,
        method: str = "GET",
        *,
        body: bytes | None = None,
        length: int | None = 0,
        response_timeout: float | None = 5.0,
        name: str = "",
        client: str = "",
    ) -> tuple[Outcome, Exchange]:
        """Send a request. With `body` it is complete; with a `length` other than 0 the test sends the body, None for a
        chunked one."""
        outcome = Outcome(client)
        length = len(body) if body is not None else length
        framing = b"Transfer-Encoding: chunked\r\n" if length is None else b"Content-Length: %d\r\n" % length
        fields = b"X-Id: %b\r\n" % name.encode() + (framing if length != 0 else b"")
        request = UpstreamRequest(method.encode(), b"%b /x HTTP/1.1\r\n" % method.encode(), fields, length=length)
        request.response_timeout = response_timeout
        exchange = self.engine.open(request, outcome, self._loop.time())
        if body:
            exchange.write(body)
            exchange.end_body()
        return outcome, exchange

    async def ask(self, method: str = "GET", **options: Any) -> Outcome:
        outcome, _ = self.begin(method, **options)
        return await ended(outcome)

    async def ask_many(self, count: int, method: str = "GET", *, at_once: int = 8, **options: Any) -> list[Outcome]:
        """This many requests, `at_once` at a time."""
        outcomes: list[Outcome] = []

        async def some() -> None:
            while len(outcomes) < count:
                outcome, _ = self.begin(method, name=f"{method}-{len(outcomes)}", **options)
                outcomes.append(outcome)
                await ended(outcome)

        await asyncio.gather(*(some() for _ in range(at_once)))
        return outcomes


def sending_first(
    data: bytes = b"",
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]:
    """A handler for asyncio.start_server that sends these bytes at once and waits for the client to leave."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            writer.write(data)
            await reader.read()

    return handle


async def ended(outcome: Outcome, within: float = 10.0) -> Outcome:
    async with asyncio.timeout(within):
        await outcome.done
    return outcome


@asynccontextmanager
async def running(upstream: UpstreamSettings) -> AsyncIterator[Harness]:
    """An engine that runs while the block does."""
    loop = asyncio.get_running_loop()
    ticker = Ticker(loop)
    ticker.start()
    tls = TlsContexts({upstream.name: upstream}).of(upstream)
    engine = engine_of(upstream, loop=loop, ticker=ticker, tls=tls)
    assert isinstance(engine, Upstream | HttpxEngine)
    try:
        yield Harness(engine, ticker)
    finally:
        engine.close()
        ticker.stop()
