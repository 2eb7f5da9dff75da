"""What of WebSocket (RFC 6455) a relay must know: the handshake's fields, where frames end, and how to say goodbye.

A relay that unmasked and masked every payload would do most of the work of both ends. This one reads the headers of
frames as they pass, two to fourteen bytes each, because a Close of its own may only stand between two frames.
"""

import base64
import binascii
import hashlib
import itertools
import re
import secrets
import struct
from collections.abc import Sequence
from typing import Final

from gateway.wire.fields import Field

POLICY_VIOLATION: Final = 1008
GOING_AWAY: Final = 1001
TRY_AGAIN_LATER: Final = 1013

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PROTOCOL: Final = b"sec-websocket-protocol"
_BEARER: Final = b"bearer"
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_CLOSE: Final = 0x88  # FIN and opcode 8
_MASKED: Final = 0x80


def valid_key(value: bytes | None) -> bool:
    """RFC 6455 4.2.1: Sec-WebSocket-Key is 16 bytes in base64."""
    try:
        return value is not None and len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def accept_of(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept that answers a key (RFC 6455 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def field_value(fields: Sequence[Field], name: bytes) -> bytes | None:
    """The value of the only field of this name, in lower case; None where there is none or there are several."""
    values = [value.strip(b" \t") for given, value in fields if given.lower() == name]
    return values[0] if len(values) == 1 else None


def offered_protocols(fields: Sequence[Field]) -> list[bytes]:
    """The subprotocols a caller offers, in order, over all lines of the field."""
    lines = [value for name, value in fields if name.lower() == _PROTOCOL]
    return [member for line in lines for part in line.split(b",") if (member := part.strip(b" \t"))]


def credential_in_protocols(offered: Sequence[bytes]) -> bytes | None:
    """The token in `bearer, TOKEN`: the one way for a browser, which cannot set Authorization on a handshake."""
    for word, following in itertools.pairwise(offered):
        if word.lower() == _BEARER:
            return following
    return None


def without_credential(fields: Sequence[Field]) -> list[Field]:
    """The fields without `bearer` and its token: neither is a protocol, and the upstream must not get the token."""
    offered = offered_protocols(fields)
    token = credential_in_protocols(offered)
    if token is None:
        return list(fields)
    at = next(index for index, word in enumerate(offered) if word.lower() == _BEARER)
    rest = [*offered[:at], *offered[at + 2 :]]
    others = [field for field in fields if field[0].lower() != _PROTOCOL]
    return [*others, (b"Sec-WebSocket-Protocol", b", ".join(rest))] if rest else others


class FrameCounter:
    """Follows a stream of frames without looking into them. `between` is whether the last byte ended a frame."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._left = 0  # bytes of the current frame that are still to come
        self._head = b""  # a frame header that has not come whole

    @property
    def between(self) -> bool:
        """Whether a frame of our own could stand here."""
        return not self._left and not self._head

    def feed(self, data: bytes) -> None:
        """Take what has passed."""
        if self._left >= len(data) and not self._head:
            self._left -= len(data)
            return
        self._scan(data, stop_at_end=False)

    def first_end(self, data: bytes) -> int | None:
        """The offset in `data` at which the frame that is under way ends; None where it does not. Nothing is taken."""
        if self.between:
            return 0
        probe = FrameCounter()
        probe._left, probe._head = self._left, self._head
        return probe._scan(data, stop_at_end=True)

    def _scan(self, data: bytes, *, stop_at_end: bool) -> int | None:
        before = len(self._head)
        data = self._head + data
        self._head = b""
        position, size = self._left, len(data)
        if stop_at_end and 0 < position <= size and not before:
            return position
        while position < size:
            length = _frame_length(data, position)
            if length is None:
                self._head, self._left = data[position:], 0
                return None
            position += length
            if stop_at_end and position <= size:
                return position - before
        self._left = position - size
        return None


def _frame_length(data: bytes, at: int) -> int | None:
    """The length of the frame whose header begins there (RFC 6455 5.2); None while the header is not whole."""
    if at + 2 > len(data):
        return None
    second = data[at + 1]
    length, head = second & 0x7F, 6 if second & _MASKED else 2
    if length == 126:
        if at + 4 > len(data):
            return None
        return int.from_bytes(data[at + 2 : at + 4], "big") + head + 2
    if length == 127:
        if at + 10 > len(data):
            return None
        return int.from_bytes(data[at + 2 : at + 10], "big") + head + 8
    return length + head


def close_frame(code: int, reason: str, *, masked: bool) -> bytes:
    """A Close frame (RFC 6455 5.5.1). `reason` is cut to the 123 bytes it may have. Towards a server it is masked."""
    payload = struct.pack("!H", code) + reason.encode()[:123]
    if not masked:
        return bytes((_CLOSE, len(payload))) + payload
    mask = secrets.token_bytes(4)
    hidden = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes((_CLOSE, len(payload) | _MASKED)) + mask + hidden
