"""The link to Redis: every use of it is limited in time, and none is tried while it is out of order.

    out of order ── a probe is answered ──▶ available ── an operation fails ──▶ out of order
                    (four times a second)

An operation gets LIMIT seconds, waiting for a connection included. The first one that fails for the server's sake opens
the breaker: from then on nobody waits for Redis, and a probe in the background finds out when it is back. Errors of the
driver end here, as StorageUnavailable.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from redis.exceptions import RedisClusterException, RedisError, ResponseError

from gateway.errors import StorageUnavailable
from gateway.storage.redis_address import Client, Connection, close_client, parse_redis_address

T = TypeVar("T")

LIMIT: Final = 0.25  # seconds for one operation
HEARTBEAT: Final = 1.0  # seconds between probes while it is available
RETRY: Final = 0.25  # seconds between probes while it is not
_OPERATIONS: Final = 32  # at a time
_QUIET: Final = 10.0  # seconds between two log lines about refused operations

# What the driver raises when Redis is out, and what it lets through from below: TimeoutError is an OSError, and uvloop
# raises RuntimeError for writing to a connection that is being closed.
ERRORS: Final = (RedisError, RedisClusterException, OSError, EOFError, RuntimeError)

_NAMESPACE: Final = "gateway:2:"  # of all keys and channels; the number is that of their format
# A script and not TIME: a cluster asks the node of a key then, and not any.
_CLOCK: Final = "return redis.call('TIME')"

log: Final = logging.getLogger("gateway.storage.redis")


class RedisLink:
    """One Redis, by its address. Raises CannotStart for an address that means nothing.

    `prefix` begins the name of every key and channel. It holds the id of the installation, so installations that share
    a Redis never meet. Belongs to the event loop in which it is opened. `available` is False until `open` has reached
    the server.
    """

    def __init__(self, url: str, installation: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.prefix: Final = f"{_NAMESPACE}{installation}:"
        self._address = parse_redis_address(url)
        self._clock = clock
        self._client = self._address.client(LIMIT)
        self._available = False
        self._ahead = 0.0
        self._slots = asyncio.Semaphore(_OPERATIONS)
        self._listeners: list[Callable[[], None]] = []
        self._disturbed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._complained_at = float("-inf")

    @property
    def available(self) -> bool:
        """Whether Redis answered last time it was asked. While it did not, operations fail at once."""
        return self._available

    async def open(self) -> None:
        """Reach for the server and keep watching it. That it is out of order is said in the log and is no error."""
        error = await self._probe()
        if error is None:
            self._restore()
        else:
            self._report(error)
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Leave the server."""
        self._available = False
        await end(self._keeper)
        self._discard(self._client)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` when Redis is back, and once a second while it is there."""
        self._listeners.append(listener)

    async def run(self, operation: Callable[[Client], Awaitable[T]]) -> T:
        """Do something with the client. Raises StorageUnavailable within LIMIT seconds, at once while it is out."""
        if not self._available:
            raise StorageUnavailable("redis", "out of order")
        client, began_at = self._client, float("inf")
        try:
            async with asyncio.timeout(LIMIT), self._slots:
                began_at = self._clock()
                return await operation(client)
        except ResponseError as error:  # it is there, and does not want to
            self._complain(error)
            raise StorageUnavailable("redis", self._describe(error)) from None
        except ERRORS as error:
            # Who had to queue here for his time says nothing about the server, nor does who still has an old client.
            had_time = not isinstance(error, TimeoutError) or self._clock() - began_at > LIMIT / 2
            if had_time and client is self._client:
                self._lose(error)
            raise StorageUnavailable("redis", self._describe(error)) from None

    def server_time(self, at: float) -> int:
        """A moment of this process's clock as the server's, in milliseconds since the epoch, and rather too early.

        Redis is told when a value ends, not how long it lasts: a command can lie in the buffers of a hung server for
        any time before it is carried out, and the value must not live longer for it.
        """
        return int((at + self._ahead) * 1000)

    async def subscribe(self, channel: str) -> Connection:
        """A connection of its own that receives what is published there. Raises StorageUnavailable."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(LIMIT):
                connection = await self._address.connection(self._client)
                await connection.connect()
                await connection.send_command("SUBSCRIBE", channel)
                await connection.read_response()
                return connection
        except ERRORS as error:
            if connection is not None:
                await disconnect(connection)
            raise StorageUnavailable("redis", self._describe(error)) from None

    def _describe(self, error: BaseException) -> str:
        return self._address.hide(f"{type(error).__name__}: {error}").rstrip(": ")

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT if self._available else RETRY):
                    await self._disturbed.wait()
            self._disturbed.clear()
            error = await self._probe()
            if error is not None:
                self._lose(error)
            elif not self._available:
                self._restore()
            else:
                self._tell()

    async def _probe(self) -> BaseException | None:
        """Ask the server for its time. None: it answered."""
        try:
            async with asyncio.timeout(LIMIT):
                seconds, microseconds = await self._client.execute_command("EVAL", _CLOCK, 1, f"{self.prefix}clock")
        except ERRORS as error:
            return error
        # Taken when the answer is here: the server's clock has gone on since, so this is the least it is ahead.
        self._ahead = int(seconds) + int(microseconds) / 1e6 - self._clock()
        return None

    def _restore(self) -> None:
        self._available = True
        log.info("Redis at %s is available", self._address)
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            try:
                listener()
            except Exception:  # the watch over the server must not end by it
                log.exception("somebody who waited for Redis failed")

    def _lose(self, error: BaseException) -> None:
        if not self._available:
            return
        self._available = False
        self._report(error)
        # Its other connections are as dead as this one, and each would cost somebody a time limit to find out.
        self._discard(self._client)
        self._client = self._address.client(LIMIT)
        self._disturbed.set()

    def _report(self, error: BaseException) -> None:
        why = self._describe(error)
        log.warning("Redis at %s is out of order (%s): the database is asked instead", self._address, why)

    def _complain(self, error: BaseException) -> None:
        now = self._clock()
        if now >= self._complained_at + _QUIET:
            self._complained_at = now
            log.warning("Redis at %s refuses (%s)", self._address, self._describe(error))

    def _discard(self, client: Client) -> None:
        task = asyncio.get_running_loop().create_task(_close(client))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _close(client: Client) -> None:
    with contextlib.suppress(*ERRORS):
        async with asyncio.timeout(LIMIT):
            await close_client(client)


async def end(task: asyncio.Task[None] | None) -> None:
    """Cancel a task and wait until it has ended, however often it must be told: asyncio.wait_for, which the driver
    uses, loses a cancellation now and then before Python 3.12."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=0.1)


async def disconnect(connection: Connection) -> None:
    """Close a connection without waiting for the other side."""
    with contextlib.suppress(*ERRORS):
        await connection.disconnect(nowait=True)
