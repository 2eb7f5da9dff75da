"""A connected client that opens further connections in the background, and the probe of its server.

An operation gets 250 ms and a connection can take seconds, so no operation opens one. Operations share the open
connections. An operation that has to wait for one starts another connection in the background. One connection is
reserved for the probe, and one for a subscription.

The probe does everything that operations do: it writes, reads, deletes and publishes, in one script. A server that
answers PING but refuses writes counts as down: a replica, a server without memory, a primary without its replicas, or a
server whose user lost its permissions.

A failover can leave the old primary running and writable for seconds, or for as long as a network is divided. The
client asks the Sentinels once a second, and its probe fails when they name another primary. Otherwise two replicas
would use two servers, and a change announced at one would not reach the other.
"""

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple

from redis.asyncio import RedisCluster
from redis.exceptions import (
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from gateway.storage.redis.url import (
    Client,
    RedisAddress,
    RedisConnection,
    close_client,
    connect_one,
    connected_master,
    current_master,
)

# All errors that the driver raises or passes through while Redis is down. TimeoutError is an OSError. uvloop raises
# RuntimeError for a write to a closing connection.
ERRORS: Final = (RedisError, RedisClusterException, OSError, EOFError, RuntimeError)

CONNECTING: Final = 10.0  # seconds for one attempt to connect
_ASKING: Final = 1.0  # seconds between two questions to the Sentinels
_OPERATIONS: Final = 32  # at a time
_GROWING: Final = 8  # connections being opened at a time
_KEYS_TRIED: Final = 4096  # to find one key for each node of a cluster

_NO_WORK: Final = (ReadOnlyError, OutOfMemoryError, NoPermissionError, ClusterDownError)
# Error codes without a class in the driver.
_NO_WORK_CODES: Final = frozenset({"NOREPLICAS", "MISCONF", "BUSY", "NOMASTERLINK", "UNKILLABLE"})

# KEYS: a key of the probe. ARGV: a channel, and the message for it. An error names the command that failed.
_PROBE: Final = """
local key, channel, message = KEYS[1], ARGV[1], ARGV[2]
local commands = {
  {'SET', key, '1', 'PX', '60000'}, {'GET', key}, {'GETRANGE', key, '0', '0'}, {'PTTL', key}, {'DEL', key},
  {'PUBLISH', channel, message},
}
for _, command in ipairs(commands) do
  local reply = redis.pcall(unpack(command))
  if type(reply) == 'table' and reply.err then
    return {err = reply.err .. ' (' .. command[1] .. ' ' .. command[2] .. ')'}
  end
end
return redis.call('TIME')
"""


class Pulse(NamedTuple):
    channel: str
    message: bytes


class OpenClient:
    """A client and its connections. `prefix` begins the names of the probe's keys and channel."""

    def __init__(self, address: RedisAddress, prefix: str) -> None:
        self.client: Final[Client] = address.client()
        self._address = address
        self._prefix = prefix
        self._reserved: RedisConnection | None = None
        self._slots = asyncio.Semaphore(1)
        self._ready = 1
        self._growing: set[asyncio.Task[None]] = set()
        self._moved_to: tuple[str, int] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._probe_keys = [f"{prefix}probe:0"]

    async def connect(self) -> None:
        """Open one connection each for operations, the probe and a subscription. Raises one of ERRORS."""
        loop = asyncio.get_running_loop()
        openings = (connect_one(self.client), connect_one(self.client), self._reserve())
        tasks = [*map(loop.create_task, openings)]
        del openings
        try:
            async with asyncio.timeout(CONNECTING):
                await asyncio.gather(*tasks)
        finally:
            # A failed task holds its error, and the traceback of the error holds this frame.
            while tasks:
                tasks.pop().cancel()
        if isinstance(self.client, RedisCluster):
            self._probe_keys = _keys_of_all_primaries(self.client, self._prefix)
        elif (master := connected_master(self.client)) is not None:
            self._watching = loop.create_task(self._watch_master(master))

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Return a context manager that waits for a free connection. Open another one in the background where none is
        free."""
        if self._slots.locked() and self._ready + len(self._growing) < _OPERATIONS and len(self._growing) < _GROWING:
            task = asyncio.get_running_loop().create_task(self._grow())
            self._growing.add(task)
            task.add_done_callback(self._growing.discard)
        return self._slots

    async def separate_connection(self) -> RedisConnection:
        """Return a connection for a subscription: the reserved one, or else a new one. Raises one of ERRORS."""
        reserved, self._reserved = self._reserved, None
        return reserved or await self._connected()

    async def probe(self, pulse: Pulse | None) -> float:
        """Run everything that operations need on the server, publish the pulse, and return the server's time.

        Raises one of ERRORS.
        """
        if self._moved_to is not None:
            host, port = self._moved_to
            raise ConnectionError(f"the Sentinels name another master, {host}:{port}")
        silent = Pulse(f"{self._prefix}probe", b"")
        pulses = [pulse or silent] + [silent] * (len(self._probe_keys) - 1)
        probes = map(self._probe_one, self._probe_keys, pulses)
        seconds, microseconds = (await asyncio.gather(*probes))[0]
        return int(seconds) + int(microseconds) / 1e6

    async def _probe_one(self, key: str, pulse: Pulse) -> list[Any]:
        reply: list[Any] = await self.client.execute_command("EVAL", _PROBE, 1, key, *pulse)
        return reply

    async def close(self) -> None:
        """Close all connections. Raises one of ERRORS."""
        for task in (*self._growing, *([self._watching] if self._watching else [])):
            task.cancel()
        if self._reserved is not None:
            await disconnect(self._reserved)
        await close_client(self.client)
        # The driver opens a connection again for an operation that runs on, and only a second call closes that one.
        for _ in range(self._ready):
            await self._slots.acquire()
        await close_client(self.client)

    async def _watch_master(self, connected_to: tuple[str, int]) -> None:
        """Note when the Sentinels name another server. Without an answer of theirs, the server stays in use."""
        while self._moved_to is None:
            await asyncio.sleep(_ASKING)
            with contextlib.suppress(*ERRORS):
                named = await current_master(self.client)
                self._moved_to = None if named == connected_to else named

    async def _reserve(self) -> None:
        self._reserved = await self._connected()

    async def _connected(self) -> RedisConnection:
        connection = await self._address.connection(self.client)
        try:
            await connection.connect()
        except BaseException:
            await disconnect(connection)
            raise
        return connection

    async def _grow(self) -> None:
        try:
            async with asyncio.timeout(CONNECTING):
                await connect_one(self.client)
        except ERRORS:
            return  # operations continue with the open connections
        self._ready += 1
        self._slots.release()


async def disconnect(connection: RedisConnection) -> None:
    """Close a connection without waiting for the peer."""
    with contextlib.suppress(*ERRORS):
        await connection.disconnect(nowait=True)


def does_not_work(error: BaseException) -> bool:
    """Return whether an error reply means that the server cannot work, and not that one command is wrong."""
    if not isinstance(error, ResponseError):
        return False
    return isinstance(error, _NO_WORK) or error_code(error) in _NO_WORK_CODES


def error_code(error: BaseException) -> str:
    """Return the error code of a server's reply (`NOREPLICAS`), or the class name of another error."""
    if not isinstance(error, ResponseError):
        return type(error).__name__
    # The driver removes the codes it knows from the text.
    return getattr(error, "status_code", None) or str(error).partition(" ")[0]


def _keys_of_all_primaries(cluster: RedisCluster, prefix: str) -> list[str]:
    """Return one key for each primary."""
    primaries = {node.name for node in cluster.get_primaries()}
    keys: dict[str, str] = {}
    for number in range(_KEYS_TRIED):
        key = f"{prefix}probe:{number}"
        node = cluster.get_node_from_key(key)
        if node is not None:
            keys.setdefault(node.name, key)
        if primaries <= keys.keys():
            break
    return list(keys.values())
