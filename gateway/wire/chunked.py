"""Decode the chunked transfer coding (RFC 9112 7.1).

The decoder finds the exact end of the message, so the bytes behind it are the next message and never part of this one.
It accepts only the grammar of the RFC: two parsers that disagree about the end of a body allow request smuggling.
Neither the body nor a fault depends on how the network splits the bytes, and the cost is linear in their number.

    SIZE ── size and extensions ──▶ DATA ──▶ DATA_END ── CRLF ──▶ SIZE
      └── a size of zero ──▶ TRAILERS ── empty line ──▶ done
"""

import re
from typing import Final

_SIZE: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILERS: Final = 3

# A read of 256 KiB can contain 43,000 chunks of one byte. Other connections run in between.
_CHUNKS_AT_ONCE: Final = 200
_MOST_TRAILERS: Final = 1000
_MOST_DIGITS: Final = 16
_LARGEST_CHUNK: Final = (1 << 63) - 1
_PLAIN_LINE: Final = 10  # Bytes of a size line without extension. Padded and gigantic sizes take the slow path.
# A lookup costs half as much as parsing, and only small chunks are frequent.
_SMALL_SIZES: Final = {form % size: size for size in range(1, 256) for form in (b"%x", b"%X")}

_DIGITS: Final = re.compile(rb"[0-9A-Fa-f]+").fullmatch
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_EXTENSION: Final = rb";[ \t]*+%b(?:[ \t]*+=[ \t]*+(?:%b|%b))?+" % (_TOKEN, _TOKEN, _QUOTED)
# White space directly after the size is refused: parsers disagree about it, although RFC 9112 allows it before an
# extension.
_SIZE_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,%d})(%b(?:[ \t]*+%b)*+)?" % (_MOST_DIGITS, _EXTENSION, _EXTENSION)
).fullmatch
_TRAILER_LINE: Final = re.compile(rb"(%b):([\t -~\x80-\xff]*+)" % _TOKEN).fullmatch


class ChunkedFault(ValueError):
    """The bytes are not in the chunked coding. Nothing after them can be read."""


class ChunkedTooLarge(ChunkedFault):
    """The trailers or the chunk extensions exceed their limit."""


class ChunkedDecoder:
    """Decodes one body.

    `max_extension_size` limits the bytes of all chunk extensions together, `max_trailer_size` those of the trailer
    section. `done` is true when the message is complete; `trailers` contains its trailer fields in order, names as
    sent.
    """

    __slots__ = ("_extensions_left", "_left", "_line", "_state", "_trailers_left", "done", "trailers")

    def __init__(self, max_trailer_size: int, max_extension_size: int) -> None:
        self._state = _SIZE
        self._left = 0  # remaining bytes of the current chunk, or of the CRLF behind it
        self._line = bytearray()  # the start of a line whose end has not arrived
        self._extensions_left = max_extension_size
        self._trailers_left = max_trailer_size
        self.done = False
        self.trailers: list[tuple[bytes, bytes]] = []

    def feed(self, data: bytes, pieces: list[bytes]) -> bytes:
        """Decode `data`, append the pieces of the body to `pieces`, and return the unused bytes.

        Once `done`, the unused bytes begin the next message. Before, feed them again in the next iteration of the event
        loop, ahead of newer bytes: one call decodes a bounded number of chunks. If the call raises ChunkedFault or
        ChunkedTooLarge, `pieces` contains the part of the body before the fault.
        """
        at, size = 0, len(data)
        most = len(pieces) + _CHUNKS_AT_ONCE
        while at < size and not self.done and len(pieces) < most:
            if self._state == _SIZE:
                if not self._line:
                    at = _read_plain_chunks(data, at, pieces)
                at = self._read_size_line(data, at)
            elif self._state == _DATA:
                at = self._read_data(data, at, pieces)
            elif self._state == _DATA_END:
                at = self._read_data_end(data, at)
            else:
                at = self._read_trailer_line(data, at)
        return data[at:]

    def _read_size_line(self, data: bytes, at: int) -> int:
        line, at = self._read_line(data, at, _MOST_DIGITS + self._extensions_left)
        if line is None:
            return at
        match = _SIZE_LINE(line)
        if match is None:
            raise ChunkedFault("a malformed chunk size or chunk extension")
        digits = match[1]
        self._extensions_left -= len(line) - len(digits)
        if self._extensions_left < 0:
            raise ChunkedTooLarge("the chunk extensions are too large")
        self._left = int(digits, 16)
        if self._left > _LARGEST_CHUNK:
            raise ChunkedFault("a chunk size beyond 63 bits")
        self._state = _DATA if self._left else _TRAILERS
        return at

    def _read_data(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        end = at + self._left
        if end > len(data):
            end = len(data)
        # A slice of compiled code is a copy, even of the whole.
        pieces.append(data if end - at == len(data) else data[at:end])
        self._left -= end - at
        if not self._left:
            self._state, self._left = _DATA_END, 2
        return end

    def _read_data_end(self, data: bytes, at: int) -> int:
        expected = b"\r\n"[-self._left :]
        found = data[at : at + self._left]
        if not expected.startswith(found):
            raise ChunkedFault("a chunk that is longer than its size")
        self._left -= len(found)
        if not self._left:
            self._state = _SIZE
        return at + len(found)

    def _read_trailer_line(self, data: bytes, at: int) -> int:
        line, at = self._read_line(data, at, self._trailers_left)
        if line is None:
            return at
        if not line:
            self.done = True
            return at
        self._trailers_left -= len(line) + 2
        if self._trailers_left < 0 or len(self.trailers) == _MOST_TRAILERS:
            raise ChunkedTooLarge("the trailers are too large or too many")
        match = _TRAILER_LINE(line)
        if match is None:
            raise ChunkedFault("a malformed trailer")
        self.trailers.append((match[1], match[2].strip(b" \t")))
        return at

    def _read_line(self, data: bytes, at: int, limit: int) -> tuple[bytes | None, int]:
        """The next line without its CRLF, or None if it is incomplete, and the position behind it."""
        end = data.find(b"\n", at)
        kept = self._line
        if end < 0:
            kept += memoryview(data)[at:]
            if len(kept) > limit + 1:  # the last byte can be the CR
                raise ChunkedTooLarge("the trailers or chunk extensions are too large")
            return None, len(data)
        line = data[at : end + 1]
        if kept:
            line = bytes(kept) + line
            kept.clear()
        if len(line) - 2 > limit:
            raise ChunkedTooLarge("the trailers or chunk extensions are too large")
        if line[-2:] != b"\r\n":
            raise ChunkedFault("a line that does not end in CRLF")
        return line[:-2], end + 1


def _read_plain_chunks(data: bytes, at: int, pieces: list[bytes]) -> int:
    """Decode complete chunks without extensions, and return the position behind them."""
    for _ in range(_CHUNKS_AT_ONCE):
        line_end = data.find(b"\r\n", at, at + _PLAIN_LINE)
        if line_end < 0:
            break
        line = data[at:line_end]
        size = _SMALL_SIZES.get(line)
        if size is None:
            if not _DIGITS(line):
                break
            size = int(line, 16)
        start = line_end + 2
        end = start + size
        if not size or data[end : end + 2] != b"\r\n":
            break
        pieces.append(data[start:end])
        at = end + 2
    return at
