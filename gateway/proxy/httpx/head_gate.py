"""What stands between the socket and h11 until the head of the response has come.

h11 reads what RFC 9112 lets a client read, which is more than a gateway may pass on: it joins folded lines, takes a
bare LF for the end of one, lets control characters through, merges equal lengths. And it keeps interim responses to
itself. So the head is judged here, by the same rules as the native engine's, and given to h11 in one piece when it is
good; what both then read is the same.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

from gateway.proxy.exchange import Field
from gateway.proxy.response_head import ResponseFault, ResponseHead

_BEGINNING: Final = b"HTTP/"
_STATUS_LINE: Final = re.compile(rb"HTTP/([0-9]\.[0-9]) ([0-9]{3})(?: (.*))?", re.DOTALL)
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2: a token
_VALUE: Final = re.compile(rb"[\t -~\x80-\xff]*")  # RFC 9110 5.5: no control characters
# RFC 9112 2.2: a lone LF ends no line of ours, a lone CR never did.
_BARE_LINE_END: Final = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")
_END: Final = b"\r\n\r\n"


class HeadGate:
    """`head` and `status` are those of the final response once it has come, `seen` the bytes that came until then.
    `hint` is told of each 103. `limit` is in bytes. `speaks_http` is false after bytes that are not HTTP/1.x."""

    speaks_http = True

    def __init__(self, limit: int, hint: Callable[[Sequence[Field]], None]) -> None:
        self._limit = limit
        self._hint = hint
        self._buffer = bytearray()
        self.head: ResponseHead | None = None
        self.status = 0
        self.seen = 0

    def feed(self, data: bytes) -> tuple[bytes, ...]:
        """What of these bytes is for h11: nothing until the final head is whole, then that, and all that follows it.

        Raises ResponseFault for a head that may not be passed on.
        """
        if self.head is not None:
            return (data,)
        self.seen += len(data)
        known = max(0, len(self._buffer) - len(_END))
        self._buffer += data
        self._skip_empty_lines()
        while (end := self._buffer.find(_END, known)) >= 0:
            size, known = end + len(_END), 0
            block = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._take(block)
            if self.head is not None:
                return (block, bytes(self._buffer)) if self._buffer else (block,)
            self._skip_empty_lines()
        self._check_unfinished(known)
        return ()

    def _skip_empty_lines(self) -> None:
        """Some servers end a body by an empty line too many; before a head it means nothing."""
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]

    def _check_unfinished(self, known: int) -> None:
        """What can never become a head is no reason to wait for more."""
        buffer = self._buffer
        if len(buffer) > self._limit:
            raise ResponseFault(f"a head of more than {self._limit} bytes")
        if buffer == b"\r":
            return
        self.speaks_http = buffer.startswith(_BEGINNING[: len(buffer)])
        if not self.speaks_http or _BARE_LINE_END.search(buffer, known):
            raise ResponseFault("not a response of HTTP/1.1")

    def _take(self, block: bytes) -> None:
        """One whole head."""
        first, *lines = block[: -len(_END)].split(b"\r\n")
        parsed = _STATUS_LINE.fullmatch(first)
        if parsed is None:
            self.speaks_http = False
            raise ResponseFault("not a status line")
        head, status = ResponseHead(), int(parsed[2])
        head.reason = parsed[3] or b""
        for line in lines:
            head.add(*_field(line))
        head.check(status, parsed[1].decode("ascii"))
        if len(block) > self._limit:
            head.check_size(self._limit)
        if status >= 200:
            self.head, self.status = head, status
        elif status == 103:
            self._hint(head.hints)
        elif status == 101:
            raise ResponseFault("a switch of protocols that was not asked for")


def _field(line: bytes) -> Field:
    name, colon, value = line.partition(b":")
    if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ResponseFault("not a field line")
    return name, value.strip(b" \t")
