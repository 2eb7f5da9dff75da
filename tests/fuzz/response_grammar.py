"""Generates the bytes that an upstream sends for one request: mostly a valid response, sometimes one with a fault."""

from collections.abc import Callable
from random import Random
from typing import Final

from tests.fuzz.mutation import mutated
from tests.fuzz.response_reference import MAX_HEAD
from tests.support.wording import chunked

_POISON: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

_STATUSES: Final = (200,) * 8 + (201, 206, 301, 404, 418, 500, 503, 204, 304, 205)
_REASONS: Final = (b" OK", b" OK", b" Tr\xe8s bien", b" ", b"", b" a\tb")
_FIELDS: Final = (
    (b"Server", b"upstream/7"),
    (b"Date", b"Mon, 01 Jan 2001 00:00:00 GMT"),
    (b"Content-Type", b"text/plain"),
    (b"Set-Cookie", b"a=1, b"),
    (b"Set-Cookie", b"c=2"),
    (b"X-A", b"1"),
    (b"x-a", b"2"),
    (b"X-Empty", b""),
    (b"X-Latin", b"caf\xe9 \xff"),
    (b"ETag", b'W/"x"'),
    (b"Cache-Control", b"private"),
    (b"Content-Encoding", b"nonsense"),
    (b"WWW-Authenticate", b"Basic realm=x"),
    (b"Keep-Alive", b"timeout=77"),
    (b"Proxy-Connection", b"keep-alive"),
    (b"Upgrade", b"h2c"),
    (b"!#$%&'*+-.^_`|~09", b"token"),
)
_CONNECTIONS: Final = (b"keep-alive", b"close", b"X-A, close", b"content-length", b"upgrade", b"Set-Cookie")
_INTERIM: Final = (
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\nX-A: 1\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 104 Upload Resumption\r\n\r\n",
)
_ODD_INTERIM: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 103 Hints\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 103 Hints\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 103 Hints\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 199\r\n\r\n",
    b"HTTP/1.0 103 Hints\r\n\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
)
_ODD_STARTS: Final = (
    b"HTTP/2.0 200 OK",
    b"HTTP/0.9 200 OK",
    b"HTTP/1.2 200 OK",
    b"HTTP/1.10 200 OK",
    b"http/1.1 200 OK",
    b"RTSP/1.0 200 OK",
    b"ICE/1.0 200 OK",
    b"ICY 200 OK",
    b"SSH-2.0-OpenSSH_9.2",
    b"HTTP/1.1 099 What",
    b"HTTP/1.1 600 What",
    b"HTTP/1.1 999 What",
    b"HTTP/1.1 20 OK",
    b"HTTP/1.1 2000 OK",
    b"HTTP/1.1 OK",
    b"HTTP/1.1  200 OK",
    b"HTTP/1.1\t200 OK",
    b"HTTP/1.1200 OK",
    b"HTTP/1.1 200 O\x01K",
    b"HTTP/1.1 200 O\rK",
    b"HTTP/1.1 200 O\nK",
    b"HTTP/1.1 200OK",
    b"HTTP/1.1 +20 OK",
    b"",
)
_ODD_LINES: Final = (
    b"nonsense",
    b": x",
    b"X A: 1",
    b"X-A : 1",
    b"X-A\t: 1",
    b" folded",
    b"X-A: a\0b",
    b"X-A: a\x01b",
    b"X-A: a\x7fb",
    b"X-A: a\rX-B: b",
    b"X-A: a\nX-B: b",
    b"X\xe9: 1",
    b"X-Long: " + b"x" * (MAX_HEAD - 300),
    b"X-Long: " + b"x" * MAX_HEAD,
    b"\r\n".join([b"a:b"] * 3000),
)
_ODD_FRAMING: Final = (
    b"Content-Length: +5",
    b"Content-Length: -1",
    b"Content-Length: 0x5",
    b"Content-Length: 5, 5",
    b"Content-Length: 5 5",
    b"Content-Length:",
    b"Content-Length: 5.0",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: 5\r\nContent-Length: 5",
    b"Content-Length: 5\r\nContent-Length: 6",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: chunked;a=b",
    b"Transfer-Encoding: what",
    b"Transfer-Encoding:",
    b"Transfer-Encoding: CHUNKED",
    b"Content-Length: 005",
    b"Content-Length: \t5 ",
    b"Content-Length : 5",
    b"Content-Length: 500000000000",
)
_EXTENSIONS: Final = (b"", b"", b"", b";a", b";a=b", b';a="b c"')
_ODD_CHUNKS: Final = (
    b"xyz\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5 5\r\nhello\r\n0\r\n\r\n",
    b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"7fffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"3\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5;a=\0\r\nhello\r\n0\r\n\r\n",
    b"5;a\n\r\nhello\r\n0\r\n\r\n",
    b"5\r\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n",
    b"5\r\nhello\r\n0\r\nnonsense\r\n\r\n",
    b"5\r\nhello\r\n0\r\n folded\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX : 1\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX-Long: " + b"x" * MAX_HEAD + b"\r\n\r\n",
    b"5\r\nhello\r\n0\r\n" + b"a:b\r\n" * 4000 + b"\r\n",
    b"\r\nhello\r\n0\r\n\r\n",
)
_TRAILERS: Final = ("X-Sum: 1", "Content-Length: 9", "Transfer-Encoding: chunked", "Set-Cookie: a=b")
_EXTRA: Final = (b"\r\n", b"\r", b"\n", b"0\r\n\r\n", b"x", _POISON, b"\r\n" + _POISON, b"x" * 5000)


