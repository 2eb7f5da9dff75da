"""Changes of users, told to all replicas over Redis.

Whoever changes a user writes the new record to Redis and publishes its id, in one step. Every replica listens on a
connection of its own; as long as that is not known to work, the feed is not `connected` and nobody trusts a copy. A
connection is known to work when something was received lately: when all is quiet a PING asks for something, so that a
server that hangs, or a network that swallows everything, is noticed within a second.

Messages carry a MAC (`redis_values.py`). One that is not authentic is counted and ignored. An authentic one that is
published again does no harm: it voids copies older than a version that has been reached.

What cannot be told because Redis is out is kept and told when it is back. Nothing has to be kept for longer than
records live in caches: after that no copy from before the change is left anywhere.
"""

import asyncio
import itertools
import logging
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from gateway.counting import Durations, Sample
from gateway.errors import StorageUnavailable
from gateway.identity.records import ChangeListener, UserRecord
from gateway.storage.redis import ERRORS, LIMIT, RedisLink, disconnect, end
from gateway.storage.redis_address import Connection
from gateway.storage.redis_records import RedisRecords, Write
from gateway.storage.redis_values import NotAuthentic

QUIET: Final = 0.5  # seconds without a message after which the connection is asked for one
PATIENCE: Final = (LIMIT, 0.05)  # seconds to wait for it; again, because it may be this process that was busy
RETRY: Final = 0.25  # seconds between attempts to listen
MAX_UNDELIVERED: Final = 100_000
_AT_A_TIME: Final = 64

log: Final = logging.getLogger("gateway.storage.redis")


class _Change(NamedTuple):
    """What is to be told about one user, and who waits until it has been, or until it cannot be for now."""

    write: Write
    waiting: tuple[asyncio.Future[None], ...]


