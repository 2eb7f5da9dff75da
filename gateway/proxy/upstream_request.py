"""A request as it is sent upstream."""

from typing import Final

from gateway.wire.fields import Field
from gateway.wire.websocket import Handshake

# RFC 9110 9.2.2: a request of one of these may be sent twice with the effect of once.
IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))


class UpstreamRequest:
    """A request as it is sent upstream, all but the Host line that names the target.

    `start` is the request line, `fields` the header block without Host, the framing included; `length` the body's
    length in bytes, None for a chunked body, 0 for none. `limit` is the most bytes a body may have, 0 for no limit.
    `response_timeout` is in seconds or None. `preserved_host` is the caller's Host where the upstream is to see it.
    `hash_key` chooses the target where the upstream balances by a hash; None: the request has none. `handshake` is the
    WebSocket handshake that a 101 must answer; None: no upgrade is asked for.
    """

    limit = 0
    response_timeout: float | None = None
    preserved_host: bytes | None = None
    hash_key: bytes | None = None
    handshake: Handshake | None = None

    def __init__(self, method: bytes, start: bytes, fields: bytes, *, length: int | None) -> None:
        self.method = method
        self.start = start
        self.fields = fields
        self.length = length

    @property
    def is_repeatable(self) -> bool:
        """Whether it can be sent a second time after it was sent whole (RFC 9110 9.2.2). A body is not kept."""
        return self.length == 0 and self.method in IDEMPOTENT

    def forget_head(self) -> None:
        """Drop the head, which has been sent, where the response lasts."""
        self.start = self.fields = b""

    @property
    def field_lines(self) -> list[Field]:
        """The fields as names and values."""
        return [(name, value) for name, _, value in (line.partition(b": ") for line in self.fields.split(b"\r\n")[:-1])]
