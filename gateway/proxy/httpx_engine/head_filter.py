"""Checks an upstream's response before h11 reads it.

h11 accepts what RFC 9112 lets a client accept, which is more than a gateway may pass on: it joins folded lines, accepts
a bare LF as the end of a line, lets control characters through, merges equal lengths, and skips trailers and the rest
of a chunk size line. It does not report interim responses either. Therefore this module reads heads and chunks by the
rules of the native engine. h11 gets the head in one piece, and chunks without extensions or trailers.
"""

from collections.abc import Callable, Sequence

from gateway.proxy.interfaces import Field
from gateway.proxy.response_head import NotHttp, ResponseFault, ResponseHead, ResponseHeadReader
from gateway.wire.chunked import ChunkedDecoder, ChunkedFault


class HeadFilter:
    """Reads the heads of one response. `head` is the final one, None until it is complete. `limit` is in bytes.
    `pass_on` receives the status and the fields of each interim response except 100. `speaks_http` is false after bytes
    that are not HTTP/1.x."""

    speaks_http = True

    def __init__(self, limit: int, pass_on: Callable[[int, Sequence[Field]], None]) -> None:
        self._limit = limit
        self._pass_on = pass_on
        self._heads = ResponseHeadReader(limit)
        self._chunks: ChunkedDecoder | None = None
        self.head: ResponseHead | None = None

    @property
    def begun(self) -> bool:
        """Whether a byte of the response has come."""
        return self._heads.begun

    def feed(self, data: bytes) -> bytes:
        """Return the bytes behind the final head. Raises ResponseFault for a head that must not be passed on."""
        if self.head is not None:
            return data
        try:
            return self._read(data)
        except NotHttp:
            self.speaks_http = False
            raise

    def _read(self, data: bytes) -> bytes:
        while (head := self._heads.read(data)) is not None:
            data = self._heads.rest
            if head.status >= 200:
                self.head = head
                if head.chunked:
                    self._chunks = ChunkedDecoder(self._limit, self._limit)
                return data
            if head.status == 101:
                raise ResponseFault("a switch of protocols without a request for one")
            if head.status != 100:
                self._pass_on(head.status, head.fields)
            if not data:
                break
        return b""

    def content(self, data: bytes) -> bytes:
        """Return the equivalent bytes of the body for h11. Raises ResponseFault."""
        chunks = self._chunks
        if chunks is None:
            return data
        pieces: list[bytes] = []
        try:
            while data and not chunks.done:
                data = chunks.feed(data, pieces)
        except ChunkedFault as fault:
            raise ResponseFault(str(fault)) from fault
        body = b"".join(pieces)
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return chunk + b"0\r\n\r\n" if chunks.done else chunk
