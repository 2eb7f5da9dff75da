"""Active health checks: each target is asked for a path now and then, whether or not there are requests for it."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from gateway.errors import Refusal
from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.interfaces import Field
from gateway.proxy.native.pool import NativeEngine
from gateway.proxy.target_queue import TargetLine
from gateway.settings.model import HealthSettings, UpstreamSettings
from gateway.ticker import Ticker

log: Final = logging.getLogger("gateway.proxy")


class HealthChecks:
    """The checks of one target, from now on until `stop`.

    They go by connections of their own, so that a full pool does not look like a sick target and a check is no load;
    and by a new one each time: whether one more can be made is what is to be known, and one that is kept may just be
    closed by the target for being idle.
    """

    def __init__(self, url: str, upstream: UpstreamSettings, line: TargetLine[Any], *, ticker: Ticker) -> None:
        assert upstream.health is not None
        self._settings: HealthSettings = upstream.health
        self._line = line
        self._loop = asyncio.get_running_loop()
        own = replace(
            upstream, targets=(url,), health=None, eject=None, retries=0, connect_timeout=self._settings.timeout
        )
        self._engine = NativeEngine(own, loop=self._loop, ticker=ticker, tls=line.target.tls)
        self._engine.close()  # so it keeps no connection
        self._task = self._loop.create_task(self._run())

    def stop(self) -> None:
        """Check no more."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            status = await self._check()
            well = 200 <= status < 400
            if self._line.health.checked(well=well, now=self._loop.time()):
                log.warning("target %s is %s", self._line.target, "well again" if well else self._why_out(status))
            await asyncio.sleep(self._settings.interval)

    def _why_out(self, status: int) -> str:
        if status == 0:
            return "out: its checks fail"
        host = self._settings.host or self._line.target.authority
        return f"out: its checks fail, with status {status} for Host {host} (health.path, health.host)"

    async def _check(self) -> int:
        """The status of the answer; 0 where none came in time."""
        start = b"GET %b HTTP/1.1\r\n" % self._settings.path.encode("ascii")
        fields = b"User-Agent: gateway-health-check\r\nConnection: close\r\n"
        answer = _Answer(self._loop)
        request = UpstreamRequest(b"GET", start, fields, length=0)
        if self._settings.host is not None:
            request.preserved_host = self._settings.host.encode("ascii")
        exchange = self._engine.open(request, answer, self._loop.time())
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await answer.status
        except TimeoutError:
            return 0
        finally:
            exchange.cancel()  # of the body nobody wants anything


class _Answer:
    """Implements Downstream: the status of an answer, 0 where none came."""

    forwarded_at = 0.0
    client = ""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.status: asyncio.Future[int] = loop.create_future()

    def head(self, status: int, reason: bytes, fields: Sequence[Field], length: int | None) -> None:
        self._told(status)

    def refuse(self, refusal: Refusal) -> None:
        self._told(0)

    def abort(self, reason: str) -> None:
        self._told(0)

    def upgraded(self, fields: Sequence[Field], upstream: asyncio.Transport, early: bytes) -> None:
        upstream.abort()  # nobody asked for it; it is refused before it comes here

    def end(self, trailers: Sequence[Field] = ()) -> None: ...

    def interim(self, status: int, fields: Sequence[Field]) -> None: ...

    def lasts(self) -> None: ...

    def body(self, data: bytes) -> None: ...

    def flush(self) -> None: ...

    def pause_upload(self) -> None: ...

    def resume_upload(self) -> None: ...

    def _told(self, status: int) -> None:
        if not self.status.done():
            self.status.set_result(status)