class ResponseGrammar:
    """Generates responses. Two in five have a fault; one in seven also has mutated bytes."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def response(self) -> bytes:
        """All bytes that an upstream sends for one request."""
        random = self.random
        data = random.choice(_FAULTS)(self) if random.random() < 0.4 else self._assembled()
        while random.random() < 0.12:
            data = random.choice(_INTERIM) + data
        if random.random() < 0.15:
            data = mutated(random, data)
        if random.random() < 0.15:
            data += random.choice(_EXTRA)
        return data or b"x"  # without a single byte the gateway can send the request again

    def late(self) -> bytes:
        """Bytes that follow after a short pause."""
        return self.random.choice(_EXTRA)

    def _pick(self, choices: tuple[bytes, ...]) -> bytes:
        return self.random.choice(choices)

    def _content(self) -> bytes:
        random = self.random
        kind = random.random()
        if kind < 0.3:
            return _POISON
        if kind < 0.4:
            return b"\r\n0\r\n\r\n"
        if kind < 0.45:
            return b"x" * random.choice((65535, 65536, 65537, 200_000))
        return random.randbytes(random.choice((0, 1, 5, 5, 300)))

    def _framed(self) -> tuple[list[bytes], bytes]:
        """The header lines of the framing, and the body."""
        random = self.random
        content = self._content()
        kind = random.random()
        if kind < 0.55:
            return [b"Content-Length: %d" % len(content)], content
        if kind < 0.9:
            return [b"Transfer-Encoding: chunked"], self._chunks(content)
        return [], content

    def _chunks(self, content: bytes) -> bytes:
        random = self.random
        cut = random.randrange(len(content) + 1)
        body = b""
        for piece in (content[:cut], content[cut:]):
            if piece:
                size = random.choice((b"%x", b"%X", b"0%x")) % len(piece)
                body += size + self._pick(_EXTENSIONS) + b"\r\n" + piece + b"\r\n"
        return body + chunked(trailers=random.sample(_TRAILERS, random.choice((0, 0, 0, 1, 2))))

    def _assembled(
        self, start: bytes | None = None, extra: bytes | None = None, framed: tuple[list[bytes], bytes] | None = None
    ) -> bytes:
        """A response of these parts. Missing parts get valid values."""
        random = self.random
        if start is None:
            version = random.choice((b"HTTP/1.1",) * 9 + (b"HTTP/1.0",))
            start = version + b" %d" % random.choice(_STATUSES) + self._pick(_REASONS)
        framing, body = framed or self._framed()
        lines = [name + b": " + value for name, value in random.sample(_FIELDS, random.choice((0, 0, 1, 2, 5)))]
        if random.random() < 0.2:
            lines.append(b"Connection: " + self._pick(_CONNECTIONS))
        for line in (*framing, *([] if extra is None else [extra])):
            lines.insert(random.randrange(len(lines) + 1), line)
        return b"\r\n".join([start, *lines, b"", b""]) + body

    # ---- faults

    def odd_start(self) -> bytes:
        return self._assembled(start=self._pick(_ODD_STARTS))

    def odd_line(self) -> bytes:
        return self._assembled(extra=self._pick(_ODD_LINES))

    def odd_framing(self) -> bytes:
        return self._assembled(framed=([self._pick(_ODD_FRAMING)], self._pick((b"hello", chunked(b"hello"), _POISON))))

    def odd_chunks(self) -> bytes:
        return self._assembled(framed=([b"Transfer-Encoding: chunked"], self._pick(_ODD_CHUNKS)))

    def odd_interim(self) -> bytes:
        return self._pick(_ODD_INTERIM) + self._assembled()

    def too_short(self) -> bytes:
        return self._assembled(framed=([b"Content-Length: 1000"], self._content()[:900]))

    def too_long(self) -> bytes:
        return self._assembled(framed=([b"Content-Length: 5"], b"hello" + self._pick(_EXTRA)))

    def bodiless(self) -> bytes:
        framing = self._pick((b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Content-Length: 0", b"X-A: 1"))
        start = self._pick((b"HTTP/1.1 204 No", b"HTTP/1.1 304 Same", b"HTTP/1.1 205 Reset"))
        return self._assembled(start, framed=([framing], self._pick((b"", b"hello", _POISON, chunked(b"hello")))))


_FAULTS: Final[tuple[Callable[[ResponseGrammar], bytes], ...]] = (
    ResponseGrammar.odd_start,
    ResponseGrammar.odd_line,
    ResponseGrammar.odd_framing,
    ResponseGrammar.odd_framing,
    ResponseGrammar.odd_chunks,
    ResponseGrammar.odd_chunks,
    ResponseGrammar.odd_interim,
    ResponseGrammar.too_short,
    ResponseGrammar.too_long,
    ResponseGrammar.bodiless,
    ResponseGrammar.bodiless,
)
