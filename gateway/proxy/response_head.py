"""Reads the heads of an upstream's response (RFC 9112 4 and 5).

The reader accepts only the grammar of the RFC. A head that two programs can read differently is a way to smuggle a
response, so it is refused instead of repaired.
"""

import contextlib
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, TypeVar

from gateway.proxy.interfaces import Field
from gateway.wire.fields import REMEMBERED_SIZE, list_members
from gateway.wire.head_template import KNOWN_HEADS, HeadTemplate, Names, Values, is_memorable, picker

K = TypeVar("K")
V = TypeVar("V")

_KEEP: Final = 0
_DATE: Final = 1
_DROP: Final = 2
_LENGTH: Final = 3
_TYPE: Final = 4
_CONNECTION: Final = 5
_CODING: Final = 6
_UPGRADE: Final = 7
_KEEP_ALIVE: Final = 8
_ADDRESS: Final = 9
_COOKIE: Final = 10

_NOT_KEPT: Final = frozenset((_DROP, _CONNECTION, _CODING, _UPGRADE, _KEEP_ALIVE))
_NOT_PLAIN: Final = frozenset((_ADDRESS, _COOKIE, _KEEP_ALIVE))
_UNUSUAL: Final = frozenset((_CODING, _UPGRADE, _KEEP_ALIVE))

_SPECIAL: Final[dict[bytes, int]] = {
    b"connection": _CONNECTION,
    b"keep-alive": _KEEP_ALIVE,
    b"proxy-connection": _DROP,
    b"proxy-authenticate": _DROP,
    b"proxy-authentication-info": _DROP,
    b"te": _DROP,
    b"upgrade": _UPGRADE,
    b"transfer-encoding": _CODING,
    b"content-length": _LENGTH,
    b"content-type": _TYPE,
    b"date": _DATE,
    b"location": _ADDRESS,
    b"content-location": _ADDRESS,
    b"refresh": _ADDRESS,
    b"set-cookie": _COOKIE,
    b"clear-site-data": _COOKIE,
}
# RFC 9110 6.5.1: fields for framing, routing and authentication are not allowed as trailers.
_NOT_AS_TRAILER: Final = frozenset(
    (
        *(_SPECIAL.keys() - {b"date"}),
        b"host",
        b"trailer",
        b"authorization",
        b"content-encoding",
        b"content-range",
        b"cache-control",
    )
)
_KEPT_OPEN: Final = (None, b"keep-alive", b"Keep-Alive")
_NOT_NAMED: Final = frozenset((b"close", b"keep-alive", b"content-length"))
# RFC 9112 6.3 and RFC 9110 15.3.6: these have no content, even if their fields announce some.
_WITHOUT_CONTENT: Final = frozenset((204, 205, 304))
_MOST_INTERIMS: Final = 100

_BEGINNING: Final = b"HTTP/1."
_END: Final = b"\r\n\r\n"
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)++")
# RFC 9112 2.2: a lone LF or CR ends no line.
_BARE_LINE_END: Final = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")
# RFC 9112 4
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*+))?")
# RFC 9110 5.6.2: a name is a token. The expression splits a head into its status line, and names and values in turn.
_NAMES: Final = re.compile(rb"\r\n([!#$%&'*+\-.^_`|~0-9A-Za-z]++):")
# RFC 9110 5.5: a value contains no control characters. A line that is no field line stays in the value before it, with
# its CR.
_IN_VALUES: Final = bytes([byte for byte in range(256) if byte == 9 or (byte >= 32 and byte != 127)])

# Upstreams choose status lines and names, so both the number and the size of those that are remembered are bounded.
_MOST_REMEMBERED: Final = 1024
_LONGEST_REMEMBERED: Final = 128
_LONGEST_REASON: Final = 64
# The minor version, the status, the reason, and the line for the client.
STATUS_LINES: Final[dict[bytes, tuple[int, int, bytes, bytes]]] = {}
SHAPES: Final[dict[Names, "ResponseShape"]] = {}
_SENT_STATUS_LINES: Final[dict[tuple[int, bytes], bytes]] = {}


class ResponseFault(ValueError):
    """The response must not be passed on. The reason is for the log."""


