"""The time for which idle connections to one target are kept and reused.

A request on a connection that the target closes at the same moment is lost. The gateway must close the connection
first, so it has to know the target's own limit. The configured limit suits common servers. Some servers announce
theirs. The others reveal it when they close an idle connection.

A request that cannot be repeated uses a connection only within half of the time that idle connections to the target
have survived, so it stays far from a limit that is still unknown. An announced limit does not extend that time, because
any program behind the target can announce one.
"""

import re
from math import inf
from typing import Final

_TIMEOUT: Final = re.compile(rb"(?:^|[,; \t])timeout=\"?([0-9]{1,9})", re.IGNORECASE)
_FORGET: Final = 60.0  # seconds until an observed limit is dropped: a restart closes connections of any age, once
_LEAST: Final = 0.05  # seconds; connections are reused under load even after a restart
_MARGIN: Final = 1.0  # seconds before the announced limit


class IdleLimit:
    """All times are in seconds.

    `seconds` is the limit, at most the `configured` one, and `careful` the limit for requests that cannot be repeated.
    """

    __slots__ = ("_announced", "_configured", "_seen", "_seen_at", "_survived", "careful", "seconds")

    seconds: float
    careful: float

    def __init__(self, configured: float) -> None:
        self._configured = self._seen = configured
        self._announced = inf
        self._seen_at = 0.0
        self._survived = _LEAST
        self._update()

    def announced(self, keep_alive: bytes) -> None:
        """Set the limit from the target's Keep-Alive field (RFC 2068 19.7.1.1), if it has one."""
        found = _TIMEOUT.search(keep_alive)
        if found is None:
            return
        timeout = int(found[1])
        self._announced = timeout - min(_MARGIN, timeout / 2)
        self._update()

    def closed(self, idle: float, now: float) -> None:
        """Note that the target has closed a connection that was idle for this time."""
        if idle < self._configured:
            # Servers check idle connections at intervals, so they can close the next one in half the time.
            self._seen = min(self._seen, max(_LEAST, idle / 2))
            self._seen_at = now
            self._survived = min(self._survived, self._seen)
            self._update()

    def survived(self, idle: float) -> None:
        """Note that a connection that was idle for this time is still open."""
        if idle > self._survived:
            self._survived = idle
            self._update()

    def tick(self, now: float) -> None:
        """Drop a limit that was observed long ago."""
        if self._seen < self._configured and now - self._seen_at > _FORGET:
            self._seen = self._configured
            self._update()

    def _update(self) -> None:
        self.seconds = min(self._configured, self._announced, self._seen)
        self.careful = min(self.seconds, self._survived / 2)
