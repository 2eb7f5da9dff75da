"""A finished request, as those who take note of it see it."""

from collections.abc import Callable
from typing import Protocol

from gateway.errors import Caller
from gateway.gate.admission import Admission, RequestHead


class Finished(Protocol):
    """A finished request, as the face that answered it knows it.

    `admission` is None where it was refused before it had one; `route` then names the route that refused, "" where
    none matched. `status` 0: the caller left before any answer was made, logged and counted as 499. `code` is the
    refusal's, or "". Times are those of `time.monotonic`: `started` when the head had been read, `forwarded_at` when
    it was sent to an upstream the last time and `answered_at` when the head of the answer was there, 0.0 where that
    did not happen. `received` and `sent` are bytes of body. `refused` is who was refused, as far as that is known.
    """

    @property
    def request(self) -> RequestHead: ...
    @property
    def admission(self) -> Admission | None: ...
    @property
    def refused(self) -> Caller | None: ...
    @property
    def route(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def code(self) -> str: ...
    @property
    def started(self) -> float: ...
    @property
    def forwarded_at(self) -> float: ...
    @property
    def answered_at(self) -> float: ...
    @property
    def received(self) -> int: ...
    @property
    def sent(self) -> int: ...


Completed = Callable[[Finished], None]
"""Takes note of a finished request; called on the hot path. It never raises and never waits."""
