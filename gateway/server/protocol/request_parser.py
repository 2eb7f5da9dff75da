"""Reads request heads, one at a time, over llhttp. Bodies do not pass through it, nor do heads of the usual kind.

llhttp refuses by itself: Content-Length with Transfer-Encoding, repeated or odd lengths, bare LF or CR, obsolete folds,
NUL, a space before the colon. This module refuses the rest: HTTP/2.0 and 0.9, codings other than a plain `chunked`,
Transfer-Encoding in HTTP/1.0, and CONNECT.
"""

import re
from typing import Final

import httptools

from gateway.errors import Refusal
from gateway.gate.admission import RequestHead
from gateway.wire.fields import NO_SHAPE, REMEMBERED_FIELDS, REMEMBERED_SIZE, Field, FieldRules, list_members, stripped
from gateway.wire.head_template import Values

_END: Final = b"\r\n\r\n"
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+").match
# One field of four bytes on the wire takes two hundred bytes of memory, so the number of fields is bounded too.
_MOST_FIELDS: Final = 1000
# A method as far as it has arrived. llhttp fails at the first character that continues none of its methods.
_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?: |\Z)").match
# RFC 9112 3: one space between the parts, nothing before them. llhttp also reads HTTP/0.9, HTTP/2.0, RTSP and ICE,
# several spaces, and a bare CR or LF before the method.
_REQUEST_LINE: Final = re.compile(rb"[^\x00-\x20]+ [^\x00-\x20]+ HTTP/1\.([01])(?=\r\n)").match
# The field names between the values of a head that llhttp has accepted, in which each line has a name and a colon.
_NAMES: Final = re.compile(rb"\r\n([^:]++):").split
# A request line that all readers understand alike. llhttp reads all others.
_CLEAN_LINE: Final = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[A-Za-z0-9/_.~!$&'()*+,;=:@%?-]*) HTTP/1\.1"
)
# RFC 9110 5.5: a value contains no control characters but tabs.
_WITHOUT_CONTROLS: Final = bytes([byte if byte == 9 or 32 <= byte != 127 else 0xFF for byte in range(256)])
_KEEP_ALIVE: Final = (b"keep-alive", b"Keep-Alive")


