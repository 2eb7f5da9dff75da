"""Active health checks: requests to each target at intervals, independent of the traffic."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gateway.errors import Refusal
from gateway.proxy.exchange import TargetPool
from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.interfaces import Field
from gateway.proxy.native.http11 import UpstreamConnection
from gateway.proxy.upstream import Upstream
from gateway.settings.model import HealthSettings, UpstreamSettings
from gateway.settings.types import format_duration
from gateway.ticker import Ticker

log: Final = logging.getLogger("gateway.proxy")


class HealthChecks:
    """The checks of one target, from now until `stop`.

    They use separate connections, so a full pool does not look like an unhealthy target and a check is not load. Each
    check opens a new connection, because it tests whether the target accepts one, and the target could be closing an
    idle one.
    """

    def __init__(self, url: str, upstream: UpstreamSettings, pool: TargetPool, *, ticker: Ticker) -> None:
        assert upstream.health is not None
        self._settings: HealthSettings = upstream.health
        self._target, self._health = pool.target, pool.health
        self._loop = asyncio.get_running_loop()
        own = replace(
            upstream, targets=(url,), health=None, eject=None, retries=0, connect_timeout=self._settings.timeout
        )
        self._engine = Upstream(own, UpstreamConnection, loop=self._loop, ticker=ticker, tls=pool.target.tls)
        self._engine.close()  # so it keeps no idle connection
        self._task = self._loop.create_task(self._run())

    def stop(self) -> None:
        """Stop the checks."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            result = await self._check()
            healthy = isinstance(result, int) and 200 <= result < 400
            if self._health.checked(healthy=healthy, now=self._loop.time()):
                log.warning("target %s is %s", self._target, "healthy again" if healthy else self._why_down(result))
            await asyncio.sleep(self._settings.interval)

    def _why_down(self, result: int | str) -> str:
        if isinstance(result, str):
            reason = result.removeprefix(f"{self._target}: ")
            return f"down: its checks fail ({reason})"
        host = self._settings.host or self._target.authority
        return f"down: its checks fail, with status {result} for Host {host} (health.path, health.host)"

    async def _check(self) -> int | str:
        """Return the status of the response, or the reason for its absence."""
        start = b"GET %b HTTP/1.1\r\n" % self._settings.path.encode("ascii")
        fields = b"User-Agent: gateway-health-check\r\nConnection: close\r\n"
        receiver = _StatusReceiver(self._loop)
        request = UpstreamRequest(b"GET", start, fields, length=0)
        if self._settings.host is not None:
            request.preserved_host = self._settings.host.encode("ascii")
        exchange = self._engine.open(request, receiver, self._loop.time())
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await receiver.result
        except TimeoutError:
            return f"no response within {format_duration(self._settings.timeout)}"
        finally:
            exchange.cancel()  # the body is not needed


class _StatusReceiver:
    """Implements Downstream: keeps the status of a response, or the reason for its absence."""

    forwarded_at = 0.0
    client = ""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.result: asyncio.Future[int | str] = loop.create_future()

    def head(
        self,
        status: int,
        reason: bytes,
        fields: Sequence[Field],
        length: int | None,
        serialized: bytes | None = None,
    ) -> None:
        self._received(status)

    def refuse(self, refusal: Refusal) -> None:
        self._received(refusal.reason)

    def abort(self, reason: str) -> None:
        self._received(reason)

    def upgraded(self, fields: Sequence[Field], upstream: asyncio.Transport, early: bytes) -> None:
        upstream.abort()  # checks request no upgrade, and the engine refuses an unrequested one

    def end(self, trailers: Sequence[Field] = ()) -> None: ...

    def interim(self, status: int, fields: Sequence[Field]) -> None: ...

    def on_event_stream(self) -> None: ...

    def body(self, data: bytes) -> None: ...

    def flush(self) -> None: ...

    def pause_upload(self) -> None: ...

    def resume_upload(self) -> None: ...

    def _received(self, result: int | str) -> None:
        if not self.result.done():
            self.result.set_result(result)
