"""Methods that a route without `methods` treats in a special way."""

from typing import Final

TRACE: Final = b"TRACE"
"""Served only by a route that lists it: its answer shows the request that the upstream received, identity included."""

USUAL_METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")
"""Named to callers for a route without `methods`, which serves extension methods as well."""