class NotHttp(ResponseFault):
    """The bytes are not a response of HTTP/1.1 or HTTP/1.0, so the target is not an HTTP server."""


class ResponseShape:
    """The treatment of all heads with these field names in this order: see `gateway/wire/head_template.py`.

    `length` and `type` are the indexes of Content-Length and Content-Type, `connection` picks the values of Connection;
    None without these fields. `unusual` are the actions and indexes of further fields that the gateway reads. `kept`
    are the fields for the client. `has_addresses` is true for fields that can name the target, `has_cookies` for
    Set-Cookie and Clear-Site-Data, `is_plain` without both and without Keep-Alive.
    """

    __slots__ = (
        "connection",
        "has_addresses",
        "has_cookies",
        "has_date",
        "is_plain",
        "is_remembered",
        "kept",
        "length",
        "type",
        "unusual",
    )

    def __init__(self, names: Names) -> None:
        actions = [_SPECIAL.get(name.lower(), _KEEP) for name in names]
        self.kept = HeadTemplate(names, [index for index, action in enumerate(actions) if action not in _NOT_KEPT])
        self.has_date = _DATE in actions
        self.has_addresses = _ADDRESS in actions
        self.has_cookies = _COOKIE in actions
        self.is_plain = _NOT_PLAIN.isdisjoint(actions)
        self.is_remembered = is_memorable(names)
        last = {action: index for index, action in enumerate(actions)}
        self.length, self.type = last.get(_LENGTH), last.get(_TYPE)
        connections = [index for index, action in enumerate(actions) if action == _CONNECTION]
        self.connection = picker(connections) if connections else None
        self.unusual = [
            (action, index)
            for index, action in enumerate(actions)
            if action in _UNUSUAL or (action == _LENGTH and index != self.length)
        ]


def _shape_of(names: Names) -> ResponseShape:
    shape = ResponseShape(names)
    if shape.is_remembered:
        if len(SHAPES) >= KNOWN_HEADS:
            SHAPES.clear()
        SHAPES[names] = shape
    return shape


