"""What an address of a Redis means, and the clients for it: one server, one behind Sentinels, or a cluster.

    redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]        rediss:// the same with TLS
    redis+sentinel://[…@]HOST[:PORT],HOST…/SERVICE[/DATABASE]
    redis+cluster://[…@]HOST[:PORT],HOST…

Options follow after `?`: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` (paths), `ssl=true` for Sentinels and clusters,
`sentinel_username` and `sentinel_password`. Those of the driver that set time limits and retries are not among them:
here every limit is the gateway's.
"""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from gateway.errors import CannotStart

Client = Redis | RedisCluster
_Sentinel: Final[Any] = Sentinel  # redis-py has left it untyped

_PORTS: Final = {"redis": 6379, "rediss": 6379, "redis+sentinel": 26379, "redis+cluster": 6379}
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_OPTIONS: Final = (*_FILES, "ssl", "sentinel_username", "sentinel_password")
_MASK: Final = "********"
_SENTINEL_LIMIT: Final = 1.0  # seconds for one of several Sentinels; one that hangs leaves time for the next
_CONNECT_LIMIT: Final = 5.0  # seconds for a connection to a node of a cluster


class Connection(Protocol):
    """One connection of the driver's, spoken to directly."""

    async def connect(self) -> None:
        """Connect, sign in, and choose the database."""

    async def send_command(self, *command: str) -> None:
        """Send a command."""

    async def read_response(self, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - the driver named it
        """The next reply; None when there is none after `timeout` seconds. Nothing is lost by asking again."""

    async def disconnect(self, nowait: bool = False) -> None:
        """Close it."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis is. `service` is what Sentinels call it; `options` are those of redis-py's connections."""

    scheme: str
    nodes: tuple[tuple[str, int], ...]
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    def client(self) -> Client:
        """A new client, not connected yet. Its user must limit every operation."""
        settings = self._settings()
        if self.scheme == "redis+cluster":
            # The first node that is asked can hang. Another client begins with another one.
            nodes = [ClusterNode(host, port) for host, port in random.sample(self.nodes, len(self.nodes))]
            return RedisCluster(startup_nodes=nodes, **settings | {"socket_connect_timeout": _CONNECT_LIMIT})
        if self.scheme == "redis+sentinel":
            # What is for the servers behind (user, password, database) is not for the Sentinels.
            asking = {name: value for name, value in settings.items() if name not in ("username", "password", "db")}
            asking |= {
                "socket_timeout": _SENTINEL_LIMIT,
                "socket_connect_timeout": _SENTINEL_LIMIT,
            } | self.sentinel_options
            service: Redis = _Sentinel(self.nodes, sentinel_kwargs=asking, **settings).master_for(self.service)
            return service
        return self._single(*self.nodes[0], settings)

    async def connection(self, client: Client) -> Connection:
        """A connection apart from those of `client`, not connected yet. What is published reaches every node."""
        if isinstance(client, RedisCluster):
            await client.initialize()
            node = client.get_random_node()
            client = self._single(node.host, int(node.port), self._settings())
        pool: Any = client.connection_pool
        connection: Connection = pool.make_connection()
        return connection

    @staticmethod
    def _single(host: str, port: int, settings: Mapping[str, Any]) -> Redis:
        return Redis(host=host, port=port, **settings)

    def _settings(self) -> dict[str, Any]:
        # Neither the driver's time limits, which are kept for each step apart and cost more than the steps themselves,
        # nor its retries, which go on for seconds.
        limits = {"socket_timeout": None, "socket_connect_timeout": None, "retry": Retry(NoBackoff(), 0)}
        return {"protocol": 2} | limits | dict(self.options)

    def hide(self, text: str) -> str:
        """A message of the driver as it may be logged: without any password of this address."""
        for options in (self.options, self.sentinel_options):
            password = options.get("password")
            if password:
                text = text.replace(password, _MASK)
        return text

    def __str__(self) -> str:
        nodes = ",".join(f"{host}:{port}" for host, port in self.nodes)
        return f"{self.scheme}://{nodes}" + (f"/{self.service}" if self.service else "")


def parse_redis_address(url: str) -> RedisAddress:
    """Take an address apart. Raises CannotStart with what is wrong, and without what is secret in it."""
    scheme, _, rest = url.partition("://")
    if scheme not in _PORTS:
        raise _cannot("must begin with redis://, rediss://, redis+sentinel:// or redis+cluster://")
    place, _, query = rest.partition("?")
    userinfo, _, place = place.rpartition("@")
    hosts, _, path = place.partition("/")
    service, database = _path(scheme, unquote(path))
    given = _query(query)
    options: dict[str, Any] = {name: given[name] for name in _FILES if name in given} | _credentials(userinfo)
    if scheme == "rediss" or given.get("ssl") == "true":
        options["ssl"] = True
    if database:
        options["db"] = database
    sentinel_options = {
        name: given[f"sentinel_{name}"] for name in ("username", "password") if f"sentinel_{name}" in given
    }
    nodes = tuple(_node(host, _PORTS[scheme]) for host in hosts.split(","))
    if len(nodes) > 1 and scheme in ("redis", "rediss"):
        raise _cannot("names several hosts (redis+sentinel:// or redis+cluster://)")
    return RedisAddress(scheme, nodes, service, options, sentinel_options)


def _path(scheme: str, path: str) -> tuple[str, int]:
    """The Sentinels' name of the service, and the number of the database."""
    service = ""
    if scheme == "redis+sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise _cannot("must name the service that the Sentinels watch (redis+sentinel://host:26379/mymaster/0)")
    if path and not (path.isascii() and path.isdigit()):
        raise _cannot("must end in the number of a database (redis://host:6379/0)")
    if path.strip("0") and scheme == "redis+cluster":
        raise _cannot("a cluster has database 0 only")
    return service, int(path or 0)


def _query(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise _cannot(f"has the unknown option {unknown[0]} (known: {', '.join(_OPTIONS)})")
    if options.get("ssl", "true") not in ("true", "false"):
        raise _cannot("option ssl must be true or false")
    return options


def _credentials(userinfo: str) -> dict[str, str]:
    user, _, password = userinfo.partition(":")
    given = {"username": unquote(user), "password": unquote(password)}
    return {name: value for name, value in given.items() if value}


def _node(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts: SplitResult = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        raise _cannot("has a host or port that is none") from None
    if not parts.hostname:
        raise _cannot("must name a host (redis://host:6379/0)")
    return parts.hostname, default_port if port is None else port


def _cannot(message: str) -> CannotStart:
    return CannotStart(f"storage.redis: the address {message}")


async def connect_one(client: Client) -> None:
    """Make one more connection, in a cluster to each node that takes writes. Raises errors of the driver."""
    if isinstance(client, RedisCluster):
        await client.initialize()
        await asyncio.gather(*map(_connect_to_node, client.get_primaries()))
        return
    pool: Any = client.connection_pool
    connection = pool.make_connection()
    await _connect(connection)
    # The pool has no method to take a connection that it did not hand out.
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
    """Connect. A connection that fails does not go back to its pool: an operation would have to make it."""
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise


async def close_client(client: Client) -> None:
    """Close a client with all its connections, those to Sentinels included."""
    pool = getattr(client, "connection_pool", None)
    await client.aclose()
    if isinstance(pool, SentinelConnectionPool):
        await pool.sentinel_manager.aclose()
