"""Faults below the level of a grammar: mutated bytes, and streams cut into pieces."""

from collections.abc import Iterator
from random import Random
from typing import Final

# Short texts that HTTP parsers treat specially.
_TEXTS: Final = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"=",
    b'"',
    b"0",
    b"1",
    b"+",
    b"-",
    b"0x",
    b"_",
    b"#",
    b"?",
    b"%",
    b"%2e",
    b"%2F",
    b"%00",
    b"..",
    b"//",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"chunked",
    b"Host: other.test\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Expect: 100-continue\r\n",
    b" folded\r\n",
)


def mutated(random: Random, data: bytes) -> bytes:
    """The data with one to three faults."""
    for _ in range(random.choice((1, 1, 2, 3))):
        data = random.choice(_MUTATIONS)(random, data)
    return data


def _replace(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + bytes((random.randrange(256),)) + data[at + 1 :]


def _flip(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + bytes(octet ^ 1 << random.randrange(8) for octet in data[at : at + 1]) + data[at + 1 :]


def _insert(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(_TEXTS) + data[at:]


def _insert_at_line(random: Random, data: bytes) -> bytes:
    ends = [at for at in range(len(data)) if data[at : at + 1] == b"\n"]
    at = random.choice(ends) + random.choice((-1, 0, 1)) if ends else 0
    return data[:at] + random.choice(_TEXTS) + data[at:]


def _delete(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + data[at + random.choice((1, 1, 2, 5, 20)) :]


def _repeat(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    piece = data[at : at + random.randrange(1, 40)]
    return data[:at] + piece * random.randrange(2, 5) + data[at + len(piece) :]


def _move(random: Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    lines.insert(random.randrange(len(lines)), lines.pop(random.randrange(len(lines))))
    return b"\r\n".join(lines)


def _truncate(random: Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


_MUTATIONS: Final = (
    _replace,
    _flip,
    _insert,
    _insert,
    _insert_at_line,
    _insert_at_line,
    _delete,
    _repeat,
    _move,
    _truncate,
)


def cuts_of(random: Random, data: bytes) -> tuple[int, ...]:
    """Positions of the cuts: mostly none or few, sometimes at ends of lines or between many bytes in a row."""
    size = len(data)
    kind = random.random()
    if size < 2 or kind < 0.45:
        return ()
    if kind < 0.8:
        places = {random.randrange(1, size) for _ in range(random.choice((1, 1, 2, 3)))}
    elif kind < 0.95:
        ends = [at + random.choice((0, 1, 2)) for at in range(size) if data[at : at + 2] == b"\r\n"]
        places = set(random.sample(ends, min(len(ends), 4)))
    else:
        start = random.randrange(size)
        places = set(range(start, start + 12))
    return tuple(sorted(place for place in places if 0 < place < size))


def pieces(data: bytes, cuts: tuple[int, ...]) -> Iterator[bytes]:
    """The data in pieces, one for each send."""
    for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        yield data[start:end]
