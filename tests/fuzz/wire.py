"""The strict grammar of HTTP/1.1 messages (RFC 9112), read slowly and without the gateway's code.

The reference readers of requests and of responses share it. A reader answers in one of three ways: it returns, it
raises `Malformed` because no continuation can mend the bytes, or it raises `Incomplete` because more bytes can.
Section numbers are those of RFC 9112 unless another RFC is named.
"""

from typing import Final, NamedTuple

Field = tuple[bytes, bytes]

DIGITS: Final = frozenset(b"0123456789")
HEX_DIGITS: Final = frozenset(b"0123456789abcdefABCDEF")
LETTERS: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
TOKEN: Final = DIGITS | LETTERS | frozenset(b"!#$%&'*+-.^_`|~")  # RFC 9110 5.6.2
CONTROLS: Final = (frozenset(range(0x20)) | {0x7F}) - {0x09}
_LONGEST_CHUNK_SIZE: Final = 16  # hexadecimal digits that fit in 64 bits


class Malformed(Exception):
    """The bytes break the grammar. `body` is the part of a chunked body in front of the fault."""

    def __init__(self, reason: str, body: bytes = b"") -> None:
        super().__init__(reason)
        self.body = body


class Incomplete(Exception):
    """The bytes end inside the message. `body` is the part of its body that has arrived."""

    def __init__(self, body: bytes = b"") -> None:
        super().__init__()
        self.body = body


class Chunked(NamedTuple):
    """A chunked body: its content, its trailers, and the bytes behind it.

    `extensions` and `trailer_size` count bytes on the wire. `doubtful` marks a body that RFC 9112 allows a recipient
    both to accept and to refuse.
    """

    body: bytes
    trailers: list[Field]
    rest: bytes
    extensions: int
    trailer_size: int
    doubtful: bool


def is_token(text: bytes) -> bool:
    return bool(text) and TOKEN.issuperset(text)


def is_text(text: bytes) -> bool:
    """RFC 9110 5.5: visible characters, spaces, tabs and obs-text."""
    return CONTROLS.isdisjoint(text)


def field_lines(block: bytes) -> list[Field]:
    """The fields of a section (5), each line of which ends with CRLF. Raises Malformed."""
    fields = []
    for line in block.split(b"\r\n")[:-1]:
        name, colon, value = line.partition(b":")
        if not colon or not is_token(name):  # an obsolete fold (5.2) begins with white space, which is no token
            raise Malformed(f"not a field line: {line[:60]!r}")
        if not is_text(value):
            raise Malformed(f"a control character in a field value: {line[:60]!r}")
        fields.append((name, value.strip(b" \t")))
    return fields


def values(fields: list[Field], name: bytes) -> list[bytes]:
    """The values of all lines with this name, which is in lower case."""
    return [value for given, value in fields if given.lower() == name]


def members(fields: list[Field], name: bytes) -> list[bytes]:
    """The members of a list field in lower case (RFC 9110 5.6.1)."""
    listed = b",".join(values(fields, name)).split(b",")
    return [member.strip(b" \t").lower() for member in listed if member.strip(b" \t")]


def chunked_body(data: bytes) -> Chunked:
    """The chunked body at the start of the data (7.1). Raises Malformed and Incomplete."""
    body, extensions, doubtful = b"", 0, False
    while True:
        line, data = _line(data, body)
        size, extension, odd = _chunk_size(line, body)
        extensions += len(extension)
        doubtful = doubtful or odd
        if size == 0:
            break
        if len(data) < size:
            raise Incomplete(body + data)
        body, data = body + data[:size], data[size:]
        if not b"\r\n".startswith(data[:2]):
            raise Malformed("a chunk does not end where its size says", body)
        if len(data) < 2:
            raise Incomplete(body)
        data = data[2:]
    section = b""
    while True:
        line, data = _line(data, body)
        if not line:
            break
        section += line + b"\r\n"
    try:
        trailers = field_lines(section)
    except Malformed as fault:
        raise Malformed(str(fault), body) from None
    return Chunked(body, trailers, data, extensions, len(section), doubtful)


def _line(data: bytes, body: bytes) -> tuple[bytes, bytes]:
    line, end, rest = data.partition(b"\r\n")
    if not end:
        raise Incomplete(body)
    if b"\n" in line or b"\r" in line:
        raise Malformed("a bare CR or LF", body)
    return line, rest


def _chunk_size(line: bytes, body: bytes) -> tuple[int, bytes, bool]:
    """The size, the extensions, and whether a recipient can also refuse the line (7.1, 7.1.1)."""
    digits = line[: len(line) - len(line.lstrip(bytes(HEX_DIGITS)))]
    extension = line[len(digits) :]
    if not digits:
        raise Malformed(f"not a chunk size: {line[:60]!r}", body)
    if not is_text(extension):
        raise Malformed("a control character in a chunk extension", body)
    if extension.strip(b" \t") and not extension.lstrip(b" \t").startswith(b";"):
        raise Malformed(f"not a chunk extension: {extension[:60]!r}", body)
    if len(digits.lstrip(b"0")) > _LONGEST_CHUNK_SIZE:
        raise Malformed("a chunk size beyond 64 bits", body)
    doubtful = len(digits) > _LONGEST_CHUNK_SIZE or not _is_plain_extension(extension)
    return int(digits, 16), extension, doubtful


def _is_plain_extension(text: bytes) -> bool:
    """Whether every recipient must ignore the extensions: `;name`, `;name=token` and `;name="quoted"` without BWS."""
    while text:
        if not text.startswith(b";"):
            return False
        name = _token_at(text[1:])
        text = text[1 + len(name) :]
        if not name:
            return False
        if text.startswith(b'="'):
            end = text.find(b'"', 2)
            if end < 0 or b"\\" in text[2:end]:
                return False
            text = text[end + 1 :]
        elif text.startswith(b"="):
            value = _token_at(text[1:])
            text = text[1 + len(value) :]
            if not value:
                return False
    return True


def _token_at(text: bytes) -> bytes:
    end = 0
    while end < len(text) and text[end] in TOKEN:
        end += 1
    return text[:end]
