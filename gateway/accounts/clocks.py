"""For how long the end of something must be told, so that nobody takes a copy of it for good."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.settings.model import Settings

# How far the clocks of replicas may lie apart: for that long after its expiry, a token of an ended session is still
# known as that, so that a replica whose clock is behind does not take it for a good one.
CLOCKS: Final = 60.0  # seconds


def key_known_until(settings: Settings, clock: Callable[[], float]) -> datetime:
    """Until when a copy of an API key that is deleted now may be believed somewhere. `clock`: seconds since the
    epoch."""
    return datetime.fromtimestamp(clock(), UTC) + timedelta(seconds=settings.cache.user_ttl + CLOCKS)