class ResponseHead:
    """One head. It does not change after it has been read, so responses with the same head can share it.

    `block` holds its bytes. `fields` are those that are passed on. `serialized` contains the status line and these
    fields, without the empty line. `length` is the value of Content-Length, None where the field is missing or means
    nothing. `has_content` is false where the status alone rules content out, `announces_content` is true where the
    framing promises some. `keeps_alive` tells whether the connection persists after this response (RFC 9112 9.3),
    `keep_alive` is the value of Keep-Alive. `plain_length` is the length of the body in the common case, on a
    persistent connection, with a Date, without Keep-Alive, addresses and cookies, and no event stream; else 0.
    `is_repeatable`: the head is small enough for a connection to keep it, and to compare the next one with it.
    """

    length: int | None = None
    plain_length = 0
    chunked = False
    has_content = True
    event_stream = False
    upgrade: bytes | None = None
    keep_alive: bytes | None = None
    _connection: bytes | None = None

    def __init__(self, block: bytes) -> None:
        self.block = block
        parts = _NAMES.split(block[: -len(_END)])
        first, names, received = parts[0], tuple(parts[1::2]), parts[2::2]
        self.minor, self.status, self.reason, self._status_line = STATUS_LINES.get(first) or _read_status_line(first)
        odd = b"".join(received).translate(None, _IN_VALUES)
        if odd:
            raise ResponseFault(f"a line that is not a field line, with {odd[:40]!r}")
        shape = SHAPES.get(names) or _shape_of(names)
        values = tuple(map(bytes.strip, received))
        self.shape = shape
        self.has_date = shape.has_date
        self.fields = shape.kept.fields(values)
        self.serialized = self._status_line + shape.kept.lines(values)
        self._read(shape, values)
        self.announces_content = self.chunked or bool(self.length)
        if self.status < 200:
            self._check_interim()
        elif self.status in _WITHOUT_CONTENT:
            self._rule_out_content()
        self.keeps_alive = self.minor == 1
        if self._connection not in _KEPT_OPEN or not self.minor:
            self._read_options()
        if self.status == 413:
            self.keeps_alive = False  # RFC 9110 15.5.14: the server can close the connection, announced or not
        self.is_repeatable = shape.is_remembered and len(block) <= REMEMBERED_SIZE and not self.event_stream
        if shape.is_plain and self.has_date and self.keeps_alive and self.has_content and not self.event_stream:
            self.plain_length = self.length or 0

    def dated(self, now: bytes) -> tuple[Sequence[Field], bytes]:
        """Return `fields` and `serialized`, with a Date if there is none (RFC 9110 6.6.1)."""
        if self.has_date:
            return self.fields, self.serialized
        return [*self.fields, (b"Date", now)], b"%bDate: %b\r\n" % (self.serialized, now)

    @property
    def options(self) -> set[bytes]:
        """The options of Connection, in lower case."""
        return set(list_members(self._connection or b""))

    def _read(self, shape: ResponseShape, values: Values) -> None:
        """Read the fields with a meaning for the gateway."""
        if shape.length is not None:
            length = values[shape.length]
            if not length.isdigit() or len(length) > 18:
                raise ResponseFault("an odd Content-Length")
            self.length = int(length)
        if shape.type is not None:
            self.event_stream = values[shape.type][:17].lower() == b"text/event-stream"
        if shape.connection is not None:
            self._connection = b",".join(shape.connection(values))
        for action, index in shape.unusual:
            self._read_unusual(action, values[index])
        if self.chunked:
            self._check_chunked()

    def _read_unusual(self, action: int, value: bytes) -> None:
        if action == _LENGTH:
            raise ResponseFault("a repeated Content-Length")
        if action == _UPGRADE:
            self.upgrade = value if self.upgrade is None else b""  # the gateway asks for one protocol only
        elif action == _KEEP_ALIVE:
            self.keep_alive = value
        elif value.lower() != b"chunked" or self.chunked:
            # Readers understand the framing of other codings differently (RFC 9112 6.1).
            raise ResponseFault("a Transfer-Encoding other than chunked")
        else:
            self.chunked = True

    def _check_chunked(self) -> None:
        if not self.minor:
            raise ResponseFault("Transfer-Encoding in HTTP/1.0")
        if self.length is not None:
            raise ResponseFault("Content-Length with Transfer-Encoding")

    def _check_interim(self) -> None:
        """Refuse an interim response with a body (RFC 9112 6.3). A client that reads the body would take it for the
        final response."""
        if self.announces_content and self.status != 101:
            raise ResponseFault("an interim response with a body")
        self._drop_length()

    def _rule_out_content(self) -> None:
        """Apply RFC 9110 8.6: a 204 has no Content-Length, that of a 205 can only be zero, and that of a 304 is the
        200's."""
        self.has_content = False
        if self.status == 205 and self.length is None:
            self.announces_content = True  # RFC 9112 6.3 lets content follow until the end of the connection
        if self.status != 304:
            self._drop_length()

    def _read_options(self) -> None:
        """Drop the fields that Connection names (RFC 9110 7.6.1), except framing."""
        options = self.options
        self.keeps_alive = b"close" not in options and (self.minor == 1 or b"keep-alive" in options)
        named = options - _NOT_NAMED
        if named:
            self._drop(named)
            self.has_date = self.has_date and b"date" not in named

    def _drop_length(self) -> None:
        if self.length is not None:
            self.length = None
            self._drop({b"content-length"})

    def _drop(self, names: set[bytes]) -> None:
        self.fields = [field for field in self.fields if field[0].lower() not in names]
        self.serialized = self._status_line + b"".join([b"%b: %b\r\n" % field for field in self.fields])


