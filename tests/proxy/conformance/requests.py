"""Requests of clients: a table of cases with the RFC sections that define their treatment.

`REFUSED` means 400 and the end of the connection; neither the request nor the bytes after it reach an upstream.
`PASSED` reaches the upstream once, as defined by `Arrival`.
"""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from tests.support.wording import chunked, request

HOST = b"\r\nHost: gateway.test\r\n\r\n"
SMUGGLED = b"GET /admin/smuggled HTTP/1.1\r\nHost: gateway.test\r\n\r\n"


class Refused(NamedTuple):
    """`section` is that of the RFC; `sent` are the client's bytes; `unlike` names a difference of stock ASGI servers
    (tests/support/faces.py)."""

    section: str
    what: str
    sent: bytes
    unlike: str | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as the upstream must receive it: its line, values by name (empty: the field is missing), its body."""

    line: bytes = b"GET /public/x HTTP/1.1"
    fields: tuple[tuple[str, tuple[bytes, ...]], ...] = ()
    body: bytes = b""
    framing: Literal["none", "length", "chunked"] = "none"


class Passed(NamedTuple):
    """`unlike` names a limitation of stock ASGI servers (tests/support/faces.py)."""

    section: str
    what: str
    sent: bytes
    arrival: Arrival
    unlike: str | None = None


def named(case: Refused | Passed) -> str:
    """The name of the test for this case."""
    return f"{case.section}: {case.what}"


def framed(*lines: str, body: bytes = b"") -> bytes:
    """A POST with exactly these framing fields."""
    return request("/public/x", method="POST", fields=lines) + body


def got(*fields: str, target: str = "/public/x", version: str = "1.1") -> bytes:
    """A GET with these fields."""
    return request(target, fields=fields, version=version)


def has(*pairs: tuple[str, str | None]) -> Arrival:
    """A GET that arrives with one value of each field, or without the field."""
    return Arrival(fields=tuple((name, () if value is None else (value.encode("latin-1"),)) for name, value in pairs))


def posted(body: bytes, framing: Literal["none", "length", "chunked"], method: str = "POST") -> Arrival:
    """A request with this body."""
    return Arrival(line=f"{method} /public/x HTTP/1.1".encode(), body=body, framing=framing)


def at(target: str, method: str = "GET") -> Arrival:
    """A request without a body at this target."""
    return Arrival(line=f"{method} {target} HTTP/1.1".encode())


REFUSED: Final = (
    Refused("9112 6.1", "CL and TE", framed("Content-Length: 6", "Transfer-Encoding: chunked", body=b"0\r\n\r\nG")),
    Refused(
        "9112 6.1", "TE and CL", framed("Transfer-Encoding: chunked", "Content-Length: 4", body=b"0\r\n\r\n" + SMUGGLED)
    ),
    Refused("9112 6.3", "two lengths", framed("Content-Length: 5", "Content-Length: 0", body=b"hello" + SMUGGLED)),
    Refused("9112 6.3", "a list of lengths", framed("Content-Length: 5, 0", body=b"hello")),
    Refused("9110 8.6", "a signed length", framed("Content-Length: +5", body=b"hello")),
    Refused("9110 8.6", "a negative length", framed("Content-Length: -1", body=b"")),
    Refused("9110 8.6", "a hexadecimal length", framed("Content-Length: 0x5", body=b"hello")),
    Refused("9110 8.6", "a length with trailing text", framed("Content-Length: 5 x", body=b"hello")),
    Refused("9110 8.6", "a length in words", framed("Content-Length: five", body=b"hello")),
    Refused("9110 8.6", "an empty length", framed("Content-Length: ", body=b"hello")),
    Refused("9110 8.6", "a huge length", framed("Content-Length: 99999999999999999999999", body=b"hello")),
    Refused("9112 5.2", "an obsolete fold", framed("Content-Length:\r\n 5", body=b"hello")),
    Refused("9112 5.2", "a fold elsewhere", framed("X-A: b\r\n c: d")),
    Refused("9112 2.2", "a bare LF", b"POST /public/x HTTP/1.1\nHost: gateway.test\nContent-Length: 0\n\n"),
    Refused(
        "9112 2.2", "one bare LF", b"POST /public/x HTTP/1.1\r\nHost: gateway.test\r\nX: y\nContent-Length: 0\r\n\r\n"
    ),
    Refused(
        "9112 2.2", "a bare CR", b"POST /public/x HTTP/1.1\r\nHost: gateway.test\r\nX: y\rContent-Length: 5\r\n\r\n"
    ),
    Refused("9110 5.5", "a NUL", framed("X: a\0b")),
    Refused("9112 5.1", "a space before the colon", framed("Transfer-Encoding : chunked", body=chunked(b"x"))),
    Refused("9112 5.1", "a tab before the colon", framed("Content-Length\t: 5", body=b"hello")),
    Refused(
        "9112 6.1", "TE twice", framed("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=chunked(b"x"))
    ),
    Refused("9112 6.1", "TE chunked, chunked", framed("Transfer-Encoding: chunked, chunked", body=chunked(b"x"))),
    Refused("9112 6.1", "TE gzip, chunked", framed("Transfer-Encoding: gzip, chunked", body=chunked(b"x"))),
    Refused("9112 6.3", "TE chunked, gzip", framed("Transfer-Encoding: chunked, gzip", body=chunked(b"x"))),
    Refused("9112 6.1", "TE identity", framed("Transfer-Encoding: identity", "Content-Length: 5", body=b"hello")),
    Refused("9112 6.1", "TE xchunked", framed("Transfer-Encoding: xchunked", body=chunked(b"x"))),
    Refused("9112 6.1", "TE quoted", framed('Transfer-Encoding: "chunked"', body=chunked(b"x"))),
    Refused("9112 6.1", "TE with a control", framed("Transfer-Encoding: \x0bchunked", body=chunked(b"x"))),
    Refused("9112 6.1", "TE with a parameter", framed("Transfer-Encoding: chunked;q=1", body=chunked(b"x"))),
    Refused(
        "9112 6.1",
        "TE in HTTP/1.0",
        request("/public/x", method="POST", version="1.0", fields=["Transfer-Encoding: chunked"]) + chunked(b"x"),
    ),
    Refused("9112 7.1", "a bad chunk size", framed("Transfer-Encoding: chunked", body=b"xyz\r\nhello\r\n0\r\n\r\n")),
    Refused("9112 7.1", "a signed chunk size", framed("Transfer-Encoding: chunked", body=b"+5\r\nhello\r\n0\r\n\r\n")),
    Refused("9112 7.1", "a chunk size in 0x", framed("Transfer-Encoding: chunked", body=b"0x5\r\nhello\r\n0\r\n\r\n")),
    Refused(
        "9112 7.1",
        "a huge chunk size",
        framed("Transfer-Encoding: chunked", body=b"fffffffffffffffff1\r\nhello\r\n0\r\n\r\n"),
    ),
    Refused(
        "9112 7.1",
        "a chunk longer than announced",
        framed("Transfer-Encoding: chunked", body=b"3\r\nhello\r\n0\r\n\r\n"),
    ),
    Refused("9112 7.1", "a chunk terminated by LF", framed("Transfer-Encoding: chunked", body=b"5\nhello\n0\n\n")),
    Refused("9110 5.1", "an empty field name", framed(": x")),
    Refused("9112 5", "a line without a colon", framed("nonsense")),
    Refused("9112 2.3", "HTTP/2.0", b"GET /public/x HTTP/2.0\r\nHost: gateway.test\r\n\r\n"),
    Refused("9112 2.3", "HTTP/0.9", b"GET /public/x HTTP/0.9\r\nHost: gateway.test\r\n\r\n"),
    Refused("9112 2.3", "HTTP/3.0", b"GET /public/x HTTP/3.0\r\nHost: gateway.test\r\n\r\n"),
    Refused("9112 2.3", "HTTP/1.10", b"GET /public/x HTTP/1.10\r\nHost: gateway.test\r\n\r\n"),
    Refused("9112 3", "no version", b"GET /public/x\r\nHost: gateway.test\r\n\r\n"),
    Refused("9112 2.3", "another protocol", b"GET /public/x RTSP/1.0\r\nHost: gateway.test\r\n\r\n", "protocol name"),
    Refused("9112 2.2", "TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64),
    Refused("9110 9.1", "an empty method", b" /public/x HTTP/1.1\r\nHost: gateway.test\r\n\r\n"),
    Refused("9112 3", "a tab in the request line", b"GET\t/public/x HTTP/1.1\r\nHost: gateway.test\r\n\r\n"),
    Refused("9112 3", "two spaces before the target", b"GET  /public/x HTTP/1.1" + HOST, "request lines"),
    Refused("9112 3", "two spaces before the version", b"GET /public/x  HTTP/1.1" + HOST, "request lines"),
    Refused("9112 2.2", "a lone LF before the request line", b"\nGET /public/x HTTP/1.1" + HOST, "request lines"),
    Refused("9112 2.2", "a lone CR before the request line", b"\rGET /public/x HTTP/1.1" + HOST, "request lines"),
    Refused(
        "9112 2.2",
        "white space before the first field",
        b"GET /public/x HTTP/1.1\r\n X: 1\r\nHost: gateway.test\r\n\r\n",
    ),
    Refused("9110 5.1", "a name with a space", framed("X A: 1")),
    Refused("9110 5.1", "a name with a control", framed("X\x01A: 1")),
    Refused("9110 5.1", "a name outside ASCII", framed("X\xe9: 1")),
    Refused("9110 5.5", "a control in a value", framed("X: a\x01b")),
    Refused("9110 5.5", "a DEL in a value", framed("X: a\x7fb")),
    Refused(
        "9112 6.3",
        "three equal lengths and another",
        framed(*["Content-Length: 5"] * 3, "Content-Length: 6", body=b"hello"),
    ),
    Refused("9112 6.1", "TE with only a comma", framed("Transfer-Encoding: ,", body=chunked(b"x"))),
    Refused("9112 6.1", "an empty TE", framed("Transfer-Encoding:", body=chunked(b"x"))),
    Refused("9112 7.1", "an empty chunk size", framed("Transfer-Encoding: chunked", body=b"\r\nhello\r\n0\r\n\r\n")),
    Refused(
        "9112 7.1", "a negative chunk size", framed("Transfer-Encoding: chunked", body=b"-5\r\nhello\r\n0\r\n\r\n")
    ),
    Refused(
        "9112 7.1", "a space in a chunk size", framed("Transfer-Encoding: chunked", body=b"5 5\r\nhello\r\n0\r\n\r\n")
    ),
    Refused(
        "9112 7.1",
        "a space before a chunk size",
        framed("Transfer-Encoding: chunked", body=b" 5\r\nhello\r\n0\r\n\r\n"),
    ),
    Refused(
        "9112 7.1.1",
        "a NUL in a chunk extension",
        framed("Transfer-Encoding: chunked", body=b"5;a=\0\r\nhello\r\n0\r\n\r\n"),
    ),
    Refused(
        "9112 7.1.1",
        "a bare LF in a chunk extension",
        framed("Transfer-Encoding: chunked", body=b"5;a\n\r\nhello\r\n0\r\n\r\n"),
    ),
    Refused(
        "9112 7.1.1",
        "a bare CR in a chunk extension",
        framed("Transfer-Encoding: chunked", body=b"5;a\r\r\nhello\r\n0\r\n\r\n"),
    ),
    Refused(
        "9112 7.1.2",
        "an obsolete fold in a trailer",
        framed("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n"),
    ),
    Refused(
        "9112 7.1.2",
        "a trailer without a colon",
        framed("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\nnonsense\r\n\r\n"),
    ),
)

PASSED: Final = (
    # ---- the request line and its target
    Passed("9112 3.2.1", "origin-form passes unchanged", got(target="/public/a/b?c=d&e"), at("/public/a/b?c=d&e")),
    Passed(
        "9112 3.2.1",
        "an empty query after a question mark",
        got(target="/public/x?"),
        at("/public/x?"),
        "lone question mark",
    ),
    Passed(
        "9112 3.2.1",
        "a query is not normalised",
        got(target="/public/x?a=%2e%2E/../b//c"),
        at("/public/x?a=%2e%2E/../b//c"),
    ),
    Passed(
        "9112 3.2.2",
        "absolute-form becomes origin-form",
        got(target="http://gateway.test/public/x?y"),
        at("/public/x?y"),
    ),
    Passed(
        "9110 4.2.3", "an upper-case scheme is equivalent", got(target="HTTP://gateway.test/public/x"), at("/public/x")
    ),
    Passed(
        "9110 4.2.3", "an upper-case host is equivalent", got(target="http://GATEWAY.TEST/public/x"), at("/public/x")
    ),
    Passed("3986 6.2.2.2", "an escaped letter is decoded", got(target="/public/%61%2D%5f"), at("/public/a-_")),
    Passed("3986 6.2.2.1", "escapes become upper case", got(target="/public/%c3%a9"), at("/public/%C3%A9")),
    Passed("9112 2.2", "a preceding empty line is ignored", b"\r\n" + got(), at("/public/x")),
    Passed(
        "9110 9.1",
        "a method of another standard: PROPFIND",
        request("/public/x", method="PROPFIND"),
        at("/public/x", "PROPFIND"),
    ),
    Passed(
        "9110 9.1",
        "a method of another standard: PURGE",
        request("/public/x", method="PURGE"),
        at("/public/x", "PURGE"),
    ),
    Passed(
        "5789 2",
        "PATCH with a body",
        request("/public/x", method="PATCH", body=b"{}"),
        posted(b"{}", "length", "PATCH"),
    ),
    Passed("9110 9.3.7", "OPTIONS", request("/public/x", method="OPTIONS"), at("/public/x", "OPTIONS")),
    # ---- bodies
    Passed("9112 6.3", "a length", framed("Content-Length: 5", body=b"hello"), posted(b"hello", "length")),
    Passed("9112 6.3", "a length of zero", framed("Content-Length: 0"), posted(b"", "length")),
    Passed(
        "9110 8.6",
        "a length with leading zeros",
        framed("Content-Length: 0005", body=b"hello"),
        posted(b"hello", "length"),
    ),
    Passed(
        "9112 6.3",
        "white space around a length",
        framed("Content-Length: \t5 \t", body=b"hello"),
        posted(b"hello", "length"),
    ),
    Passed(
        "9112 7.1",
        "chunks",
        framed("Transfer-Encoding: chunked", body=chunked(b"hel", b"lo")),
        posted(b"hello", "chunked"),
    ),
    Passed(
        "9112 7.1",
        "no chunk before the last one",
        framed("Transfer-Encoding: chunked", body=chunked()),
        posted(b"", "chunked"),
    ),
    Passed(
        "9110 10.1.4",
        "an upper-case coding is equivalent",
        framed("Transfer-Encoding: CHUNKED", body=chunked(b"x")),
        posted(b"x", "chunked"),
    ),
    Passed(
        "9112 7.1",
        "an upper-case chunk size",
        framed("Transfer-Encoding: chunked", body=b"A\r\n0123456789\r\n0\r\n\r\n"),
        posted(b"0123456789", "chunked"),
    ),
    Passed(
        "9112 7.1",
        "a chunk size with leading zeros",
        framed("Transfer-Encoding: chunked", body=b"0003\r\nabc\r\n000\r\n\r\n"),
        posted(b"abc", "chunked"),
    ),
    Passed(
        "9112 7.1.1",
        "chunk extensions are removed",
        framed("Transfer-Encoding: chunked", body=b'3;a;b=c;d="e f"\r\nabc\r\n0;x\r\n\r\n'),
        posted(b"abc", "chunked"),
    ),
    Passed(
        "9112 7.1.2",
        "trailers are not header fields",
        framed("Transfer-Encoding: chunked", body=chunked(b"abc", trailers=["X-User-Id: root"])),
        Arrival(b"POST /public/x HTTP/1.1", (("x-user-id", ()),), b"abc", "chunked"),
    ),
    Passed("9110 9.3.1", "a GET with a body", request("/public/x", body=b"body"), posted(b"body", "length", "GET")),
    Passed(
        "9110 9.3.5",
        "a DELETE with a body",
        request("/public/x", method="DELETE", body=b"body"),
        posted(b"body", "length", "DELETE"),
    ),
    Passed(
        "9112 6.3",
        "a body that looks like a request",
        framed(f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED),
        posted(SMUGGLED, "length"),
    ),
    Passed(
        "9112 7.1",
        "a chunk that looks like the last one",
        framed("Transfer-Encoding: chunked", body=chunked(b"\r\n0\r\n\r\n")),
        posted(b"\r\n0\r\n\r\n", "chunked"),
    ),
    # ---- fields
    Passed(
        "9110 5.3",
        "lines of one field keep their order",
        got("X-A: 1", "X-B: 2", "X-A: 3"),
        Arrival(fields=(("x-a", (b"1", b"3")), ("x-b", (b"2",)))),
    ),
    Passed("9110 5.5", "white space around a value is removed", got("X-A: \t a b \t"), has(("x-a", "a b"))),
    Passed("9110 5.5", "an empty value", got("X-A:"), has(("x-a", ""))),
    Passed("9110 5.5", "bytes above ASCII are opaque", got("X-A: caf\xe9 \xff"), has(("x-a", "caf\xe9 \xff"))),
    Passed(
        "9110 5.6.2", "a name with every token character", got("!#$%&'*+-.^_`|~09: 1"), has(("!#$%&'*+-.^_`|~09", "1"))
    ),
    Passed("9110 5.1", "a name in any case", got("x-mIxEd: 1"), has(("X-Mixed", "1"))),
    Passed(
        "6265 5.4",
        "cookies pass unchanged",
        got("Cookie: a=b; c=d", "Cookie: e=f"),
        Arrival(fields=(("cookie", (b"a=b; c=d", b"e=f")),)),
    ),
    Passed(
        "9110 12.5.3",
        "Accept-Encoding passes unchanged",
        got("Accept-Encoding: br;q=0.5, *;q=0"),
        has(("accept-encoding", "br;q=0.5, *;q=0")),
    ),
    Passed("9110 14.2", "Range is forwarded", got("Range: bytes=0-1,5-"), has(("range", "bytes=0-1,5-"))),
    Passed(
        "9110 13.1.2",
        "If-None-Match is forwarded",
        got('If-None-Match: W/"x", "y"'),
        has(("if-none-match", 'W/"x", "y"')),
    ),
    # ---- hop-by-hop fields
    Passed("9110 7.6.1", "Keep-Alive is removed", got("Keep-Alive: timeout=5"), has(("keep-alive", None))),
    Passed(
        "9110 7.6.1",
        "Proxy-Connection is removed",
        got("Proxy-Connection: keep-alive"),
        has(("proxy-connection", None)),
    ),
    Passed(
        "9110 7.6.1",
        "fields named by Connection are removed",
        got("Connection: X-Hop", "X-Hop: 1"),
        has(("x-hop", None)),
    ),
    Passed(
        "9110 7.6.1",
        "in any case, in any list",
        got("X-Hop: 1", "Connection: a ,, x-hOP, keep-alive", "A: 2"),
        has(("x-hop", None), ("a", None)),
    ),
    Passed(
        "9110 7.6.1",
        "Connection on several lines",
        got("Connection: X-One", "X-One: 1", "Connection: X-Two", "X-Two: 2"),
        has(("x-one", None), ("x-two", None)),
    ),
    Passed(
        "9110 7.6.1",
        "Connection cannot remove the length",
        request("/public/x", method="POST", fields=["Connection: content-length"], body=b"hello"),
        posted(b"hello", "length"),
    ),
    Passed(
        "9110 7.8",
        "an unsupported Upgrade is removed",
        got("Connection: Upgrade", "Upgrade: foo/2"),
        has(("upgrade", None)),
    ),
    Passed(
        "9113 3.1",
        "an upgrade to h2c is removed",
        got("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        has(("upgrade", None), ("http2-settings", None)),
    ),
    Passed(
        "9110 11.7.1",
        "Proxy-Authorization is removed",
        got("Proxy-Authorization: Basic eDp5"),
        has(("proxy-authorization", None)),
    ),
    # ---- fields added by an intermediary
    Passed(
        "9110 7.6.3",
        "Via is extended",
        got("Via: 1.0 fred"),
        Arrival(fields=(("via", (b"1.0 fred", b"1.1 gateway")),)),
    ),
    Passed(
        "9110 10.1.1",
        "Expect is answered by the gateway",
        request("/public/x", method="POST", fields=["Expect: 100-continue"], body=b"hello"),
        posted(b"hello", "length"),
    ),
    # ---- HTTP/1.0
    Passed("9112 2.3", "an HTTP/1.0 request is forwarded in HTTP/1.1", got(version="1.0"), at("/public/x")),
    Passed(
        "9112 3.2", "an HTTP/1.0 request without Host", request("/public/x", version="1.0", host=None), at("/public/x")
    ),
    Passed(
        "9112 6.3",
        "an HTTP/1.0 request with a length",
        request("/public/x", method="POST", version="1.0", body=b"hello"),
        posted(b"hello", "length"),
    ),
)
