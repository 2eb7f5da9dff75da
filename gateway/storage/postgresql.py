"""PostgreSQL through asyncpg."""

from typing import Any, Final

import asyncpg
from sqlalchemy import create_engine

from gateway.storage.engines import Opened

# Of the 100 connections that a server allows to all replicas together unless told otherwise. Statements take well
# under a millisecond, so that a few connections carry thousands of them a second.
_PLACES: Final = 8
_RECYCLE: Final = 1800  # seconds: before firewalls and balancers forget an idle connection
_GOODBYE: Final = 0.2  # seconds


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """Says good-bye like any other, but does not wait for a server that hangs: that would hold the pool's place."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109  (asyncpg's signature)
        try:
            await super().close(timeout=_GOODBYE)
        except TimeoutError:
            self.terminate()


def open_postgresql(url: str) -> Opened:
    """The engine for `postgresql://…`.

    The driver reads the address itself, so that whatever libpq knows means here what it means elsewhere: several
    hosts, `sslmode`, socket folders.
    """

    async def connect() -> asyncpg.Connection:
        settings = {"application_name": "gateway"}
        return await asyncpg.connect(url, connection_class=_Connection, server_settings=settings)

    def creator() -> Any:
        return engine.dialect.loaded_dbapi.connect(async_creator_fn=connect)

    engine = create_engine(
        "postgresql+asyncpg://",
        creator=creator,
        hide_parameters=True,
        pool_size=_PLACES + 1,
        max_overflow=0,
        pool_recycle=_RECYCLE,
        pool_use_lifo=True,
    )
    # A statement that changes nothing needs no BEGIN and COMMIT around it: one round trip instead of three.
    reading = engine.execution_options(isolation_level="AUTOCOMMIT")
    errors = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
    return Opened(engine, reading, errors, readers=_PLACES)
