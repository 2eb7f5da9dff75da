"""Takes the gateway's own cookies out of responses, so that no upstream plants or ends a session."""

from collections.abc import Iterator, Sequence

from gateway.proxy.interfaces import Field
from gateway.samples import Sample
from gateway.wire.cookies import OwnCookies


class UpstreamCookies:
    """The own cookies that one upstream tries to set. They are dropped and counted."""

    def __init__(self, upstream: str, own: OwnCookies) -> None:
        self._upstream = upstream
        self._own = own
        self._dropped = 0

    def removed_from(self, fields: Sequence[Field]) -> Sequence[Field]:
        """The fields without own cookies."""
        kept = [(name, value) for name, value in fields if not self._is_own(name, value)]
        self._dropped += len(fields) - len(kept)
        return kept

    def samples(self) -> Iterator[Sample]:
        yield Sample("gateway_upstream_cookies_dropped_total", (self._upstream,), self._dropped)

    def _is_own(self, name: bytes, value: bytes) -> bool:
        return len(name) == 10 and name.lower() == b"set-cookie" and self._own.is_set_by(value)
