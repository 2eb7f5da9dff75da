"""Generates the bytes of one client connection: several requests, most of them valid, some with a fault."""

from collections.abc import Callable
from random import Random
from typing import Final

from tests.fuzz.mutation import mutated
from tests.fuzz.reference import MAX_BODY, MAX_HEADER
from tests.support.wording import chunked

SMUGGLED: Final = b"GET /public/smuggled HTTP/1.1\r\nHost: gateway.test\r\n\r\n"

_METHODS: Final = (
    b"GET",
    b"GET",
    b"GET",
    b"POST",
    b"POST",
    b"PUT",
    b"HEAD",
    b"DELETE",
    b"OPTIONS",
    b"PATCH",
    b"PROPFIND",
)
_ODD_METHODS: Final = (
    b"get",
    b"FOO",
    b"CONNECT",
    b"TRACE",
    b"M-SEARCH",
    b"G T",
    b"G\tT",
    b"",
    b"GET\0",
    b"PLAY",
    b"G" * 300,
)
_TARGETS: Final = (
    b"/public/x",
    b"/public/x",
    b"/public/x?a=b&c",
    b"/public",
    b"/public/",
    b"/public/%7Eme/%c3%a9?",
    b"http://gateway.test/public/x?y",
    b"/small/x",
    b"/get/x",
    b"/get/x/",
    b"/kept/a%2fb/x",
    b"/admin/x",
    b"/nowhere",
    b"/",
    b"/_gateway/health",
)
_ODD_TARGETS: Final = (
    b"*",
    b"public/x",
    b"//public/x",
    b"/public//x",
    b"/public/../admin/x",
    b"/public/%2e%2e/admin/x",
    b"/public/.%2e/admin/x",
    b"/public/%252e%252e/x",
    b"/public/%252%65/x",
    b"/public/..;/admin/x",
    b"/public/x;a=b",
    b"/public/x%3bb",
    b"/public/a%2fb",
    b"/kept/%2fa/x",
    b"/kept/a%2f..%2fb/x",
    b"/kept/a%2f%2fb/x",
    b"/public/%5c..%5cadmin",
    b"/public\\..\\admin",
    b"/public/%00",
    b"/public/%ff",
    b"/public/%zz",
    b"/public/%",
    b"/public/x#y",
    b"/public/x?y#z",
    b"/public/\xc3\xa9",
    b"/public/x?\xc3\xa9",
    b"/public/%20./x",
    b"/public/.../x",
    b"/public/x\x01",
    b"/public/x\ty",
    b"/public/%25zz",
    b"http://other.test/public/x",
    b"http://gateway.test:80/public/x",
    b"HTTP://GATEWAY.TEST/public/x",
    b"http://user@gateway.test/public/x",
    b"http://gateway.test",
    b"http:///public/x",
    b"https://gateway.test/public/x",
    b"ftp://gateway.test/x",
    b"gateway.test:80",
    b"/" + b"x" * 9000,
    b"/public/" + b"a/" * 200,
)
_PATH_PIECES: Final = (
    b"a",
    b"x",
    b"/",
    b"/x",
    b".",
    b"..",
    b"%2e",
    b"%2E.",
    b"%20",
    b"%2f",
    b"%5c",
    b"%25",
    b"2",
    b"5",
    b"41",
    b"%41",
    b"%7e",
    b"%c3%a9",
    b"%C3",
    b"%0a",
    b"%3B",
    b"%3f",
    b"%23",
    b"%",
    b";",
    b"?",
    b"&=",
    b"!$'()*+,:@",
    b'"<>[]^`{|}',
)
_HOSTS: Final = (b"gateway.test",) * 12 + (b"GATEWAY.test.", b"gateway.test:8000", b"a-b_c.test")
_ODD_HOSTS: Final = (
    b"",
    b"a b",
    b"a,b",
    b"a/b",
    b"a@b",
    b"gateway.test:x",
    b"gateway.test:99999",
    b"a..b",
    b"%61",
    b".",
)
_FIELDS: Final = (
    (b"Accept", b"*/*"),
    (b"X-A", b"1"),
    (b"X-A", b"2"),
    (b"x-b", b"caf\xe9 \xff"),
    (b"X-Empty", b""),
    (b"X-Tabs", b"\t a \t b \t"),
    (b"Cookie", b"a=b; c=d"),
    (b"!#$%&'*+-.^_`|~09", b"token"),
    (b"Authorization", b"Bearer nonsense"),
    (b"Content-Type", b"text/plain"),
    (b"Via", b"1.0 fred"),
    (b"Date", b"Mon, 01 Jan 2001 00:00:00 GMT"),
    (b"Range", b"bytes=0-1"),
    (b"TE", b"trailers"),
    (b"Trailer", b"X-Sum"),
    (b"X-Request-Id", b"request-1"),
    (b"X-Request-Id", b"two words"),
    (b"Keep-Alive", b"timeout=5"),
    (b"Proxy-Connection", b"keep-alive"),
    (b"Proxy-Authorization", b"Basic eDp5"),
    (b"X-User-Id", b"root"),
    (b"x_user_id", b"root"),
    (b"X.User.Roles", b"admin"),
    (b"X!User!Id", b"root"),
    (b"X-User_Email", b"a@b"),
    (b"X-Forwarded-For", b"127.0.0.2"),
    (b"X_Forwarded_For", b"127.0.0.2"),
    (b"Forwarded", b"for=127.0.0.2"),
    (b"X-Real-IP", b"127.0.0.2"),
    (b"X-Original-URL", b"/admin/x"),
    (b"X-Rewrite-URL", b"/admin/x"),
    (b"True-Client-IP", b"127.0.0.2"),
    (b"Proxy", b"http://127.0.0.2"),
    (b"SCRIPT_NAME", b"/api"),
    (b"Daphne-Root-Path", b"/api"),
    (b"X-HTTP-Method-Override", b"DELETE"),
    (b"Content_Length", b"3"),
    (b"Transfer_Encoding", b"chunked"),
    (b"Upgrade", b"h2c"),
)
_CONNECTIONS: Final = (
    b"keep-alive",
    b"close",
    b"Close",
    b"keep-alive, close",
    b"X-A, x-b",
    b"X-User-Id, Host, Content-Length",
    b"upgrade",
    b"TE",
    b"x-forwarded-for,, cookie",
)
_ODD_LINES: Final = (
    b"nonsense",
    b": x",
    b"X A: 1",
    b"X-A : 1",
    b"X-A\t: 1",
    b" folded",
    b"\tfolded",
    b"X-A: a\0b",
    b"X-A: a\x01b",
    b"X-A: a\x7fb",
    b"X-A: a\rX-B: b",
    b"X-A: a\nX-B: b",
    b"X\xe9: 1",
    b"X-\x0b: 1",
    b"Host: other.test",
    b"Host: gateway.test",
    b"X-Long: " + b"x" * (MAX_HEADER - 300),
    b"X-Long: " + b"x" * MAX_HEADER,
    b"\r\n".join([b"a:"] * 1100),
)
_ODD_LENGTHS: Final = (
    b"Content-Length: +5",
    b"Content-Length: -1",
    b"Content-Length: 0x5",
    b"Content-Length: 5 x",
    b"Content-Length: 5, 5",
    b"Content-Length: 5;",
    b"Content-Length:",
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
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding:",
    b"Transfer-Encoding : chunked",
    b"Content-Length : 5",
    b"Content-Length: \t 5 \t",
    b"Content-Length: 005",
    b"Transfer-Encoding: \t chunked \t",
    b"Transfer-Encoding: CHUNKED",
)
_VERSIONS: Final = (b"HTTP/1.1",) * 14 + (b"HTTP/1.0", b"HTTP/1.0")
_ODD_VERSIONS: Final = (
    b"HTTP/0.9",
    b"HTTP/2.0",
    b"HTTP/1.2",
    b"HTTP/1.10",
    b"http/1.1",
    b"RTSP/1.0",
    b"HTTP/1.1 ",
    b"",
    b"HTTP/1,1",
)
_EXTENSIONS: Final = (b"", b"", b"", b";a", b";a=b", b';a="b c"', b";a;b=c")
_ODD_EXTENSIONS: Final = (
    b" ",
    b" ;a",
    b"; a",
    b";",
    b";=",
    b";a\0",
    b";a\n",
    b"x",
    b" 5",
    b';a="',
    b";" + b"a" * 9000,
    b"\r",
)
_TRAILERS: Final = (
    b"X-Sum: 1\r\n",
    b"X-User-Id: root\r\n",
    b"Content-Length: 3\r\n",
    b"Authorization: Bearer nonsense\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"X-Forwarded-For: 127.0.0.2\r\n",
)
_ODD_TRAILERS: Final = (
    b"nonsense\r\n",
    b" folded\r\n",
    b"X : 1\r\n",
    b"X: \0\r\n",
    b"X: 1\n",
    b"X-Long: " + b"x" * 9000 + b"\r\n",
    b"a:b\r\n" * 2000,
)
_ODD_SIZES: Final = (
    b"",
    b"+5",
    b"-5",
    b"0x5",
    b" 5",
    b"5 5",
    b"g",
    b"fffffffffffffffff",
    b"00000000000000000005",
    b"5_0",
    b"7fffffffffffffff",
)