class ResponseHeadReader:
    """Finds the heads at the start of one response: any number of interim heads, then the final one.

    Each head has at most `limit` bytes, and so do all interim heads together. `begun` is true once a byte of the
    response has come. `rest` contains the bytes after the last head.
    """

    __slots__ = ("_buffer", "_interims", "_limit", "_spent", "begun", "rest")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()  # the start of an incomplete head
        self._interims = 0
        self._spent = 0  # bytes of interim heads and of empty lines
        self.begun = False
        self.rest = b""

    def restart(self) -> None:
        """Expect the next response."""
        self.begun = False
        self._interims = self._spent = 0

    def read(self, data: bytes) -> ResponseHead | None:
        """Add the next bytes, and return the next head or None while it is incomplete. Raises ResponseFault."""
        self.begun = True
        end = -1 if self._buffer or data[:1] == b"\r" else data.find(_END)
        if end < 0:
            return self._read_further(data)
        return self._head(data, end + len(_END))

    def _read_further(self, data: bytes) -> ResponseHead | None:
        """Add bytes of a head that comes in several reads, or after empty lines."""
        buffer: bytes | bytearray = data
        searched = 0
        if self._buffer:
            searched = max(0, len(self._buffer) - len(_END) + 1)
            self._buffer += data
            buffer = self._buffer
        if buffer[:1] == b"\r":
            buffer, searched = self._skip_empty_lines(buffer), 0
        end = buffer.find(_END, searched) + len(_END)
        if end < len(_END):
            self._check_unfinished(buffer, searched)
            if buffer is not self._buffer:
                self._buffer = bytearray(buffer)
            return None
        self._buffer = bytearray()
        return self._head(bytes(buffer), end)

    def _head(self, data: bytes, end: int) -> ResponseHead:
        if end > self._limit:
            raise ResponseFault(f"a head of more than {self._limit} bytes")
        head = ResponseHead(data[:end])
        self.rest = data[end:]
        if head.status < 200:
            self._count_interim(end)
        return head

    def _skip_empty_lines(self, buffer: bytes | bytearray) -> bytes | bytearray:
        """Skip the empty lines that some servers send after a body. Before a head they have no meaning."""
        lines = _EMPTY_LINES.match(buffer)
        if lines is None:
            return buffer
        self._spend(lines.end())
        return buffer[lines.end() :]

    def _count_interim(self, size: int) -> None:
        self._interims += 1
        self._spend(size)
        if self._interims > _MOST_INTERIMS:
            raise ResponseFault(f"more than {_MOST_INTERIMS} interim responses")

    def _spend(self, size: int) -> None:
        self._spent += size
        if self._spent > self._limit:
            raise ResponseFault(f"interim responses of more than {self._limit} bytes")

    def _check_unfinished(self, buffer: bytes | bytearray, searched: int) -> None:
        """Refuse bytes that can never become a head at once."""
        if buffer != b"\r" and not buffer.startswith(_BEGINNING[: len(buffer)]):
            raise NotHttp(f"not HTTP/1.1: {bytes(buffer[:40])!r}")
        if len(buffer) > self._limit:
            raise ResponseFault(f"a head of more than {self._limit} bytes")
        if _BARE_LINE_END.search(buffer, searched):
            raise ResponseFault("a line that does not end in CRLF")


def trailers_to_send(trailers: list[Field]) -> list[Field]:
    """Return the trailer fields to pass on."""
    return [field for field in trailers if field[0].lower() not in _NOT_AS_TRAILER]


def status_line(status: int, reason: bytes) -> bytes:
    """Return the line for the client, with the usual phrase if the reason is empty."""
    line = _SENT_STATUS_LINES.get((status, reason))
    if line is None:
        phrase = reason
        if not phrase:
            with contextlib.suppress(ValueError):
                phrase = HTTPStatus(status).phrase.encode()
        line = b"HTTP/1.1 %d %b\r\n" % (status, phrase)
        if len(reason) <= _LONGEST_REASON:
            _remember(_SENT_STATUS_LINES, (status, reason), line)
    return line


def _read_status_line(line: bytes) -> tuple[int, int, bytes, bytes]:
    """Return an entry for STATUS_LINES."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise (ResponseFault if line.startswith(_BEGINNING) else NotHttp)(f"not a status line: {line[:40]!r}")
    status, reason = int(match[2]), match[3] or b""
    read = int(match[1]), status, reason, status_line(status, reason)
    if len(line) <= _LONGEST_REMEMBERED:
        _remember(STATUS_LINES, line, read)
    return read


def _remember(known: dict[K, V], key: K, value: V) -> None:
    if len(known) >= _MOST_REMEMBERED:
        known.clear()
    known[key] = value