class RequestHeadReader:
    """The head that is being read, and then the last complete head.

    API clients send the same header block repeatedly on a connection, and only the request line changes. A block
    identical to the last one is not parsed again (`repeated`). llhttp takes a third of the time of a head, so it does
    not read those of common names that one expression and one look at their bytes prove to be well-formed.

    `begun`: part of an incomplete head has arrived. `block` is the last header block, empty where the next head must be
    parsed. `shape` has the names of its fields, which the next head on the connection usually has too. `values` are
    their values.
    """

    __slots__ = (
        "_max_repeated",
        "_max_size",
        "_parser",
        "_reading",
        "_received",
        "_rules",
        "_upgraded",
        "begun",
        "block",
        "keep_alive",
        "method",
        "minor",
        "repeated",
        "shape",
        "target",
        "values",
    )

    def __init__(self, max_size: int, rules: FieldRules) -> None:
        self._rules = rules
        self._max_size = max_size
        self._max_repeated = min(max_size, 2 * REMEMBERED_SIZE)
        self._parser: httptools.HttpRequestParser | None = None
        self._received = bytearray()  # the start of an incomplete head
        self.begun = self.repeated = self.keep_alive = self._reading = self._upgraded = False
        self.minor = 1
        self.method = self.target = self.block = b""
        self.shape = NO_SHAPE
        self.values: Values = ()

    def close(self) -> None:
        """Drop the parser, which refers back to this object."""
        self._parser = None
        self.begun = False
        self._received.clear()

    def forget(self) -> None:
        """Drop the last head, but not the names that all connections share."""
        self.target = self.block = b""
        self.values = ()
        if not self.shape.is_remembered:
            self.shape = NO_SHAPE

    @property
    def fields(self) -> list[Field]:
        """The fields of the last head."""
        return list(zip(self.shape.names, self.values, strict=True))

    def feed(self, data: bytes) -> tuple[bool, bytes]:
        """Add bytes of a head. Return whether it is complete, and the bytes after it.

        Raises Refusal `bad_request`, `headers_too_large` or `method_not_implemented`, after which the connection cannot
        continue.
        """
        if self.begun:
            return self._feed_rest(data)
        if self._is_repeated(data) or self._is_usual(data):
            return True, b""
        if data[:1] == b"\r":  # RFC 9112 2.2: ignore an empty line before a request line
            empty = _EMPTY_LINES(data)
            data = data if empty is None else data[empty.end() :]
            if data in (b"", b"\r"):  # the CR can be the start of another empty line
                return False, data
        self.begun = self._reading = True
        self.repeated = self._upgraded = False
        self.method = self.target = self.block = b""
        size = data.find(_END) + len(_END)
        if size < len(_END):
            return self._feed_rest(data)
        head, rest = (data, b"") if size == len(data) else (data[:size], data[size:])
        self._parse(head, head)
        self._complete(head)
        if self.minor and self.keep_alive and size <= REMEMBERED_SIZE and len(self.values) <= REMEMBERED_FIELDS:
            self.block = head[head.index(b"\r\n") :]
        return True, rest

    def _feed_rest(self, data: bytes) -> tuple[bool, bytes]:
        """Add bytes of a head that comes in several reads. Its end can have begun in an earlier one."""
        received = self._received
        searched = max(0, len(received) - len(_END) + 1)
        received += data
        size = received.find(_END, searched) + len(_END)
        if size < len(_END):
            self._parse(data, received)
            return False, b""
        unused = len(received) - size
        del received[size:]
        self._parse(data[: len(data) - unused], received)
        self._complete(bytes(received))
        received.clear()
        return True, data[len(data) - unused :]

    def _is_repeated(self, data: bytes) -> bool:
        """Return whether the head has the last header block, and parse its request line. All other values stay, because
        a block is kept only if a further head is all that can follow it."""
        block = self.block
        size = len(data)
        at = size - len(block)
        if not block or at <= 0 or size > self._max_repeated or data[at:] != block:
            return False
        line = _CLEAN_LINE.fullmatch(data, 0, at)
        if line is None:
            return False
        self.method, self.target = line.groups()
        self.repeated = True
        return True

    def _is_usual(self, data: bytes) -> bool:
        """Return whether the head has the common names of the last one, and nothing that only llhttp can read. If so,
        read it."""
        shape = self.shape
        if not shape.needs_no_parser or len(data) > self._max_size:
            return False
        line = _CLEAN_LINE.match(data)
        if line is None:
            return False
        at = line.end()
        values = shape.values(data, at)
        if values is None:
            return False
        content = b"".join(values)
        if content.translate(_WITHOUT_CONTROLS) != content:
            return False
        if shape.connection is not None and values[shape.connection] not in _KEEP_ALIVE:
            return False
        self.method, self.target = line.groups()
        self.values, self.minor, self.keep_alive = values, 1, True
        self.repeated = self._upgraded = False
        self.block = data[at:] if len(data) <= REMEMBERED_SIZE else b""
        return True

    def _parse(self, data: bytes, received: bytes | bytearray) -> None:
        """Pass bytes to llhttp. `received` contains all of the head so far."""
        if len(received) > self._max_size:
            raise Refusal("headers_too_large", f"more than {self._max_size} bytes")
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgraded = True
        except httptools.HttpParserInvalidMethodError:
            code = "method_not_implemented" if _METHOD(received) else "bad_request"
            raise Refusal(code, "not a method that is known") from None
        except httptools.HttpParserError as error:
            cause = error.__context__
            raise cause if isinstance(cause, Refusal) else Refusal("bad_request", str(error)) from None

    def _complete(self, head: bytes) -> None:
        """Read a complete head that llhttp has accepted."""
        line = _REQUEST_LINE(head)
        if self._reading or line is None:
            raise Refusal("bad_request", "the head ended too early, or its request line is not that of HTTP/1.x")
        self.minor = 1 if line[1] == b"1" else 0
        at = line.end()
        values = self.shape.values(head, at)
        self.values = self._split(head[at:-4]) if values is None else values
        self.begun = False

    def _split(self, lines: bytes) -> Values:
        """Read the fields of a head with other names than the last one."""
        parts = _NAMES(lines)
        names = tuple(parts[1::2])
        if len(names) > _MOST_FIELDS:
            raise Refusal("headers_too_large", f"more than {_MOST_FIELDS} fields")
        self.shape = self._rules.shape(names)
        self._rules.count_head(self.shape)
        return stripped(parts[2::2])

    # ---- callbacks of llhttp

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        self._reading = False
        self.method = parser.get_method()
        self.keep_alive = parser.should_keep_alive()

    # ---- the body

    def framing(self, request: RequestHead) -> int | None:
        """The length of the body in bytes. None: chunked (RFC 9112 6.3). Raises Refusal."""
        fields = request.fields
        coding, length = fields.transfer_encoding, fields.content_length
        if coding is None and length is None:
            if self._upgraded:
                self._parser, self.block = None, b""
            return 0
        # The parser waits for a body that does not pass through it.
        self._parser, self.block = None, b""
        if coding is not None:
            if coding.lower() != b"chunked" or length is not None or request.minor == 0:
                raise Refusal("bad_request", "a Transfer-Encoding other than a plain chunked in HTTP/1.1")
            return None
        if length is None or not length.isdigit() or len(length) > 18:
            raise Refusal("bad_request", "an odd Content-Length")
        return int(length)


def asks_for_websocket(request: RequestHead) -> bool:
    """RFC 6455 4.2.1: a GET in HTTP/1.1 that names `websocket` in Upgrade, and Upgrade in Connection."""
    fields = request.fields
    if fields.upgrade is None or fields.connection is None or request.method != b"GET" or not request.minor:
        return False
    return b"websocket" in list_members(fields.upgrade) and b"upgrade" in list_members(fields.connection)


def stays_open(request: RequestHead) -> bool:
    """Whether an HTTP/1.0 client asks for a persistent connection (RFC 9112 9.3). `close` wins over `keep-alive`."""
    options = list_members(request.fields.connection or b"")
    return b"keep-alive" in options and b"close" not in options
