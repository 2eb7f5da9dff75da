"""The parts of WebSocket (RFC 6455) that a relay needs: handshake fields, frame boundaries, and Close frames.

A relay that unmasked and masked every payload would do most of the work of both ends. This one reads only frame
headers, two to fourteen bytes each, because it can insert its own Close only between two frames.
"""

import base64
import binascii
import hashlib
import secrets
import struct
from collections.abc import Sequence, Set
from typing import Final, NamedTuple

from gateway.wire.fields import Field

GOING_AWAY: Final = 1001
NO_STATUS: Final = 1005  # Never sent: stands for a Close without a code (RFC 6455 7.4.1).
ABNORMAL: Final = 1006  # Never sent: stands for the end of a connection without a Close.
INVALID_TEXT: Final = 1007
POLICY_VIOLATION: Final = 1008
TRY_AGAIN_LATER: Final = 1013
BAD_GATEWAY: Final = 1014  # IANA registry: the gateway received an invalid response from its upstream.

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PROTOCOL: Final = b"sec-websocket-protocol"
_EXTENSIONS: Final = b"sec-websocket-extensions"
_BEARER: Final = b"bearer"
_CLOSE: Final = 8
_FIN: Final = 0x80
_MASKED: Final = 0x80
_OPCODE: Final = 0x0F
_LENGTH: Final = 0x7F
# The length of a frame by the second byte of its header, 0 if that byte is not enough.
_SHORT: Final = tuple(
    (byte & _LENGTH) + (6 if byte & _MASKED else 2) if byte & _LENGTH < 126 else 0 for byte in range(256)
)
_LONGEST_REASON: Final = 123  # In bytes: a control frame has at most 125, two of them for the code.


# ---- the handshake


def valid_key(value: bytes | None) -> bool:
    """RFC 6455 4.2.1: Sec-WebSocket-Key is 16 bytes in base64."""
    try:
        return value is not None and len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def new_key() -> bytes:
    """A key for a new handshake (RFC 6455 4.1)."""
    return base64.b64encode(secrets.token_bytes(16))


