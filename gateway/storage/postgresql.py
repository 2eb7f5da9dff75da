"""PostgreSQL through asyncpg, directly or through a pooler such as pgbouncer.

A pooler in transaction mode can run each transaction on another server connection. Prepared statements, session
parameters and statements outside a transaction do not survive that, so the gateway uses none of them behind a pooler.
The first connection detects a pooler: a pooler invents the process id that the server announces.
"""

import getpass
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.util.concurrency import await_only

from gateway.errors import CannotStart
from gateway.settings.postgresql_address import PostgresqlAddress, postgresql_address
from gateway.storage.connector import Connector
from gateway.storage.engine import Opened, Timeouts

# By default a server allows 100 connections, for all replicas together. A statement takes well under a millisecond, so
# a few connections carry thousands of statements a second.
_PLACES: Final = 8
_RECYCLE: Final = 1800  # seconds: less than the time after which firewalls and balancers drop an idle connection
_CLOSE_TIMEOUT: Final = 0.2  # seconds
_CONNECT_TIMEOUT: Final = 10.0  # seconds
# Detects a dead peer after 5 + 3 * 2 seconds. The names are libpq's.
_KEEPALIVE: Final = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_TCP_OPTIONS: Final = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
_SERVER_KEEPALIVE: Final = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
_NO_HOME: Final = "/nonexistent"
# The answer of pgbouncer to a session parameter that it does not support (a protocol violation), and of a server to one
# that it does not know.
_UNSUPPORTED: Final = frozenset({"08P01", "42704"})
_TRANSACTION_TIMEOUT_SINCE: Final = 17  # version of the server
# The rights without which no user can sign in, or none can be disabled. Other features need more
# (docs/deployment/postgresql.md).
_NEEDED: Final = {
    "users": "SELECT, INSERT, UPDATE",
    "user_roles": "SELECT, INSERT",
    "sessions": "SELECT, INSERT, UPDATE, DELETE",
    "refresh_tokens": "SELECT, INSERT, UPDATE, DELETE",
    "api_keys": "SELECT",
    "audit": "INSERT",
    "blocked_subjects": "SELECT",
}
# A right on some columns is enough, because the operator can know which ones. to_regclass is null for a table that does
# not exist or whose schema is closed to this user, and so is the right to it.
_LACKS: Final = f"""
SELECT string_agg(needed_right || ' on ' || name, ', ') FROM (VALUES ('audit_id_seq', 'USAGE'), {
    ", ".join(f"('{table}', '{right}')" for table, rights in _NEEDED.items() for right in rights.split(", "))
}) AS needed (name, needed_right)
WHERE CASE needed_right
    WHEN 'USAGE' THEN has_sequence_privilege(to_regclass(name)::oid, needed_right)
    WHEN 'DELETE' THEN has_table_privilege(to_regclass(name)::oid, needed_right)
    ELSE has_any_column_privilege(to_regclass(name)::oid, needed_right)
END IS NOT TRUE
"""  # noqa: S608  (constants)
_CHECK: Final = text(f"SELECT current_setting('transaction_read_only'), ({_LACKS})")


def open_postgresql(url: str, timeouts: Timeouts) -> Opened:
    """Return the engine for `postgresql://…`."""
    address = postgresql_address(url)
    _check_account(address)
    server = _Server(address, timeouts)
    connector = Connector(
        server.connect,
        close=lambda connection: connection.terminate(),
        is_open=lambda connection: not connection.is_closed(),
        limit=_PLACES + 1,
    )
    engine: Engine = create_engine(
        "postgresql+asyncpg://",
        creator=lambda: _dbapi_connection(engine, connector, server),
        hide_parameters=True,
        isolation_level="READ COMMITTED",  # set explicitly, because the server can have another default
        pool_size=_PLACES + 1,
        max_overflow=0,
        pool_recycle=_RECYCLE,
        pool_use_lifo=True,
    )
    # A statement that changes nothing needs no BEGIN and COMMIT: one round trip instead of three.
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    return Opened(
        engine,
        lambda: autocommit if server.has_sessions else engine,
        (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError),
        readers=_PLACES,
        begin=server.begin,
        check=_check,
        stop=connector.stop,
    )


def _check_account(address: PostgresqlAddress) -> None:
    """Let asyncpg run in a container, whose user id can have no name and the home of another user.

    asyncpg needs the name if the URL has no user, and fails if it cannot search the home (~/.pgpass, ~/.postgresql).
    Treat an unreadable home like a missing one, as libpq does.
    """
    try:
        Path("~/.postgresql").expanduser().stat()
    except PermissionError:
        os.environ["HOME"] = _NO_HOME
    except (OSError, RuntimeError, KeyError):
        pass  # asyncpg accepts both
    parts = urlsplit(address.dsn)
    if "@" in parts.netloc or os.environ.get("PGUSER") or {"user", "service"} & parse_qs(parts.query).keys():
        return
    try:
        getpass.getuser()
    except (KeyError, OSError):
        raise CannotStart(
            f"storage.database: the address names no user, and the user id {os.getuid()} has no name here; "
            "write postgresql://USER@HOST/DATABASE, or set PGUSER"
        ) from None


