"""Announces changes of users to all replicas through Redis.

A replica that changes a user writes the new record to Redis and publishes the id of the user, in one step. Every
replica subscribes on a separate connection. The feed is `connected`, and copies are used, while three conditions hold:

- The link is available: its probe writes to the server, four times a second.
- The subscription belongs to the current client of the link. When the link fails, the subscription ends too, because
  the same name can lead to another server.
- The pulse arrives in time. The probe publishes it on a channel of this process, and it returns behind all messages
  that wait in the subscription. `feed_lag.py` measures the delay.

Messages carry a MAC (`encoding.py`). A message that is not authentic is counted and ignored. Replaying an authentic
message does no harm: it voids copies older than a version that exists already.

Changes that cannot be announced while Redis is down are kept and announced later. Each is kept no longer than records
live in caches, because after that time no copy from before the change exists.
"""

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import Iterator
from typing import Final, NamedTuple

from gateway.errors import StorageUnavailable
from gateway.identity.user import ChangeListener, UserRecord
from gateway.samples import Durations, Sample
from gateway.storage.connector import Connector
from gateway.storage.redis.client import LIMIT, PATIENCE, RedisLink, end
from gateway.storage.redis.encoding import NotAuthentic
from gateway.storage.redis.feed_lag import BOUND, FeedLag
from gateway.storage.redis.open_client import ERRORS, Pulse, disconnect
from gateway.storage.redis.url import RedisConnection
from gateway.storage.redis.user_records import RedisRecords, Write

SILENCE: Final = 1.0  # seconds without a pulse after which the subscription is made again
RETRY: Final = 0.25  # seconds between attempts to subscribe
_SLICES: Final = 5  # parts of the silence; none elapses while the machine does not run this process
_SETTLING: Final = 0.5  # seconds for which the start waits for the first pulse
_ATTEMPTS: Final = 3
_QUIET: Final = 60.0  # seconds between two log lines about one cause
MAX_UNDELIVERED: Final = 100_000
_AT_A_TIME: Final = 64

log: Final = logging.getLogger("gateway.storage.redis")


class _Change(NamedTuple):
    """A change to announce. The futures in `waiting` are resolved when it is announced, or when Redis turns out to be
    down."""

    write: Write
    waiting: tuple[asyncio.Future[None], ...]


