"""Active health checks: each target is asked for a path now and then, whether or not there are requests for it."""

import asyncio
import logging
from typing import Final

import httpx

from gateway.proxy.health import TargetHealth
from gateway.proxy.target import Target
from gateway.settings.model import HealthSettings

log: Final = logging.getLogger("gateway.proxy")


class HealthChecks:
    """The checks of one target. They go by connections of their own: a full pool must not look like a sick target."""

    def __init__(self, target: Target, health: TargetHealth, settings: HealthSettings) -> None:
        self._target = target
        self._health = health
        self._settings = settings
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Check no more."""
        self._task.cancel()

    async def _run(self) -> None:
        # No client: it would keep cookies, follow redirects and read proxies from the environment.
        verify = self._target.tls if self._target.tls is not None else False
        async with httpx.AsyncHTTPTransport(verify=verify, retries=0) as transport:
            while True:
                well = await self._check(transport)
                if self._health.checked(well=well, now=asyncio.get_running_loop().time()):
                    log.warning("target %s is %s", self._target, "well again" if well else "out: its checks fail")
                await asyncio.sleep(self._settings.interval)

    async def _check(self, transport: httpx.AsyncHTTPTransport) -> bool:
        """Whether an answer with a status below 400 came in time."""
        request = httpx.Request(
            "GET",
            f"{self._target}{self._settings.path}",
            headers={"host": self._target.authority, "user-agent": "gateway-health-check"},
            extensions=self._extensions(),
        )
        try:
            async with asyncio.timeout(self._settings.timeout):
                response = await transport.handle_async_request(request)
                await response.aclose()
        except (httpx.TransportError, OSError, TimeoutError):
            return False
        return 200 <= response.status_code < 400

    def _extensions(self) -> dict[str, str]:
        return {} if self._target.server_name is None else {"sni_hostname": self._target.server_name}
