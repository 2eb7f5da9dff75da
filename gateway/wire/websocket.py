"""What of WebSocket (RFC 6455) a relay must know: the handshake's fields, where frames end, and how to say goodbye.

A relay that unmasked and masked every payload would do most of the work of both ends. This one reads the headers of
frames as they pass, two to fourteen bytes each, because a Close of its own may only stand between two frames.
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
NO_STATUS: Final = 1005  # never sent: stands for a Close without a code (RFC 6455 7.4.1)
ABNORMAL: Final = 1006  # never sent: stands for the end of a connection without a Close
INVALID_TEXT: Final = 1007
POLICY_VIOLATION: Final = 1008
TRY_AGAIN_LATER: Final = 1013
BAD_GATEWAY: Final = 1014  # IANA's registry: what a gateway says when its upstream speaks nonsense

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PROTOCOL: Final = b"sec-websocket-protocol"
_EXTENSIONS: Final = b"sec-websocket-extensions"
_BEARER: Final = b"bearer"
_CLOSE: Final = 8
_FIN: Final = 0x80
_MASKED: Final = 0x80
_OPCODE: Final = 0x0F
_LENGTH: Final = 0x7F
# The length of a frame by the second byte of its header, where that byte tells it; else 0.
_SHORT: Final = tuple(
    (byte & _LENGTH) + (6 if byte & _MASKED else 2) if byte & _LENGTH < 126 else 0 for byte in range(256)
)
_LONGEST_REASON: Final = 123  # bytes: a control frame holds 125, and the code takes two


# ---- the handshake


def valid_key(value: bytes | None) -> bool:
    """RFC 6455 4.2.1: Sec-WebSocket-Key is 16 bytes in base64."""
    try:
        return value is not None and len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def new_key() -> bytes:
    """A key for a handshake of our own (RFC 6455 4.1)."""
    return base64.b64encode(secrets.token_bytes(16))


def accept_of(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept that answers a key (RFC 6455 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


class Handshake(NamedTuple):
    """A handshake as the upstream gets it: the Sec-WebSocket-Accept that answers its key, and what it offers."""

    accept: bytes
    protocols: frozenset[bytes]
    extensions: frozenset[bytes]


def handshake_of(key: bytes, fields: Sequence[Field]) -> Handshake:
    """The handshake with these fields."""
    offered = frozenset(offered_protocols(fields).protocols)
    return Handshake(accept_of(key), offered, frozenset(_extension_names(fields)))


def handshake_fault(
    handshake: Handshake, fields: Sequence[Field], *, options: Set[bytes], upgrade: bytes | None
) -> str | None:
    """The reason why a 101 does not answer the handshake (RFC 6455 4.1), None for a good one.

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
    """The value of the only field of this name, in lower case; None where there is none or there are several."""
    values = [value.strip(b" \t") for given, value in fields if given.lower() == name]
    return values[0] if len(values) == 1 else None


class Offer(NamedTuple):
    """The subprotocols that a handshake offers. `protocols` are those that are meant for the upstream.

    A browser cannot set Authorization on a handshake, so a caller may offer `bearer, TOKEN` instead: `word` is `bearer`
    as it was spelled, None where it was not offered, and `tokens` what followed it.
    """

    protocols: tuple[bytes, ...]
    word: bytes | None
    tokens: tuple[bytes, ...]


def offered_protocols(fields: Sequence[Field]) -> Offer:
    """What is offered over all lines of Sec-WebSocket-Protocol, which are one list (RFC 6455 11.3.4)."""
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
    """The fields without `bearer` and its token: neither is a protocol, and the upstream must not get the token."""
    offer = offered_protocols(fields)
    if offer.word is None:
        return list(fields)
    others = [field for field in fields if field[0].lower() != _PROTOCOL]
    return [*others, (b"Sec-WebSocket-Protocol", b", ".join(offer.protocols))] if offer.protocols else others


def handshake_answer(answer: Sequence[Field], request: Sequence[Field]) -> list[Field]:
    """The fields with which the caller's handshake is answered: the upstream's, and `bearer` where the caller offered
    that and the upstream chose nothing. A browser gives up on a server that chooses none of its words."""
    fields = [field for field in answer if field[0].lower() != b"content-length"]  # RFC 9110 8.6: none in a 1xx
    word = offered_protocols(request).word
    if word is not None and field_value(answer, _PROTOCOL) is None:
        fields.append((b"Sec-WebSocket-Protocol", word))
    return fields


def _members(fields: Sequence[Field]) -> list[bytes]:
    lines = [value for name, value in fields if name.lower() == _PROTOCOL]
    return [member for line in lines for part in line.split(b",") if (member := part.strip(b" \t"))]


# ---- frames


class FrameCounter:
    """Follows a stream of frames without looking into them. `closing`: a Close has been among them."""

    __slots__ = ("_head", "_left", "closing")

    def __init__(self) -> None:
        self._left = 0  # bytes of the current frame that are still to come
        self._head = b""  # a frame header that has not come whole
        self.closing = False

    @property
    def between(self) -> bool:
        """Whether the last byte ended a frame: another frame could stand here."""
        return not self._left and not self._head

    def feed(self, data: bytes) -> None:
        """Take what has passed."""
        size = len(data)
        left = self._left
        if self._head:
            self._scan(self._head + data, 0)
        elif left >= size:
            self._left = left - size
        elif not left and size > 1 and size == _SHORT[data[1]] and data[0] & _OPCODE != _CLOSE:
            return  # one short frame, as most reads are
        else:
            self._scan(data, left)

    def rest(self, data: bytes) -> int | None:
        """How many of these bytes, which come next, belong to the frame that is under way; None where it does not end
        among them."""
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
            second = data[position + 1] if position + 1 < size else _LENGTH  # the kind that needs most
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
    """The length of the frame whose header begins there (RFC 6455 5.2); None while the header is not whole."""
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
    """A Close frame (RFC 6455 5.5.1). `reason` is cut to what fits. Towards a server it is masked."""
    text = reason.encode()[:_LONGEST_REASON].decode(errors="ignore")
    payload = struct.pack("!H", code) + text.encode()
    if not masked:
        return bytes((_FIN | _CLOSE, len(payload))) + payload
    mask = secrets.token_bytes(4)
    hidden = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes((_FIN | _CLOSE, len(payload) | _MASKED)) + mask + hidden
