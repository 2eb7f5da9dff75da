"""Clients for a Redis URL: a single server, a server behind Sentinels, or a cluster."""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from gateway.errors import CannotStart
from gateway.settings.reader import InvalidValue
from gateway.settings.redis_address import redis_place

Client = Redis | RedisCluster
_Sentinel: Final[Any] = Sentinel  # redis-py does not type it

_MASK: Final = "********"
_SENTINEL_LIMIT: Final = 1.0  # seconds for one of several Sentinels, so that one that hangs leaves time for the next
_CONNECT_LIMIT: Final = 5.0  # seconds for a connection to a node of a cluster


class RedisConnection(Protocol):
    """A connection of redis-py, used directly."""

    async def connect(self) -> None:
        """Connect, authenticate and select the database."""

    async def send_command(self, *command: str) -> None:
        """Send a command without waiting for its reply."""

    async def read_response(self, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - the driver named it
        """Return the next reply, or None if none arrives within `timeout` seconds. No reply is lost after None."""

    async def disconnect(self, nowait: bool = False) -> None: ...


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """The parsed URL. `service` is the name of the master at the Sentinels. `options` are those of redis-py's
    connections."""

    scheme: str
    nodes: tuple[tuple[str, int], ...]
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    def client(self) -> Client:
        """Return a new client, not connected yet. The caller limits the time of every operation."""
        settings = self._settings()
        if self.scheme == "redis+cluster":
            # The first node can hang, so each client begins with another node.
            nodes = [
                ClusterNode(host, port) for host, port in secrets.SystemRandom().sample(self.nodes, len(self.nodes))
            ]
            return RedisCluster(startup_nodes=nodes, **settings | {"socket_connect_timeout": _CONNECT_LIMIT})
        if self.scheme == "redis+sentinel":
            # User, password and database belong to the servers, not to the Sentinels.
            asking = {name: value for name, value in settings.items() if name not in ("username", "password", "db")}
            asking |= {
                "socket_timeout": _SENTINEL_LIMIT,
                "socket_connect_timeout": _SENTINEL_LIMIT,
            } | self.sentinel_options
            service: Redis = _Sentinel(self.nodes, sentinel_kwargs=asking, **settings).master_for(self.service)
            return service
        return self._single(*self.nodes[0], settings)

    async def connection(self, client: Client) -> RedisConnection:
        """Return a connection separate from those of `client`, not connected yet. In a cluster any node will do,
        because published messages reach every node."""
        if isinstance(client, RedisCluster):
            await client.initialize()
            node = client.get_random_node()
            client = self._single(node.host, int(node.port), self._settings())
        pool: Any = client.connection_pool
        connection: RedisConnection = pool.make_connection()
        return connection

    @staticmethod
    def _single(host: str, port: int, settings: Mapping[str, Any]) -> Redis:
        return Redis(host=host, port=port, **settings)

    def _settings(self) -> dict[str, Any]:
        # Disable the driver's time limits, which it applies to each step and which cost more than the steps, and its
        # retries, which take seconds.
        limits = {"socket_timeout": None, "socket_connect_timeout": None, "retry": Retry(NoBackoff(), 0)}
        return {"protocol": 2} | limits | dict(self.options)

    def hide(self, text: str) -> str:
        """Remove every password of this address from a driver's message, for the log."""
        for options in (self.options, self.sentinel_options):
            password = options.get("password")
            if password:
                text = text.replace(password, _MASK)
        return text

    def __str__(self) -> str:
        nodes = ",".join(f"{host}:{port}" for host, port in self.nodes)
        return f"{self.scheme}://{nodes}" + (f"/{self.service}" if self.service else "")


def parse_redis_address(url: str) -> RedisAddress:
    """Parse a URL. Raises CannotStart, with a message that contains no part of the user and password."""
    try:
        place = redis_place(url)
    except InvalidValue as error:
        raise CannotStart(f"storage.redis: the address {error.message} ({error.right})") from None
    return RedisAddress(place.scheme, place.nodes, place.service, place.options, place.sentinel_options)


async def connect_one(client: Client) -> None:
    """Open one more connection, in a cluster one to each primary. Raises errors of the driver."""
    if isinstance(client, RedisCluster):
        await client.initialize()
        await asyncio.gather(*map(_connect_to_node, client.get_primaries()))
        return
    pool: Any = client.connection_pool
    connection = pool.make_connection()
    await _connect(connection)
    # The pool has no method to adopt a connection.
    pool._in_use_connections.add(connection)
    await pool.release(connection)


async def _connect_to_node(node: ClusterNode) -> None:
    ready = []
    while (connection := node.acquire_connection()).is_connected:
        ready.append(connection)
    for other in ready:
        node.release(other)
    await _connect(connection)
    node.release(connection)


async def _connect(connection: Any) -> None:
    """Connect. A connection that fails does not return to its pool, where an operation would have to connect it."""
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise


def connected_master(client: Client) -> tuple[str, int] | None:
    """Return the address that the Sentinels named to this client when it connected. None for a client without them."""
    pool: Any = getattr(client, "connection_pool", None)
    return pool.master_address if isinstance(pool, SentinelConnectionPool) else None


async def current_master(client: Client) -> tuple[str, int]:
    """Ask the Sentinels of this client for the address of the master. Raises errors of the driver."""
    pool: Any = getattr(client, "connection_pool", None)
    named: tuple[str, int] = await pool.sentinel_manager.discover_master(pool.service_name)
    return named


async def close_client(client: Client) -> None:
    """Close a client with all its connections, including those to Sentinels."""
    pool = getattr(client, "connection_pool", None)
    await client.aclose()
    if isinstance(client, RedisCluster):
        # Since a failed operation the driver counts the client as not initialized, and `aclose` closes nothing.
        await client.nodes_manager.aclose()
        await client.nodes_manager.aclose("startup_nodes")
    if isinstance(pool, SentinelConnectionPool):
        await pool.sentinel_manager.aclose()