Lines = list[bytes]


class RequestGrammar:
    """Generates streams. One in three requests has a fault; one in five streams also has mutated bytes."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self._lines: Lines = []  # the header lines of the request before

    def stream(self) -> bytes:
        """All bytes that a client sends on one connection."""
        random = self.random
        data = b"".join(self.request() for _ in range(random.choice((1, 1, 2, 2, 3, 5))))
        if random.random() < 0.2:
            data = mutated(random, data)
        return data

    def request(self) -> bytes:
        """One request; two in five repeat the header lines of the request before."""
        random = self.random
        if random.random() < 0.3:
            return random.choice(_FAULTS)(self)
        if self._lines and random.random() < 0.4:
            return self._line() + b"\r\n".join([*self._lines, b"", b""])
        return self._assembled()

    def _pick(self, choices: tuple[bytes, ...]) -> bytes:
        return self.random.choice(choices)

    def _line(self, *, method: bytes | None = None, target: bytes | None = None, version: bytes | None = None) -> bytes:
        chosen = (
            self._pick(_METHODS) if method is None else method,
            self._pick(_TARGETS) if target is None else target,
            self._pick(_VERSIONS) if version is None else version,
        )
        return b" ".join(chosen) + b"\r\n"

    def _header_lines(self) -> Lines:
        random = self.random
        lines = [b"Host: " + self._pick(_HOSTS)]
        for name, value in random.sample(_FIELDS, random.choice((0, 1, 2, 3, 6))):
            lines.append(name + random.choice((b": ", b": ", b":", b": \t")) + value + random.choice((b"", b"", b" ")))
        if random.random() < 0.2:
            lines.append(b"Connection: " + self._pick(_CONNECTIONS))
        if random.random() < 0.3:
            random.shuffle(lines)
        return lines

    def _content(self) -> bytes:
        random = self.random
        kind = random.random()
        if kind < 0.4:
            return SMUGGLED
        if kind < 0.5:
            return b"\r\n0\r\n\r\n"
        if kind < 0.55:
            return b"x" * (MAX_BODY + random.choice((-1, 0, 1)))
        return random.randbytes(random.choice((0, 1, 5, 63, 64, 65, 300)))

    def _framed(self, content: bytes) -> tuple[Lines, bytes]:
        """The header lines of the framing, and the body."""
        random = self.random
        if random.random() < 0.5:
            return [b"Content-Length: %d" % len(content)], content
        return [b"Transfer-Encoding: chunked"], self._chunks(content)

    def _chunks(self, content: bytes, *, extension: bytes | None = None, trailers: bytes | None = None) -> bytes:
        random = self.random
        cut = random.randrange(len(content) + 1)
        body = b""
        for piece in (content[:cut], content[cut:]):
            if piece:
                size = random.choice((b"%x", b"%X", b"0%x")) % len(piece)
                body += size + (self._pick(_EXTENSIONS) if extension is None else extension) + b"\r\n" + piece + b"\r\n"
        if trailers is None:
            trailers = b"".join(random.sample(_TRAILERS, random.choice((0, 0, 0, 1, 2))))
        return body + b"0" + self._pick(_EXTENSIONS) + b"\r\n" + trailers + b"\r\n"

    def _assembled(
        self, line: bytes | None = None, extra: Lines | None = None, framed: tuple[Lines, bytes] | None = None
    ) -> bytes:
        """A request of these parts. Missing parts get valid values."""
        random = self.random
        lines = self._header_lines()
        body = b""
        if framed is None and random.random() < 0.4:
            framed = self._framed(self._content())
        if framed is None:
            self._lines = lines
        else:
            framing, body = framed
            lines += framing
            if random.random() < 0.1:
                lines.append(b"Expect: 100-continue")
        for one in extra or ():
            lines.insert(random.randrange(len(lines) + 1), one)
        empty = b"\r\n" if random.random() < 0.05 else b""
        return empty + (line or self._line()) + b"\r\n".join([*lines, b"", b""]) + body

    # ---- faults

    def odd_method(self) -> bytes:
        return self._assembled(self._line(method=self._pick(_ODD_METHODS)))

    def odd_target(self) -> bytes:
        return self._assembled(self._line(target=self._pick(_ODD_TARGETS)))

    def mixed_target(self) -> bytes:
        place = self._pick((b"/public/", b"/public/", b"/kept/", b"/admin/", b"/"))
        pieces = self.random.choices(_PATH_PIECES, k=self.random.randrange(1, 7))
        return self._assembled(self._line(target=place + b"".join(pieces)))

    def odd_version(self) -> bytes:
        return self._assembled(self._line(version=self._pick(_ODD_VERSIONS)))

    def odd_spacing(self) -> bytes:
        line = self._line()
        return self._assembled(
            self._pick((b" " + line, line.replace(b" ", b"  "), line.replace(b" ", b"\t"), b"\n" + line, b"\r" + line))
        )

    def odd_line(self) -> bytes:
        return self._assembled(extra=[self._pick(_ODD_LINES)])

    def odd_host(self) -> bytes:
        lines = [b"Host: " + self._pick(_ODD_HOSTS)] if self.random.random() < 0.8 else []
        return self._line() + b"\r\n".join([*lines, b"X-A: 1", b"", b""])

    def odd_framing(self) -> bytes:
        content = self._pick((b"hello", SMUGGLED, chunked(b"hello"), chunked(b"") + SMUGGLED))
        return self._assembled(framed=([self._pick(_ODD_LENGTHS)], content))

    def odd_extension(self) -> bytes:
        return self._in_chunks(self._chunks(b"hello", extension=self._pick(_ODD_EXTENSIONS)))

    def odd_trailer(self) -> bytes:
        return self._in_chunks(self._chunks(b"hello", trailers=self._pick(_ODD_TRAILERS)))

    def odd_size(self) -> bytes:
        return self._in_chunks(self._pick(_ODD_SIZES) + b"\r\nhello\r\n0\r\n\r\n")

    def odd_chunk_end(self) -> bytes:
        return self._in_chunks(
            self._pick(
                (b"5\nhello\n0\n\n", b"5\r\nhello0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"4\r\nhello\r\n0\r\n\r\n")
            )
        )

    def short_body(self) -> bytes:
        return self._assembled(framed=([b"Content-Length: 70"], SMUGGLED))

    def upgrade(self) -> bytes:
        lines = [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"]
        return self._assembled(extra=lines, framed=self._framed(self._content()))

    def websocket(self) -> bytes:
        key = [b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", b"Sec-WebSocket-Version: 13"]
        return self._assembled(self._line(method=b"GET"), [b"Connection: Upgrade", b"Upgrade: websocket", *key])

    def _in_chunks(self, body: bytes) -> bytes:
        return self._assembled(framed=([b"Transfer-Encoding: chunked"], body))


_FAULTS: Final[tuple[Callable[[RequestGrammar], bytes], ...]] = (
    RequestGrammar.odd_method,
    RequestGrammar.odd_target,
    RequestGrammar.mixed_target,
    RequestGrammar.mixed_target,
    RequestGrammar.odd_version,
    RequestGrammar.odd_spacing,
    RequestGrammar.odd_line,
    RequestGrammar.odd_host,
    RequestGrammar.odd_framing,
    RequestGrammar.odd_framing,
    RequestGrammar.odd_extension,
    RequestGrammar.odd_trailer,
    RequestGrammar.odd_size,
    RequestGrammar.odd_chunk_end,
    RequestGrammar.short_body,
    RequestGrammar.upgrade,
    RequestGrammar.websocket,
)