def _dbapi_connection(engine: Engine, connector: Connector[asyncpg.Connection], server: "_Server") -> Any:
    connection = await_only(connector.connect())

    async def made() -> asyncpg.Connection:
        return connection

    options: dict[str, Any] = {}
    if not server.has_sessions:
        options = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}  # "": no name
    return engine.dialect.loaded_dbapi.connect(async_creator_fn=made, **options)


def _check(connection: Connection) -> str | None:
    """Name the rights that this user has lost since the start, and the tables that are gone.

    Raises for a server that answers but takes no changes: a standby, or a primary that was fenced off.
    """
    is_read_only, lacking = connection.execute(_CHECK).one()
    if is_read_only == "on":
        raise _read_only()
    return None if lacking is None else f"no {lacking}: missing, or the user has no right to it"


def _read_only() -> Exception:
    error: Exception = asyncpg.ReadOnlySQLTransactionError("the server takes no changes (it is read-only)")
    return error


class _Server:
    """Connects to one address. `has_sessions` is True once a connection has shown that it passes no pooler."""

    def __init__(self, address: PostgresqlAddress, timeouts: Timeouts) -> None:
        self.has_sessions = False
        self._has_transaction_timeout = False
        self._address = address
        self._timeouts = timeouts
        self._class = _connection_class(_KEEPALIVE | address.socket_options)

    async def connect(self) -> asyncpg.Connection:
        """Return a connection to a server that takes changes. Raises the driver's errors."""
        parameters = {"application_name": "gateway"} | self._address.session_parameters
        is_limited = self.has_sessions
        try:
            connection = await self._open(self._limits() | parameters if is_limited else parameters)
        except asyncpg.PostgresError as error:
            if not is_limited or error.sqlstate not in _UNSUPPORTED:
                raise
            connection, is_limited = await self._open(parameters), False
        try:
            _refuse_read_only(connection)
            if not is_limited:
                await self._limit(connection, parameters)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _open(self, parameters: dict[str, str]) -> asyncpg.Connection:
        return await asyncpg.connect(
            self._address.dsn,
            timeout=self._address.connect_timeout or _CONNECT_TIMEOUT,
            connection_class=self._class,
            server_settings=parameters,
            # SQLAlchemy has a cache of its own. Without one here, asyncpg neither names statements nor keeps them
            # prepared, and each costs a second round trip. No statement is short enough for this cache.
            statement_cache_size=1,
            max_cacheable_statement_size=1,
            target_session_attrs=self._address.default_target,
        )

    async def _limit(self, connection: asyncpg.Connection, parameters: dict[str, str]) -> None:
        """Detect a pooler, and limit the session if the connection passes none."""
        async with connection.transaction():
            pid = await connection.fetchval("SELECT pg_backend_pid()")
        self._has_transaction_timeout = connection.get_server_version().major >= _TRANSACTION_TIMEOUT_SINCE
        self.has_sessions = pid == connection.get_server_pid()
        if self.has_sessions:
            limits = {name: value for name, value in self._limits().items() if name not in parameters}
            await connection.execute(_set_config(limits, is_local=False))

    def begin(self, connection: Connection) -> None:
        """Limit the transaction where the session has no limits, so that a client that disappears keeps no locks."""
        if not self.has_sessions:
            connection.execute(text(_set_config(self._transaction_limits(), is_local=True)))

    def _limits(self) -> dict[str, str]:
        return _SERVER_KEEPALIVE | self._transaction_limits()

    def _transaction_limits(self) -> dict[str, str]:
        abandoned = f"{self._timeouts.abandoned * 1000:.0f}"
        limits = {
            "lock_timeout": f"{self._timeouts.lock * 1000:.0f}",
            "idle_in_transaction_session_timeout": abandoned,
        }
        # A transaction is not idle between the preparation of a statement, which the driver sends without a Sync, and
        # its execution.
        return limits | {"transaction_timeout": abandoned} if self._has_transaction_timeout else limits


def _refuse_read_only(connection: asyncpg.Connection) -> None:
    """Refuse a server that announces itself as a standby or as read-only (PostgreSQL 14 and newer)."""
    settings = connection.get_settings()
    if "on" in (getattr(settings, name, "") for name in ("in_hot_standby", "default_transaction_read_only")):
        raise _read_only()


def _set_config(parameters: dict[str, str], *, is_local: bool) -> str:
    calls = (f"set_config('{name}', '{value}', {str(is_local).lower()})" for name, value in parameters.items())
    return f"SELECT {', '.join(calls)}"


def _connection_class(socket_options: dict[str, int]) -> Callable[..., asyncpg.Connection]:
    class GatewayConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
        """Detects a dead peer, and closes without waiting for a server that hangs."""

        def __init__(self, protocol: Any, transport: Any, *others: Any) -> None:
            super().__init__(protocol, transport, *others)
            _set_keepalive(transport.get_extra_info("socket"), socket_options)

        async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109  (asyncpg's signature)
            try:
                await super().close(timeout=_CLOSE_TIMEOUT)
            except TimeoutError:
                self.terminate()

    return GatewayConnection


def _set_keepalive(raw: Any, options: dict[str, int]) -> None:
    if raw is None or raw.family not in (socket.AF_INET, socket.AF_INET6):
        return
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(bool(options["keepalives"])))
    for name, constant in _TCP_OPTIONS.items():
        if hasattr(socket, constant) and options[name]:
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, constant), options[name])