def accept_of(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept for a key (RFC 6455 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


class Handshake(NamedTuple):
    """The handshake sent to the upstream: the expected Sec-WebSocket-Accept, and the offers."""

    accept: bytes
    protocols: frozenset[bytes]
    extensions: frozenset[bytes]


def handshake_of(key: bytes, fields: Sequence[Field]) -> Handshake:
    offered = frozenset(offered_protocols(fields).protocols)
    return Handshake(accept_of(key), offered, frozenset(_extension_names(fields)))


def handshake_fault(
    handshake: Handshake, fields: Sequence[Field], *, options: Set[bytes], upgrade: bytes | None
) -> str | None:
    """The reason why a 101 does not match the handshake (RFC 6455 4.1); None if it does.

    `options` are those of Connection in lower case, `upgrade` is the value of Upgrade.
    """
    if upgrade is None or upgrade.lower() != b"websocket" or b"upgrade" not in options:
        return "a 101 without an upgrade to websocket"
    if field_value(fields, b"sec-websocket-accept") != handshake.accept:
        return "a Sec-WebSocket-Accept that does not answer the key"
    protocols = [value for name, value in fields if name.lower() == _PROTOCOL]
    if len(protocols) > 1 or not handshake.protocols.issuperset(protocols):
        return "a subprotocol that was not offered"
    extensions = _extension_names(fields)
    if len(set(extensions)) < len(extensions) or not handshake.extensions.issuperset(extensions):
        return "an extension that was not offered"
    return None


def _extension_names(fields: Sequence[Field]) -> list[bytes]:
    """RFC 6455 9.1: each member of Sec-WebSocket-Extensions is a name with parameters."""
    lines = [value for name, value in fields if name.lower() == _EXTENSIONS]
    names = [member.partition(b";")[0].strip(b" \t").lower() for line in lines for member in line.split(b",")]
    return [name for name in names if name]


def field_value(fields: Sequence[Field], name: bytes) -> bytes | None:
    """The value of the only field of this name, given in lower case; None for a missing or repeated field."""
    values = [value.strip(b" \t") for given, value in fields if given.lower() == name]
    return values[0] if len(values) == 1 else None


class Offer(NamedTuple):
    """The subprotocols offered by a handshake. `protocols` are those for the upstream.

    Browsers cannot set Authorization on a handshake, so a client can offer `bearer, TOKEN` instead: `word` is `bearer`
    as spelled, None if missing, and `tokens` are the members after it.
    """

    protocols: tuple[bytes, ...]
    word: bytes | None
    tokens: tuple[bytes, ...]


def offered_protocols(fields: Sequence[Field]) -> Offer:
    """The offers of all Sec-WebSocket-Protocol lines, which form one list (RFC 6455 11.3.4)."""
    protocols: list[bytes] = []
    tokens: list[bytes] = []
    word, expects_token = None, False
    for member in _members(fields):
        if member.lower() == _BEARER:
            word, expects_token = member, True
        elif expects_token:
            tokens.append(member)
            expects_token = False
        else:
            protocols.append(member)
    return Offer(tuple(protocols), word, tuple(tokens))


def without_credential(fields: Sequence[Field]) -> list[Field]:
    """The fields without `bearer` and its token: neither is a protocol, and the upstream must not receive the token."""
    offer = offered_protocols(fields)
    if offer.word is None:
        return list(fields)
    others = [field for field in fields if field[0].lower() != _PROTOCOL]
    return [*others, (b"Sec-WebSocket-Protocol", b", ".join(offer.protocols))] if offer.protocols else others


def handshake_answer(answer: Sequence[Field], request: Sequence[Field]) -> list[Field]:
    """The fields of the response to the client's handshake: the upstream's fields, and `bearer` if the client offered
    it and the upstream chose no protocol. Browsers reject a response without one of the offered protocols."""
    fields = [field for field in answer if field[0].lower() != b"content-length"]  # RFC 9110 8.6: not in a 1xx
    word = offered_protocols(request).word
    if word is not None and field_value(answer, _PROTOCOL) is None:
        fields.append((b"Sec-WebSocket-Protocol", word))
    return fields


def _members(fields: Sequence[Field]) -> list[bytes]:
    lines = [value for name, value in fields if name.lower() == _PROTOCOL]
    return [member for line in lines for part in line.split(b",") if (member := part.strip(b" \t"))]


# ---- frames


class FrameCounter:
    """Tracks frame boundaries in a stream without decoding payloads. `closing` is true after a Close frame."""

    __slots__ = ("_head", "_left", "closing")

    def __init__(self) -> None:
        self._left = 0  # remaining bytes of the current frame
        self._head = b""  # an incomplete frame header
        self.closing = False

    @property
    def between(self) -> bool:
        """Whether the last byte ended a frame, so that another frame can be inserted here."""
        return not self._left and not self._head

    def feed(self, data: bytes) -> None:
        """Process bytes that were relayed."""
        size = len(data)
        left = self._left
        if self._head:
            self._scan(self._head + data, 0)
        elif left >= size:
            self._left = left - size
        elif not left and size > 1 and size == _SHORT[data[1]] and data[0] & _OPCODE != _CLOSE:
            return  # one short frame, the most frequent case
        else:
            self._scan(data, left)

    def rest(self, data: bytes) -> int | None:
        """The number of these bytes, which come next, that belong to the current frame; None if it does not end among
        them."""
        left = self._left
        if self._head:
            length = _frame_length(self._head + data, 0)
            if length is None:
                return None
            left = length - len(self._head)
        return left if left <= len(data) else None

    def _scan(self, data: bytes, position: int) -> None:
        size = len(data)
        self._head = b""
        while position < size:
            second = data[position + 1] if position + 1 < size else _LENGTH  # the longest form of header
            length = _SHORT[second]
            if not length:
                if second & _LENGTH == 126 and position + 3 < size:
                    length = (data[position + 2] << 8 | data[position + 3]) + (8 if second & _MASKED else 4)
                else:
                    found = _frame_length(data, position)
                    if found is None:
                        self._head, self._left = data[position:], 0
                        return
                    length = found
            if data[position] & _OPCODE == _CLOSE:
                self.closing = True
            position += length
        self._left = position - size


def _frame_length(data: bytes, at: int) -> int | None:
    """The length of the frame whose header begins at `at` (RFC 6455 5.2); None for an incomplete header."""
    if at + 2 > len(data):
        return None
    second = data[at + 1]
    length, head = second & _LENGTH, 6 if second & _MASKED else 2
    if length == 126:
        if at + 4 > len(data):
            return None
        return (data[at + 2] << 8 | data[at + 3]) + head + 2
    if length == 127:
        if at + 10 > len(data):
            return None
        return int.from_bytes(data[at + 2 : at + 10], "big") + head + 8
    return length + head


def close_frame(code: int, reason: str, *, masked: bool) -> bytes:
    """A Close frame (RFC 6455 5.5.1). `reason` is truncated to fit. Frames to a server are masked."""
    text = reason.encode()[:_LONGEST_REASON].decode(errors="ignore")
    payload = struct.pack("!H", code) + text.encode()
    if not masked:
        return bytes((_FIN | _CLOSE, len(payload))) + payload
    mask = secrets.token_bytes(4)
    hidden = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes((_FIN | _CLOSE, len(payload) | _MASKED)) + mask + hidden
