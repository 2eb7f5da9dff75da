"""Deletes sessions that are over, every ten minutes and in small steps.

A sign-in deletes the old sessions of its own account. Sessions of accounts that sign in no more would stay.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from gateway.errors import StorageUnavailable

EVERY: Final = 600.0  # In seconds.

log: Final = logging.getLogger("gateway.sessions")


class SessionCleaning:
    """A task of every replica. `delete_old` deletes a batch and returns its size; `every` is in seconds."""

    def __init__(self, delete_old: Callable[[], Awaitable[int]], *, every: float = EVERY) -> None:
        self._delete_old = delete_old
        self._every = every
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        while True:
            # Replicas begin at different times.
            await asyncio.sleep(self._every * (50 + secrets.randbelow(51)) / 100)
            try:
                with suppress(StorageUnavailable):  # the database reports its outage itself
                    while await self._delete_old():
                        pass
            except Exception:
                log.exception("deleting old sessions failed")
