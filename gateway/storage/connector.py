"""Opens connections for callers that stop waiting before the connection is open.

    connect() ──▶ waiter ◀── attempt succeeds or fails        the attempt continues after its waiter is cancelled
                  no waiter left ──▶ spare ──▶ the next connect()

Callers stop waiting after 250 ms. If each attempt were cancelled with its caller, a server that takes 300 ms to accept
a connection would never be connected again.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

C = TypeVar("C")

_SLOW: Final = 1.0  # seconds after which an attempt counts as lost and another one starts
_SPARE_FOR: Final = 15.0  # seconds for which an unused connection is kept


class Connector(Generic[C]):
    """Runs at most `limit` attempts at a time. `close` closes an unused connection, and `is_open` returns whether a
    spare one is still usable. Bound to the event loop that first uses it."""

    def __init__(
        self,
        make: Callable[[], Awaitable[C]],
        *,
        close: Callable[[C], None],
        is_open: Callable[[C], bool],
        limit: int,
    ) -> None:
        self._make = make
        self._close = close
        self._is_open = is_open
        self._limit = limit
        self._waiting: deque[asyncio.Future[C]] = deque()
        self._attempts: dict[asyncio.Task[C], float] = {}  # with the start time
        self._spare: list[C] = []

    async def connect(self) -> C:
        """Return a new connection. Raises the error of the attempt."""
        while self._spare:
            connection = self._spare.pop()
            if self._is_open(connection):
                return connection
        waiter: asyncio.Future[C] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._attempt_if_needed()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._keep(waiter.result())
            raise
        finally:
            del waiter  # the waiter holds its error, whose traceback holds this frame

    def stop(self) -> None:
        """Cancel the attempts and close the spare connections."""
        for attempt in self._attempts:
            attempt.cancel()
        while self._spare:
            self._close(self._spare.pop())

    def _attempt_if_needed(self) -> None:
        loop = asyncio.get_running_loop()
        waiting = sum(not waiter.done() for waiter in self._waiting)
        recent = [started for started in self._attempts.values() if loop.time() - started < _SLOW]
        if waiting > len(recent) and len(self._attempts) < self._limit:
            attempt = loop.create_task(_made(self._make))
            self._attempts[attempt] = loop.time()
            attempt.add_done_callback(self._finished)

    def _finished(self, attempt: asyncio.Task[C]) -> None:
        del self._attempts[attempt]
        if attempt.cancelled():
            return
        error = attempt.exception()
        waiter = self._next_waiter()
        if error is None and waiter is None:
            self._keep(attempt.result())
        elif error is None and waiter is not None:
            waiter.set_result(attempt.result())
        elif error is not None and waiter is not None:
            waiter.set_exception(error)
        if self._waiting:
            self._attempt_if_needed()

    def _next_waiter(self) -> asyncio.Future[C] | None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                return waiter
        return None

    def _keep(self, connection: C) -> None:
        self._spare.append(connection)
        asyncio.get_running_loop().call_later(_SPARE_FOR, self._drop, connection)

    def _drop(self, connection: C) -> None:
        if connection in self._spare:
            self._spare.remove(connection)
            self._close(connection)


async def _made(make: Callable[[], Awaitable[C]]) -> C:
    return await make()
