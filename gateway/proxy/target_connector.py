"""Opens connections to a target, over any of its addresses (Happy Eyeballs, RFC 8305).

The name of the target is resolved for each connection, because only the resolver of the machine knows how long an
answer is valid. Simultaneous dials share one query, because a resolver that hangs must not block hundreds of threads.

The addresses are tried in turn. The next attempt starts when the last has failed or after DELAY, and the first accepted
connection wins. An address that failed or was overtaken is tried last for some time, so that the next connections do
not wait for it.

asyncio's own Happy Eyeballs are missing in uvloop and remember no failures.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Final

from gateway.proxy import unread
from gateway.proxy.target import Target

Lookup = Callable[[str, int], Awaitable[list[str]]]

DELAY: Final = 0.25  # seconds; the Connection Attempt Delay of RFC 8305 5
AVOIDED: Final = 30.0  # seconds
_QUEUE_PAUSE: Final = 0.01  # seconds
_MOST_AVOIDED: Final = 256  # a name can have different addresses in each answer


class _Early(asyncio.Protocol):
    """Keeps the first bytes of a connection until its protocol exists, after the race and the TLS handshake."""

    def __init__(self) -> None:
        self.data = b""
        self.lost = False

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


Connected = tuple[asyncio.Transport, _Early]


class TargetConnector:
    """Dials one target. `lookup` returns the addresses of a name; the default is the system's resolver. An address that
    has failed is tried last for `avoid` seconds."""

    def __init__(
        self, target: Target, loop: asyncio.AbstractEventLoop, lookup: Lookup | None = None, *, avoid: float = AVOIDED
    ) -> None:
        self._target = target
        self._loop = loop
        self._lookup = lookup or self._look_up
        self._fixed = [target.host] if _is_ip(target.host) else None
        self._query: asyncio.Task[list[str]] | None = None
        self._turn = 0
        self._avoid_for = avoid
        self._avoided: dict[str, float] = {}  # the end of the time by address, oldest first

    async def connect(self, make: Callable[[], asyncio.Protocol], within: float) -> None:
        """Open one connection in `within` seconds, with the protocol that `make` returns.

        Raises TimeoutError, ssl.SSLError, other OSErrors, and UnicodeError for an invalid name.
        """
        async with asyncio.timeout(within):
            if self._target.socket:
                transport, early = await self._connect_to_socket(self._target.socket)
            else:
                transport, early = await self._connect_to_host(within)
        if early.lost:
            raise ConnectionResetError("the connection was closed as soon as it was made")
        protocol = make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if early.data:
            protocol.data_received(early.data)

    async def _connect_to_host(self, within: float) -> Connected:
        addresses = self._fixed or await self._addresses()
        if len(addresses) == 1:
            return await self._connect_to(addresses[0])
        return await self._race(addresses, min(DELAY, within / len(addresses)))

    async def _connect_to_socket(self, path: str) -> Connected:
        """Connect to a Unix socket. Unlike with TCP, connecting fails at once while the queue of its listener is
        full."""
        while True:
            with contextlib.suppress(BlockingIOError):
                return await self._loop.create_unix_connection(_Early, path)
            await asyncio.sleep(_QUEUE_PAUSE)

    async def _connect_to(self, address: str) -> Connected:
        transport, early = await self._loop.create_connection(_Early, address, self._target.port)
        if self._target.tls is None:
            return transport, early
        try:
            return await self._start_tls(transport, self._target.tls), early
        except BaseException:
            transport.abort()
            raise

    async def _start_tls(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> asyncio.Transport:
        early = transport.get_protocol()
        encrypted = await self._loop.start_tls(transport, early, tls, server_hostname=self._target.server_name)
        if encrypted is None:
            raise ConnectionResetError("the connection was closed during the handshake of TLS")
        transport.set_protocol(unread.BelowTls(transport))
        return encrypted

    # ---- addresses

    async def _addresses(self) -> list[str]:
        """Return the addresses of the name in the order of the attempts.

        Each dial begins with another address, which spreads connections over all of them even if the resolver sorts its
        answers. The families alternate (RFC 8305 4), because often one of them fails as a whole.
        """
        if self._query is None:
            self._query = self._loop.create_task(self._resolve())
        found = await asyncio.shield(self._query)
        self._turn += 1
        start = self._turn % len(found)
        rotated = found[start:] + found[:start]
        first = _family(rotated[0])
        same = [address for address in rotated if _family(address) == first]
        other = [address for address in rotated if _family(address) != first]
        alternating = [address for address in chain(*zip_longest(same, other)) if address is not None]
        now = self._loop.time()
        return sorted(alternating, key=lambda address: self._avoided.get(address, now) > now)

    async def _resolve(self) -> list[str]:
        try:
            return await self._lookup(self._target.host, self._target.port)
        finally:
            self._query = None

    async def _look_up(self, host: str, port: int) -> list[str]:
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))

    def _avoid(self, addresses: Iterable[str]) -> None:
        until = self._loop.time() + self._avoid_for
        for address in addresses:
            self._avoided.pop(address, None)
            self._avoided[address] = until
            if len(self._avoided) > _MOST_AVOIDED:
                del self._avoided[next(iter(self._avoided))]

    # ---- the race

    async def _race(self, addresses: Sequence[str], delay: float) -> Connected:
        """Connect to the first address that accepts, TLS included. Raises OSError if all addresses fail."""
        waiting = list(addresses)
        attempts: dict[asyncio.Task[Connected], str] = {}  # in progress, the earliest first
        failures: list[OSError] = []
        try:
            while waiting or attempts:
                if waiting:
                    address = waiting.pop(0)
                    attempts[self._loop.create_task(self._connect_to(address))] = address
                done, _ = await asyncio.wait(
                    attempts, timeout=delay if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    error = attempt.exception()
                    if error is None:
                        earlier = list(attempts)[: list(attempts).index(attempt)]
                        self._avoid([attempts[overtaken] for overtaken in earlier])
                        self._avoided.pop(attempts.pop(attempt), None)
                        return attempt.result()
                    if not isinstance(error, OSError):
                        raise error
                    failures.append(error)
                    self._avoid([attempts.pop(attempt)])
            del done, attempt, error  # they hold the exception, whose traceback holds this frame
            raise failures.pop()
        finally:
            for attempt in attempts:
                attempt.cancel()
                attempt.add_done_callback(_abort_unused)


def _abort_unused(attempt: "asyncio.Task[Connected]") -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result()[0].abort()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