class RedisFeed:
    """The change feed of one process."""

    def __init__(self, link: RedisLink, records: RedisRecords) -> None:
        self._link = link
        self._records = records
        self._listener: ChangeListener | None = None
        self._connected = False
        self._missed = False
        self._follower: asyncio.Task[None] | None = None
        self._courier: asyncio.Task[None] | None = None
        self._undelivered: dict[str, _Change] = {}
        self._lag = Durations("gateway_revocation_lag_seconds")
        link.listen(self._send_courier)

    @property
    def connected(self) -> bool:
        """Whether changes made elsewhere reach this process now."""
        return self._connected

    @property
    def undelivered(self) -> int:
        """How many users have changes that the other replicas have not been told of yet."""
        return len(self._undelivered)

    def samples(self) -> Iterator[Sample]:
        """How long changes took to arrive here, and how many values in Redis were rejected."""
        yield from self._lag.samples()
        yield from self._records.samples()

    async def open(self, listener: ChangeListener) -> None:
        """Tell `listener` of changes from now on. Returns when the first attempt to hear of them is over."""
        self._listener = listener
        connection = await self._attempt(listener)
        self._follower = asyncio.get_running_loop().create_task(self._follow(listener, connection))

    async def close(self) -> None:
        """Stop listening, and try once more to tell what is still to be told."""
        await end(self._follower)
        self._send_courier()
        if (courier := self._courier) is not None:
            await asyncio.wait((courier,), timeout=LIMIT)
            await end(courier)

    # ---- telling

    async def announce(self, user_id: str, record: UserRecord | None) -> None:
        """Let go of older copies here, at once, and have all replicas do it; None: the user is gone.

        Returns when they have been told; after LIMIT seconds, or at once while Redis is out, without.
        """
        if self._listener is not None:
            self._listener.forget(user_id, None if record is None else record.version)
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._note(user_id, record, told)
        self._send_courier()
        if self._courier is not None:
            await asyncio.wait((told,), timeout=LIMIT)

    def _note(self, user_id: str, record: UserRecord | None, told: asyncio.Future[None]) -> None:
        waiting: tuple[asyncio.Future[None], ...] = (told,)
        earlier = self._undelivered.pop(user_id, None)
        if earlier is not None:
            waiting += earlier.waiting
            record = _later(earlier.write.record, record)
        # The time tells how long it took. It is the server's, because the clocks of replicas may lie apart.
        at = self._link.server_time(self._records.clock())
        message = self._records.message(["forget", user_id, None if record is None else record.version, at])
        self._undelivered[user_id] = _Change(Write(user_id, record, self._records.clock(), message), waiting)
        if len(self._undelivered) > MAX_UNDELIVERED:
            _resolve(self._undelivered.pop(next(iter(self._undelivered))))

    def _send_courier(self) -> None:
        """Deliver what there is to deliver, if nobody is at it already."""
        if self._courier is None and self._undelivered and self._link.available:
            self._courier = asyncio.get_running_loop().create_task(self._deliver())

    async def _deliver(self) -> None:
        try:
            while self._undelivered and self._link.available:
                await self._deliver_some()
        except StorageUnavailable:
            pass  # it is tried again when Redis is back, and once a second
        finally:
            # In the same step as the last look at what is undelivered: whoever adds to it now sends another courier.
            self._courier = None
            for change in self._undelivered.values():
                _resolve(change)

    async def _deliver_some(self) -> None:
        batch = dict(itertools.islice(self._undelivered.items(), _AT_A_TIME))
        oldest = self._records.clock() - self._records.ttl
        await self._records.store([change.write for change in batch.values() if change.write.asked_at > oldest])
        for user_id, change in batch.items():
            _resolve(change)
            if self._undelivered.get(user_id) is change:  # and has not changed again meanwhile
                del self._undelivered[user_id]

    # ---- listening

    async def _follow(self, listener: ChangeListener, connection: Connection | None) -> None:
        while True:
            if connection is not None:
                try:
                    await self._listen(listener, connection)
                except ERRORS as error:
                    log.warning("changes made elsewhere do not arrive (%s): no copy is used", type(error).__name__)
                except Exception:
                    log.exception("a change made elsewhere could not be followed: no copy is used")
                finally:
                    self._connected = False
                    self._missed = True
                    listener.flush()
                    await disconnect(connection)
            await asyncio.sleep(RETRY)
            connection = await self._attempt(listener)

    async def _attempt(self, listener: ChangeListener) -> Connection | None:
        try:
            connection = await self._link.subscribe(self._records.channel)
        except StorageUnavailable:
            self._missed = True
            return None
        if self._missed:
            # Before the first message that counts: what was read up to here may be older than a change we missed.
            listener.flush()
        self._connected = True
        return connection

    async def _listen(self, listener: ChangeListener, connection: Connection) -> None:
        """Hand on what arrives until nothing arrives any more. Raises what the driver raises, TimeoutError at last."""
        for count in itertools.count(1):
            if count % _AT_A_TIME == 0:
                # A read does not wait while messages are buffered, so a flood of them would hold the loop.
                await asyncio.sleep(0)
            reply = await connection.read_response(timeout=QUIET)
            if reply is None:
                await connection.send_command("PING")
                reply = await _awaited(connection)
            match reply:
                case [b"message", _, bytes(message)]:
                    self._obey(message, listener)

    def _obey(self, message: bytes, listener: ChangeListener) -> None:
        try:
            content = self._records.read_message(message)
        except NotAuthentic:
            # A client that can publish could otherwise void every copy as often as it likes.
            self._records.reject("message")
            return
        match content:
            case ["forget", str(user_id), int() | None as version, int() as told_at]:
                listener.forget(user_id, version)
                now = self._link.server_time(self._records.clock())
                self._lag.observe((now - told_at) / 1000)
            case ["forget", str(user_id), int() | None as version]:
                listener.forget(user_id, version)
            case _:
                # From a release of the gateway with other messages: the change is unknown, so every copy is void.
                listener.flush()


def _later(one: UserRecord | None, other: UserRecord | None) -> UserRecord | None:
    """The later state of two of the same user; being gone is the last one."""
    if one is None or other is None:
        return None
    return one if one.version > other.version else other


def _resolve(change: _Change) -> None:
    for told in change.waiting:
        if not told.done():
            told.set_result(None)


async def _awaited(connection: Connection) -> Any:
    for seconds in PATIENCE:
        reply = await connection.read_response(timeout=seconds)
        if reply is not None:
            return reply
    raise TimeoutError("no answer to a PING")
