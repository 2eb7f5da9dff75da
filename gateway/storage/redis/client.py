"""The link to Redis. Every operation has a time limit, and operations fail at once while Redis is down.

    down ── a client connects, and its probe succeeds ──▶ available ── an operation or a probe fails ──▶ down
            (attempts overlap)

An operation gets LIMIT seconds, including the wait for a connection. If the server fails an operation or a probe, the
client is closed and connects again, because the name in the URL can resolve to another server by then. Operations fail
at once until a connection works. An attempt to connect continues after LIMIT, because a connection can take seconds.
Errors of the driver are raised as StorageUnavailable.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from redis.exceptions import AuthenticationError, BusyLoadingError, ResponseError

from gateway.errors import StorageUnavailable
from gateway.storage.connector import Connector
from gateway.storage.redis.open_client import (
    CONNECTING,
    ERRORS,
    OpenClient,
    Pulse,
    disconnect,
    does_not_work,
    error_code,
)
from gateway.storage.redis.url import Client, RedisConnection, parse_redis_address

T = TypeVar("T")

LIMIT: Final = 0.25  # seconds for one operation
HEARTBEAT: Final = 0.25  # seconds between probes while Redis is available
RETRY: Final = 0.25  # seconds between attempts while Redis is down
PATIENCE: Final = 1.0  # seconds for an attempt to connect, after which another one starts in parallel
_ATTEMPTS: Final = 4
_SLICES: Final = 5  # parts of the limit of a probe; none elapses while the machine does not run this process
_EARLY: Final = LIMIT * 0.9  # an operation that ran for less did not have its full time
_LATE: Final = LIMIT * 1.4  # a timer that fires later shows that this process was busy
_QUIET: Final = 60.0  # seconds between two log lines about one cause
_CAUSES: Final = 64
_CAUSE_LENGTH: Final = 256  # characters

_NAMESPACE: Final = "gateway:2:"  # prefix of all keys and channels; the number is the version of their format

log: Final = logging.getLogger("gateway.storage.redis")


class RedisLink:
    """The link to one Redis. Raises CannotStart for an invalid URL.

    `prefix` begins the name of every key and channel. It contains the id of the installation, so installations that
    share a Redis do not collide. Bound to the event loop that opens it. `available` is False until `open` has reached
    the server.
    """

    def __init__(self, url: str, installation: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.prefix: Final = f"{_NAMESPACE}{installation}:"
        self._address = parse_redis_address(url)
        self._clock = clock
        self._connector: Connector[OpenClient] = Connector(
            self._connected, close=self._discard, is_open=lambda _: True, limit=_ATTEMPTS
        )
        self._current: OpenClient | None = None
        self._why = "not connected"
        self._ahead = 0.0
        self._heartbeat_listeners: list[Callable[[], None]] = []
        self._loss_listeners: list[Callable[[], None]] = []
        self._pulse: Callable[[], Pulse | None] = _no_pulse
        self._note_round_trip: Callable[[float], None] = _ignore
        self._disturbed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._reported_at: dict[str, float] = {}

    @property
    def available(self) -> bool:
        """Whether the last operation or probe succeeded. While it is False, operations fail at once."""
        return self._current is not None

    @property
    def why(self) -> str:
        """The cause of the last outage."""
        return self._why

    async def open(self, *, patience: float = PATIENCE) -> None:
        """Connect and start probing the server. Returns after `patience` seconds at the latest.

        A server that is down is logged and raises no error.
        """
        await self._reconnect(patience)
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Stop probing and close all connections."""
        await end(self._keeper)
        self._connector.stop()
        current, self._current, self._why = self._current, None, "closed"
        if current is not None:
            self._discard(current)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` when Redis becomes available, and at each heartbeat while it is."""
        self._heartbeat_listeners.append(listener)

    def listen_for_loss(self, listener: Callable[[], None]) -> None:
        """Call `listener` as soon as Redis counts as down."""
        self._loss_listeners.append(listener)

    def pulse_with(self, pulse: Callable[[], Pulse | None], note_round_trip: Callable[[float], None]) -> None:
        """Publish the result of `pulse` with each heartbeat, and pass the duration to `note_round_trip`."""
        self._pulse = pulse
        self._note_round_trip = note_round_trip

    def hurry(self) -> None:
        """Run the next heartbeat at once."""
        self._disturbed.set()

    async def run(self, operation: Callable[[Client], Awaitable[T]]) -> T:
        """Run an operation with the client. Raises StorageUnavailable within LIMIT seconds, or at once while Redis is
        down."""
        current = self._current
        if current is None:
            raise StorageUnavailable("redis", f"down ({self._why})")
        began_at = float("inf")
        try:
            async with asyncio.timeout(LIMIT), current.slot():
                began_at = self._clock()
                return await operation(current.client)
        except ERRORS as error:
            if current is self._current:
                self._judge(error, self._clock() - began_at)
            raise StorageUnavailable("redis", self._describe(error)) from None

    def server_time(self, at: float) -> int:
        """Convert a time of this process's clock to the server's, in milliseconds since the epoch, erring on the early
        side.

        Redis gets the end of a value's lifetime, not its length: a command can wait in the buffers of a hung server for
        any time, which must not extend the lifetime.
        """
        return int((at + self._ahead) * 1000)

    async def subscribe(self, *channels: str) -> RedisConnection:
        """Return a separate connection subscribed to these channels. Raises StorageUnavailable after CONNECTING seconds
        at the latest."""
        if self._current is None:
            raise StorageUnavailable("redis", f"down ({self._why})")
        connection: RedisConnection | None = None
        try:
            async with asyncio.timeout(CONNECTING):
                connection = await self._current.separate_connection()
                await connection.send_command("SUBSCRIBE", *channels)
                for _ in channels:
                    await connection.read_response()
                return connection
        except BaseException as error:
            if connection is not None:
                await disconnect(connection)
            if not isinstance(error, ERRORS):
                raise
            self._report(error, f" (SUBSCRIBE {' '.join(channels)})")
            raise StorageUnavailable("redis", self._describe(error)) from None

    # ---- probing

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT if self.available else RETRY):
                    await self._disturbed.wait()
            self._disturbed.clear()
            if self._current is None:
                await self._reconnect(PATIENCE)
            else:
                await self._beat(self._current)

    async def _reconnect(self, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                current = await self._connector.connect()
        except ERRORS as error:
            # An error without a text means that `patience` is over; the attempt continues.
            self._report(error if str(error) else TimeoutError(f"not connected within {patience:g} s"))
            return
        self._connector.stop()
        self._current = current
        log.info(f"Redis at {self._address} is available")
        self._tell(self._heartbeat_listeners)

    async def _connected(self) -> OpenClient:
        """Return a client whose server passes the probe. Raises one of ERRORS."""
        client = OpenClient(self._address, self.prefix)
        try:
            await client.connect()
            error = await self._probe(client, None, 2 * LIMIT)
            if error is not None:
                raise error
        except BaseException:
            self._discard(client)
            raise
        finally:
            error = None  # its traceback holds this frame
        return client

    async def _beat(self, current: OpenClient) -> None:
        error = await self._probe(current, self._pulse(), LIMIT)
        if current is not self._current:
            return  # an operation has detected the outage
        if error is not None:
            self._lose(error)
        else:
            self._tell(self._heartbeat_listeners)

    async def _probe(self, client: OpenClient, pulse: Pulse | None, limit: float) -> BaseException | None:
        """Run the probe of a client. Return its error, or None if it succeeded within the limit."""
        began_at = self._clock()
        task = asyncio.get_running_loop().create_task(client.probe(pulse))
        try:
            for _ in range(_SLICES):
                await asyncio.wait((task,), timeout=limit / _SLICES)
                if task.done():
                    break
            else:
                return TimeoutError(f"no answer within {limit * 1000:.0f} ms")
        finally:
            task.cancel()
        try:
            server_time = task.result()
        except ERRORS as error:
            return error
        # The server's clock has advanced since the probe, so this is a lower bound of the difference.
        now = self._clock()
        self._ahead = server_time - now
        self._note_round_trip(now - began_at)
        return None

    def _judge(self, error: BaseException, took: float) -> None:
        """Mark Redis as down if the failure of an operation shows it."""
        if isinstance(error, TimeoutError):
            # Neither an operation that waited for its turn nor a timer that fires late says anything about the server.
            if _EARLY < took < _LATE:
                self._lose(error)
        elif isinstance(error, ResponseError) and not does_not_work(error):
            self._log(error, f"refuses a command ({self._describe(error)})")
        else:
            self._lose(error)

    def _lose(self, error: BaseException) -> None:
        current, self._current = self._current, None
        if current is None:
            return
        self._report(error)
        # Its other connections lead to the same server. Each would cost an operation its time limit.
        self._discard(current)
        self._tell(self._loss_listeners)
        self._disturbed.set()

    @staticmethod
    def _tell(listeners: list[Callable[[], None]]) -> None:
        for listener in listeners:
            try:
                listener()
            except Exception:  # a listener's error must not end the probing
                log.exception("a listener of the link to Redis failed")

    # ---- logging

    def _describe(self, error: BaseException) -> str:
        return self._address.hide(f"{type(error).__name__}: {error}").rstrip(": ")

    def _report(self, error: BaseException, where: str = "") -> None:
        """Log that Redis is down."""
        self._why = self._describe(error) + where
        self._log(error, f"is down: {_kind(error)} ({self._why}); the database is asked instead. {self._advice(error)}")

    def _log(self, error: BaseException, message: str) -> None:
        """Log a line, at most one per cause and minute. Errors of one class have many causes."""
        now, cause = self._clock(), f"{error_code(error)} {error}"[:_CAUSE_LENGTH]
        if now < self._reported_at.get(cause, float("-inf")) + _QUIET:
            return
        if len(self._reported_at) >= _CAUSES:
            self._reported_at.clear()
        self._reported_at[cause] = now
        log.warning(f"Redis at {self._address} {message}")

    def _advice(self, error: BaseException) -> str:
        if isinstance(error, AuthenticationError):
            return "Check the user and the password in storage.redis"
        if not isinstance(error, (ResponseError, BusyLoadingError)):
            return "Check storage.redis, and that the server runs and can be reached from here"
        # A missing permission inside a script has no code of its own.
        if error_code(error) in ("NOPERM", "ERR"):
            return f"docs/deployment/redis.md lists the rights of its user, for names that begin with {self.prefix}"
        return "It is used again when it takes writes"

    def _discard(self, client: OpenClient) -> None:
        task = asyncio.get_running_loop().create_task(_close(client))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _kind(error: BaseException) -> str:
    if isinstance(error, AuthenticationError):
        return "it does not accept the user or the password"
    return "it does not do its work" if isinstance(error, (ResponseError, BusyLoadingError)) else "no answer"


def _no_pulse() -> Pulse | None:
    return None


def _ignore(_: float) -> None:
    return None


async def _close(client: OpenClient) -> None:
    with contextlib.suppress(*ERRORS):
        async with asyncio.timeout(2 * LIMIT):  # the operations that it waits for take LIMIT at most
            await client.close()


async def end(task: asyncio.Task[None] | None) -> None:
    """Cancel a task until it has ended. Before Python 3.12, asyncio.wait_for, which the driver uses, can swallow a
    cancellation."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=0.1)
