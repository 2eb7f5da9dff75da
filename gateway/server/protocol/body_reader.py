"""The request body of a client connection. Requests without a body do not create a reader."""

from gateway.errors import Refusal
from gateway.proxy.slow_peers import UploadRate
from gateway.settings.model import ServerSettings
from gateway.wire.chunked import ChunkedDecoder, ChunkedFault, ChunkedTooLarge


class BodyReader:
    """Finds the end of one body, and measures its rate.

    remaining: the bytes that are still to come of a body with a length; 0 for a chunked body.
    wants_continue: whether the client waits for 100 Continue before it sends the body.
    held_back: whether the gateway does not read the body, because the upstream is slow.
    """

    __slots__ = ("_decoder", "_rate", "held_back", "remaining", "wants_continue")

    def __init__(self, length: int | None, *, max_trailer_size: int, wants_continue: bool = False) -> None:
        self.remaining = length or 0
        self.wants_continue = wants_continue
        self.held_back = False
        self._decoder = ChunkedDecoder(max_trailer_size, max_trailer_size) if length is None else None
        self._rate: UploadRate | None = None

    @property
    def length(self) -> int | None:
        """The bytes of a body that has not begun. None: chunked."""
        return self.remaining if self._decoder is None else None

    @property
    def is_chunked(self) -> bool:
        return self._decoder is not None

    @property
    def is_complete(self) -> bool:
        return not self.remaining if self._decoder is None else self._decoder.done

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Split received bytes into content and the unread rest.

        The rest is the next request if the body is complete, else a part of the body for a later turn of the loop.
        Raises Refusal `bad_request` or `headers_too_large`.
        """
        if self._decoder is not None:
            return self._feed_chunks(self._decoder, data)
        remaining = self.remaining
        if len(data) <= remaining:
            self.remaining = remaining - len(data)
            return data, b""
        self.remaining = 0
        return data[:remaining], data[remaining:]

    def _feed_chunks(self, decoder: ChunkedDecoder, data: bytes) -> tuple[bytes, bytes]:
        pieces: list[bytes] = []
        try:
            rest = decoder.feed(data, pieces)
        except ChunkedFault as fault:
            code = "headers_too_large" if isinstance(fault, ChunkedTooLarge) else "bad_request"
            raise Refusal(code, str(fault)) from None
        # One write for all pieces of a read: a thousand chunks of one byte would be a thousand writes.
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), rest

    def is_too_slow(self, now: float, received: int, server: ServerSettings) -> bool:
        """Whether the client sends less than `server.min_body_rate`. `received` counts the content so far."""
        if not server.min_body_rate:
            return False
        if self._rate is None:
            self._rate = UploadRate(server.min_body_rate, server.body_timeout, now)
        return self._rate.too_slow(now, received, held_back=self.held_back)
