"""The head of an upstream's response while it is being read: what goes on, and what it says of the body's framing."""

import re
from typing import Final

from gateway.proxy.exchange import Field, HeadFields
from gateway.wire.fields import KNOWN_SPELLINGS, LONGEST_KNOWN_SPELLING

_KEEP: Final = 0
_DROP: Final = 1
_LENGTH: Final = 2
_CODING: Final = 3
_CONNECTION: Final = 4
_TYPE: Final = 5
_KEEP_ALIVE: Final = 6

_SPECIAL: Final[dict[bytes, int]] = {
    b"connection": _CONNECTION,
    b"keep-alive": _KEEP_ALIVE,
    b"proxy-connection": _DROP,
    b"proxy-authenticate": _DROP,
    b"proxy-authentication-info": _DROP,
    b"te": _DROP,
    b"upgrade": _DROP,
    b"transfer-encoding": _CODING,
    b"content-length": _LENGTH,
    b"content-type": _TYPE,
}
# RFC 9110 6.5.1: framing, routing and authentication have no place behind the body.
_NOT_AS_TRAILER: Final = frozenset(
    (
        *_SPECIAL,
        b"host",
        b"trailer",
        b"set-cookie",
        b"authorization",
        b"content-encoding",
        b"content-range",
        b"cache-control",
    )
)
_PLAIN_CONNECTION: Final = frozenset((b"keep-alive", b"Keep-Alive", b"close", b"Close"))
_CONNECTION_OPTIONS: Final = frozenset((b"close", b"keep-alive"))

_REASON: Final = re.compile(rb"[\t -~\x80-\xff]*")  # RFC 9112 4

# What becomes of a field, by the spelling of its name; 0: it goes on. Whoever asks may skip `add` for those.
SPELLINGS: Final[dict[bytes, int]] = {}


class ResponseFault(ValueError):
    """The response is not one that may be passed on: the reason, for the log."""


class ResponseHead:
    """`length` is the announced Content-Length in bytes, None without one. `keep_alive` is the value of Keep-Alive."""

    reason = b""
    trailers: tuple[Field, ...] = ()
    length: int | None = None
    chunked = False
    event_stream = False
    keep_alive: bytes | None = None
    _coding: bytes | None = None
    _named: bytes | None = None

    def __init__(self) -> None:
        self.fields = HeadFields()

    def add(self, name: bytes, value: bytes) -> None:
        """Take one field in the order it came."""
        action = SPELLINGS.get(name)
        if action is None:
            action = _decide(name)
        if action == _KEEP:
            self.fields.append((name, value))
        elif action != _DROP:
            self._read(action, name, value)

    def add_trailer(self, name: bytes, value: bytes) -> None:
        """Take one trailer field, where it may be one."""
        if name.lower() not in _NOT_AS_TRAILER:
            self.trailers += ((name, value),)

    def check(self, status: int, version: str) -> None:
        """Judge the head as a whole. Raises ResponseFault: the caller is answered 502."""
        if version not in ("1.1", "1.0"):
            raise ResponseFault(f"HTTP/{version}")
        if not 100 <= status <= 599:
            raise ResponseFault(f"status {status}")
        if not _REASON.fullmatch(self.reason):
            raise ResponseFault("a reason phrase with control characters")
        if status < 200 and status != 101 and (self.length or self._coding):
            # RFC 9112 6.3: there is no body, whatever is said; llhttp would take the next response for it.
            raise ResponseFault("an interim response with a body")
        if self._coding is not None:
            self._check_coding(version)
        if self._named is not None and self._named not in _PLAIN_CONNECTION:
            self._drop_named(self._named)

    def check_size(self, limit: int) -> None:
        """Raise ResponseFault for a head over `limit` bytes."""
        if sum(len(name) + len(value) + 4 for name, value in self.fields) > limit:
            raise ResponseFault(f"a head of more than {limit} bytes")

    @property
    def hints(self) -> list[Field]:
        """The fields of an interim response. RFC 9110 8.6: it has no length."""
        return [field for field in self.fields if field[0].lower() != b"content-length"]

    def _check_coding(self, version: str) -> None:
        """RFC 9112 6.1: anything but a plain `chunked` frames the body in a way that somebody will read differently."""
        if self._coding is None or self._coding.strip(b" \t").lower() != b"chunked" or version != "1.1":
            raise ResponseFault("a Transfer-Encoding other than chunked")
        if self.length is not None:
            raise ResponseFault("Content-Length with Transfer-Encoding")
        self.chunked = True

    def _drop_named(self, connection: bytes) -> None:
        named = {option.strip(b" \t").lower() for option in connection.split(b",")} - _CONNECTION_OPTIONS
        if named - {b"", b"content-length"}:
            self.fields = HeadFields(
                field for field in self.fields if field[0].lower() not in named or field[0].lower() == b"content-length"
            )

    def _read(self, action: int, name: bytes, value: bytes) -> None:
        if action == _LENGTH:
            self._read_length(value.strip(b" \t"))
            self.fields.append((name, value))
        elif action == _CODING:
            self._coding = value if self._coding is None else self._coding + b", " + value
        elif action == _TYPE:
            self.fields.append((name, value))
            self.event_stream = value.lstrip(b" \t")[:17].lower() == b"text/event-stream"
        elif action == _KEEP_ALIVE:
            self.keep_alive = value
        else:
            self._named = value if self._named is None else self._named + b"," + value

    def _read_length(self, value: bytes) -> None:
        if self.length is not None or not value.isdigit() or len(value) > 18:
            raise ResponseFault("an odd or repeated Content-Length")
        self.length = int(value)


def _decide(name: bytes) -> int:
    action = _SPECIAL.get(name.lower(), _KEEP)
    if len(name) <= LONGEST_KNOWN_SPELLING:
        if len(SPELLINGS) >= KNOWN_SPELLINGS:
            SPELLINGS.clear()
        SPELLINGS[bytes(name)] = action
    return action
