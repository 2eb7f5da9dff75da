"""A connected client, whose connections are made beside the operations that use them, and the probe of its server.

An operation gets 250 ms. A connection can take seconds, so no operation makes one: operations share the connections
that are ready, and one that must wait for another has one more connection made in the background. One connection is
kept for the probe.

The probe does all that operations do: it writes, reads, deletes and publishes, in one script. A server that answers a
PING and refuses writes (a replica, a full one, one that has lost its replicas or the rights of its user) is down.
"""

import asyncio
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

from gateway.storage.redis_address import Client, RedisAddress, close_client, connect_one

# All that the driver raises when Redis is down, and all that it lets through from below. TimeoutError is an OSError.
# uvloop raises RuntimeError for writing to a connection that is being closed.
ERRORS: Final = (RedisError, RedisClusterException, OSError, EOFError, RuntimeError)

CONNECTING: Final = 10.0  # seconds for one attempt to connect
_OPERATIONS: Final = 32  # at a time
_GROWING: Final = 8  # connections that are made at a time
_KEYS_TRIED: Final = 4096  # to find one for each node of a cluster

_NO_WORK: Final = (ReadOnlyError, OutOfMemoryError, NoPermissionError, ClusterDownError)
# Codes of errors for which the driver has no class.
_NO_WORK_CODES: Final = frozenset({"NOREPLICAS", "MISCONF", "BUSY", "NOMASTERLINK", "UNKILLABLE"})

# Key: one of the probe's. Arguments: a channel, and the message for it. An error names the command that met it.
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
    """A message that the probe publishes."""

    channel: str
    message: bytes


class OpenClient:
    """A client with connections. `prefix` begins the names of the probe's keys and of its channel."""

    def __init__(self, address: RedisAddress, prefix: str) -> None:
        self.client: Final[Client] = address.client()
        self._prefix = prefix
        self._slots = asyncio.Semaphore(1)
        self._ready = 1
        self._growing: set[asyncio.Task[None]] = set()
        self._probe_keys = [f"{prefix}probe:0"]

    async def connect(self) -> None:
        """Connect, once for operations and once for the probe. Raises one of ERRORS."""
        async with asyncio.timeout(CONNECTING):
            await asyncio.gather(connect_one(self.client), connect_one(self.client))
        if isinstance(self.client, RedisCluster):
            self._probe_keys = _keys_of_all_primaries(self.client, self._prefix)

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Wait for a connection that is ready, and have one more made where none is."""
        if self._slots.locked() and self._ready + len(self._growing) < _OPERATIONS and len(self._growing) < _GROWING:
            task = asyncio.get_running_loop().create_task(self._grow())
            self._growing.add(task)
            task.add_done_callback(self._growing.discard)
        return self._slots

    async def probe(self, pulse: Pulse | None) -> float:
        """Have the server do all that operations need, and publish the pulse; the time of its clock.

        Raises one of ERRORS.
        """
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
        for task in self._growing:
            task.cancel()
        await close_client(self.client)

    async def _grow(self) -> None:
        try:
            async with asyncio.timeout(CONNECTING):
                await connect_one(self.client)
        except ERRORS:
            return  # operations go on with the connections that are ready
        self._ready += 1
        self._slots.release()


def does_not_work(error: BaseException) -> bool:
    """Whether this answer says that the server cannot do its work, and not that one command is wrong."""
    if not isinstance(error, ResponseError):
        return False
    return isinstance(error, _NO_WORK) or error_code(error) in _NO_WORK_CODES


def error_code(error: BaseException) -> str:
    """The code that begins an error of the server (`NOREPLICAS`); the name of the class for other errors."""
    if not isinstance(error, ResponseError):
        return type(error).__name__
    # The driver takes the codes that it knows off the text.
    return getattr(error, "status_code", None) or str(error).partition(" ")[0]


def _keys_of_all_primaries(cluster: RedisCluster, prefix: str) -> list[str]:
    """One key for each node that takes writes."""
    wanted = {node.name for node in cluster.get_primaries()}
    keys: dict[str, str] = {}
    for number in range(_KEYS_TRIED):
        key = f"{prefix}probe:{number}"
        node = cluster.get_node_from_key(key)
        if node is not None:
            keys.setdefault(node.name, key)
        if wanted <= keys.keys():
            break
    return list(keys.values())
