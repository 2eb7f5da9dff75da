"""Generates streams of heads that have the same names, as one client sends them.

The gateway reads the heads of common names without its parser. It does so only where one read contains one head, so
the streams have a cut after each head.
"""

from random import Random
from typing import Final

from tests.fuzz.mutation import mutated

_KINDS: Final = (
    (b"Host", b"X-A", b"Accept"),
    (b"Host", b"Connection", b"X-A", b"x-a", b"Cookie"),
    (b"X-User-Id", b"accept", b"host", b"X.User.Id", b"X-Forwarded-For"),
)
_LINES: Final = (
    b"GET /public/x HTTP/1.1",
    b"GET /public/x?a=b&c HTTP/1.1",
    b"POST /public/%7Eme HTTP/1.1",
    b"HEAD /public/x HTTP/1.1",
    b"DELETE /get/x HTTP/1.1",
    b"GET /admin/x HTTP/1.1",
    b"GET /nowhere HTTP/1.1",
    b"OPTIONS /public/x HTTP/1.1",
)
_ODD_LINES: Final = (
    b"GET /public/x HTTP/1.0",
    b"GET /public/x HTTP/2.0",
    b"GET  /public/x HTTP/1.1",
    b"GET http://gateway.test/public/x HTTP/1.1",
    b"GET /public/x#y HTTP/1.1",
    b"PROPFIND /public/x HTTP/1.1",
    b"get /public/x HTTP/1.1",
)
_VALUES: Final = (b"1", b"caf\xe9 \xff", b"a: b", b"a\tb", b"*/*", b"keep-alive", b"X-A", b"%b")
_ODD_VALUES: Final = (
    b"",
    b" 1",
    b"1\t",
    b"a\0b",
    b"a\nb",
    b"a\rb",
    b"a\x7fb",
    b"1\r\n folded",
    b"1\r\nHost: x",
    b"close",
)


def usual_stream(random: Random) -> tuple[bytes, tuple[int, ...]]:
    """The bytes of one connection, and the ends of its heads. One in three heads has a fault."""
    names = random.choice(_KINDS)
    data, ends, block = b"", [], b""
    for number in range(random.choice((2, 3, 4, 6))):
        if not block or random.random() < 0.7:  # The other heads repeat the block before.
            block = _block(random, names)
        head = random.choice(_LINES) + block
        if number and random.random() < 0.3:
            head = _with_fault(random, head, names)
        data += head
        ends.append(len(data))
    return data, tuple(sorted({end for end in ends if end < len(data)}))


def _block(random: Random, names: tuple[bytes, ...]) -> bytes:
    usual = {b"host": b"gateway.test", b"connection": b"keep-alive"}
    lines = [b"\r\n%b: %b" % (name, usual.get(name.lower()) or random.choice(_VALUES)) for name in names]
    return b"".join(lines) + b"\r\n\r\n"


def _with_fault(random: Random, head: bytes, names: tuple[bytes, ...]) -> bytes:
    kind = random.random()
    line, _, rest = head.partition(b"\r\n")
    if kind < 0.2:
        return random.choice(_ODD_LINES) + b"\r\n" + rest
    if kind < 0.6:
        name = random.choice(names)
        before, _, behind = rest.partition(name + b": ")
        return b"%b\r\n%b%b: %b\r\n%b" % (line, before, name, random.choice(_ODD_VALUES), behind.partition(b"\r\n")[2])
    return mutated(random, head)