class RedisFeed:
    """The change feed of one process."""

    def __init__(self, link: RedisLink, records: RedisRecords) -> None:
        self._link = link
        self._records = records
        self._listener: ChangeListener | None = None
        self._pulse_channel = f"{link.prefix}pulse:{secrets.token_hex(8)}"
        self._subscriptions: Connector[RedisConnection] = Connector(
            lambda: link.subscribe(records.channel, self._pulse_channel),
            close=self._close,
            is_open=lambda _: True,
            limit=_ATTEMPTS,
        )
        self._closing: set[asyncio.Task[None]] = set()
        self._lag = FeedLag(self._punctuality_changed)
        self._settled = asyncio.Event()
        self._subscribed = False
        self._missed = False
        self._reported_at: dict[str, float] = {}
        self._follower: asyncio.Task[None] | None = None
        self._courier: asyncio.Task[None] | None = None
        self._undelivered: dict[str, _Change] = {}
        self._durations = Durations("gateway_revocation_lag_seconds")
        link.listen(self._send_courier)
        link.listen_for_loss(self._end_subscription)

    @property
    def connected(self) -> bool:
        """Whether changes made by other replicas reach this process in time."""
        return self._subscribed and self._lag.is_punctual

    @property
    def undelivered(self) -> int:
        """The number of users with changes not yet announced to the other replicas."""
        return len(self._undelivered)

    def samples(self) -> Iterator[Sample]:
        """Yield how long changes took to arrive here, and the number of rejected values in Redis."""
        yield from self._durations.samples()
        if self._subscribed:
            yield from self._lag.samples()
        yield from self._records.samples()

    async def open(self, listener: ChangeListener) -> None:
        """Call `listener` for every change from now on. Returns after the first attempt to subscribe."""
        self._listener = listener
        self._link.pulse_with(self._pulse, self._lag.note_round_trip)
        connection = await self._attempt(listener) if self._link.available else None
        self._missed = connection is None
        self._follower = asyncio.get_running_loop().create_task(self._follow(listener, connection))
        if connection is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SETTLING):
                    await self._settled.wait()

    async def close(self) -> None:
        """Unsubscribe, and try a last time to announce the remaining changes."""
        await end(self._follower)
        self._subscriptions.stop()
        self._send_courier()
        if (courier := self._courier) is not None:
            await asyncio.wait((courier,), timeout=LIMIT)
            await end(courier)

    # ---- announcing

    async def announce(self, user_id: str, record: UserRecord | None) -> None:
        """Drop older copies here at once, and announce the change to all replicas. None: the user is deleted.

        Returns once the change is announced, after LIMIT seconds, or at once while Redis is down.
        """
        if self._listener is not None:
            self._listener.forget(user_id, None if record is None else record.version)
        announced: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._note(user_id, record, announced)
        self._send_courier()
        if self._courier is not None:
            await asyncio.wait((announced,), timeout=LIMIT)

    def _note(self, user_id: str, record: UserRecord | None, announced: asyncio.Future[None]) -> None:
        waiting: tuple[asyncio.Future[None], ...] = (announced,)
        earlier = self._undelivered.pop(user_id, None)
        if earlier is not None:
            waiting += earlier.waiting
            record = _later(earlier.write.record, record)
        # Receivers measure the delay from this time. It is the server's, because the clocks of replicas can differ.
        at = self._link.server_time(self._records.clock())
        message = self._records.message(
            self._records.channel, ["forget", user_id, None if record is None else record.version, at]
        )
        self._undelivered[user_id] = _Change(Write(user_id, record, self._records.clock(), message), waiting)
        if len(self._undelivered) > MAX_UNDELIVERED:
            _resolve(self._undelivered.pop(next(iter(self._undelivered))))

    def _send_courier(self) -> None:
        """Announce the remaining changes, unless a task is doing so already."""
        if self._courier is None and self._undelivered and self._link.available:
            self._courier = asyncio.get_running_loop().create_task(self._deliver())

    async def _deliver(self) -> None:
        try:
            while self._undelivered and self._link.available:
                await self._deliver_some()
        except StorageUnavailable:
            pass  # retried when Redis is available again, and once a second
        finally:
            # No await lies between this line and the last look at `_undelivered`, so a change added later starts a new
            # task.
            self._courier = None
            for change in self._undelivered.values():
                _resolve(change)

    async def _deliver_some(self) -> None:
        batch = dict(itertools.islice(self._undelivered.items(), _AT_A_TIME))
        oldest = self._records.clock() - self._records.ttl
        await self._records.store([change.write for change in batch.values() if change.write.asked_at > oldest])
        for user_id, change in batch.items():
            _resolve(change)
            if self._undelivered.get(user_id) is change:  # unless the user has changed again since
                del self._undelivered[user_id]

    # ---- listening

    async def _follow(self, listener: ChangeListener, connection: RedisConnection | None) -> None:
        while True:
            if connection is not None:
                try:
                    await self._listen(listener, connection)
                except ERRORS as error:
                    self._report(f"changes made elsewhere do not arrive ({type(error).__name__}): no copy is used")
                except Exception:
                    log.exception("a change made elsewhere could not be followed: no copy is used")
                finally:
                    self._end_subscription()
                    await disconnect(connection)
            await asyncio.sleep(RETRY)
            connection = await self._attempt(listener)

    async def _attempt(self, listener: ChangeListener) -> RedisConnection | None:
        try:
            async with asyncio.timeout(PATIENCE):
                connection = await self._subscriptions.connect()
        except (StorageUnavailable, TimeoutError):
            self._missed = True
            return None
        self._subscriptions.stop()
        if self._missed:
            # Flush before the first message that counts: an existing copy can be older than a change that was missed.
            listener.flush()
        self._lag.restart()
        self._subscribed = True
        self._link.hurry()
        return connection

    async def _listen(self, listener: ChangeListener, connection: RedisConnection) -> None:
        """Pass on messages while the link keeps its client. Raises errors of the driver, and TimeoutError when no pulse
        arrives."""
        silent = 0
        for count in itertools.count(1):
            if count % _AT_A_TIME == 0:
                # A read does not yield while messages are buffered, so a flood of messages would block the event loop.
                await asyncio.sleep(0)
            if not self._subscribed:
                return
            reply = await connection.read_response(timeout=SILENCE / _SLICES)
            silent = silent + 1 if reply is None else 0
            if silent == _SLICES:
                raise TimeoutError("no pulse arrives")
            match reply:
                case [b"message", bytes(channel), bytes(message)]:
                    self._obey(channel.decode(), message, listener)

    def _obey(self, channel: str, message: bytes, listener: ChangeListener) -> None:
        try:
            content = self._records.read_message(channel, message)
        except NotAuthentic:
            # Otherwise a client that can publish could void every copy at will.
            self._records.reject("message")
            return
        match content:
            case ["pulse", int(number)] if channel == self._pulse_channel:
                self._lag.arrived(number)
            case ["forget", str(user_id), int() | None as version, int() as told_at]:
                listener.forget(user_id, version)
                now = self._link.server_time(self._records.clock())
                self._durations.observe((now - told_at) / 1000)
            case ["forget", str(user_id), int() | None as version]:
                listener.forget(user_id, version)
            case _:
                # Another release of the gateway sent it in another format: the change is unknown, so every copy is
                # void.
                listener.flush()

    # ---- connection state

    def _pulse(self) -> Pulse | None:
        """Return the next pulse for this process's subscription."""
        if not self._subscribed:
            return None
        number = self._lag.send()
        return Pulse(self._pulse_channel, self._records.message(self._pulse_channel, ["pulse", number]))

    def _punctuality_changed(self) -> None:
        self._settled.set()
        if self._listener is not None and not self._lag.is_punctual:
            self._report(f"changes made elsewhere arrive more than {BOUND * 1000:.0f} ms late: no copy is used")
            self._listener.suspend()

    def _end_subscription(self) -> None:
        """End the subscription. Messages can be missed from now on."""
        self._subscriptions.stop()
        if self._subscribed and self._listener is not None:
            self._subscribed = False
            self._missed = True
            self._listener.flush()

    def _close(self, connection: RedisConnection) -> None:
        task = asyncio.get_running_loop().create_task(disconnect(connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _report(self, message: str) -> None:
        """Log a line, at most one a minute for each message. The messages differ only in the class of an error."""
        now = self._records.clock()
        if now >= self._reported_at.get(message, float("-inf")) + _QUIET:
            self._reported_at[message] = now
            log.warning(message)


def _later(one: UserRecord | None, other: UserRecord | None) -> UserRecord | None:
    """Return the later of two states of a user. A deleted user (None) is the latest."""
    if one is None or other is None:
        return None
    return one if one.version > other.version else other


def _resolve(change: _Change) -> None:
    for announced in change.waiting:
        if not announced.done():
            announced.set_result(None)
