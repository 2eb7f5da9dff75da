"""How long a revocation must stay visible so that no cached copy outlives it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.settings.model import Settings

# The largest supported clock difference between replicas. A token of an ended session stays revoked this long after its
# expiry, so that a replica whose clock is behind does not accept it.
CLOCK_SKEW: Final = 60.0  # In seconds.


def key_known_until(settings: Settings, clock: Callable[[], float]) -> datetime:
    """The time until which a cached copy of an API key deleted now can exist. `clock` returns seconds since the
    epoch."""
    return datetime.fromtimestamp(clock(), UTC) + timedelta(seconds=copies_last_for(settings))


def copies_last_for(settings: Settings) -> float:
    """The seconds for which a replica can hold a copy of an API key or a browser session."""
    return settings.cache.user_ttl + CLOCK_SKEW
