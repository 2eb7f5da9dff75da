"""Methods that a route without `methods` treats in a special way."""

from typing import Final

TRACE: Final = b"TRACE"
"""Served only by routes that list it: the response echoes the upstream request, including the identity headers."""

USUAL_METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")
"""Listed to clients for a route without `methods`, which also serves extension methods."""
