"""Making connections to a target: its name is resolved anew for each, and all of its addresses are tried.

Nothing of an answer is kept: how long a name means an address is for the resolver of the machine to know. But those who
ask at the same time share one question: a name service that hangs must not have hundreds of threads waiting for it.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from gateway.proxy.target import Target

Lookup = Callable[[str, int], Awaitable[list[str]]]


class Dialler:
    """Dials one target. `lookup` gives the addresses of a name, the system's by default."""

    def __init__(self, target: Target, loop: asyncio.AbstractEventLoop, lookup: Lookup | None = None) -> None:
        self._target = target
        self._loop = loop
        self._lookup = lookup or self._ask_system
        self._fixed = [target.host] if _is_address(target.host) else None
        self._question: asyncio.Task[list[str]] | None = None
        self._turn = 0

    async def dial(self, make: Callable[[], asyncio.Protocol], patience: float) -> None:
        """One new connection, spoken on by what `make` makes, within `patience` seconds.

        Raises TimeoutError, ssl.SSLError, other OSErrors, and UnicodeError for a name that none can be.
        """
        until = self._loop.time() + patience
        async with asyncio.timeout_at(until):
            addresses = self._fixed or await self._addresses()
            for left in range(len(addresses), 0, -1):
                # An address that says nothing gets its part of the time, so that the others are tried too.
                share = (until - self._loop.time()) / left
                try:
                    async with asyncio.timeout(None if left == 1 else share):
                        await self._connect(make, addresses[-left])
                except OSError:  # TimeoutError is one
                    if left == 1:
                        raise
                else:
                    return

    async def _connect(self, make: Callable[[], asyncio.Protocol], address: str) -> None:
        target = self._target
        await self._loop.create_connection(
            make, address, target.port, ssl=target.tls, server_hostname=target.server_name
        )

    async def _addresses(self) -> list[str]:
        """All addresses of the name, each dial beginning with another: that spreads connections over what a name
        stands for, as resolvers that sort their answers do not."""
        if self._question is None:
            self._question = self._loop.create_task(self._ask())
        found = await asyncio.shield(self._question)
        self._turn += 1
        start = self._turn % len(found)
        return found[start:] + found[:start]

    async def _ask(self) -> list[str]:
        try:
            return await self._lookup(self._target.host, self._target.port)
        finally:
            self._question = None

    async def _ask_system(self, host: str, port: int) -> list[str]:
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
