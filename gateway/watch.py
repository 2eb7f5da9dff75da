"""Looks after what lasts longer than a request: WebSockets and event streams end when their caller may not stay.

One watcher for all of them, on the tick: a timer for each would cost more than the connections themselves. An admission
is looked at twice a second against the same caches as every request, so a change ends it within a second of reaching
this process.
"""

import asyncio
from typing import Final, Protocol

from gateway.admission import Admission, Waiting
from gateway.errors import Refusal
from gateway.gate import Gate

_EVERY: Final = 2  # ticks
_AT_ONCE: Final = 16  # look-ups in a store at the same time
_PATIENCE: Final = 10.0  # seconds without any store that could tell, after which nobody may stay


class Lasting(Protocol):
    """Something that goes on, and can be ended."""

    @property
    def admission(self) -> Admission | None:
        """What it was admitted by."""

    def revoke(self, refusal: Refusal) -> None:
        """End it: its caller may not stay."""


class Watch:
    """All that lasts in this process. `gate` is the one in force: what lasts is judged by its admission's route, but by
    the roles and users of now."""

    def __init__(self, gate: Gate, loop: asyncio.AbstractEventLoop) -> None:
        self.gate = gate
        self._loop = loop
        self._lasting: dict[Lasting, float | None] = {}  # and since when no store could tell
        self._asking: set[Lasting] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = 0

    def add(self, lasting: Lasting) -> None:
        """Look after this from now on. An anonymous caller has nothing that could be taken away."""
        if lasting.admission is not None and lasting.admission.principal is not None:
            self._lasting[lasting] = None

    def remove(self, lasting: Lasting) -> None:
        """It has ended."""
        self._lasting.pop(lasting, None)

    def tick(self, now: float) -> None:
        """Look at everything, every other tick."""
        self._turn = (self._turn + 1) % _EVERY
        if self._turn:
            return
        for lasting in list(self._lasting):
            admission = lasting.admission
            assert admission is not None
            verdict = self.gate.reconsider(admission)
            if isinstance(verdict, Refusal):
                self._end(lasting, verdict)
            elif verdict is not None and lasting not in self._asking and len(self._tasks) < _AT_ONCE:
                self._ask(lasting, verdict)

    def close(self) -> None:
        """Look after nothing any more."""
        for task in self._tasks:
            task.cancel()
        self._lasting.clear()

    def _ask(self, lasting: Lasting, waiting: Waiting) -> None:
        self._asking.add(lasting)
        task = self._loop.create_task(self._conclude(lasting, waiting))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _conclude(self, lasting: Lasting, waiting: Waiting) -> None:
        try:
            refusal = await self.gate.reconclude(waiting)
        finally:
            self._asking.discard(lasting)
        if lasting not in self._lasting:
            return
        if refusal is not None and refusal.code == "storage_unavailable":
            self._nobody_knows(lasting, refusal)
        elif refusal is not None:
            self._end(lasting, refusal)
        else:
            self._lasting[lasting] = None

    def _nobody_knows(self, lasting: Lasting, refusal: Refusal) -> None:
        """No store can tell. A moment is forgiven; for longer nobody may stay on a guess."""
        since = self._lasting[lasting]
        now = self._loop.time()
        if since is None:
            self._lasting[lasting] = now
        elif now - since > _PATIENCE:
            self._end(lasting, refusal)

    def _end(self, lasting: Lasting, refusal: Refusal) -> None:
        self.remove(lasting)
        lasting.revoke(refusal)
