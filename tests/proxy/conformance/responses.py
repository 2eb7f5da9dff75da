"""Responses of upstreams: a table of cases with the RFC sections that define their treatment.

`INVALID` means 502 for the client, and the connection is not reused. `BROKEN` means an aborted response, or 502 before
the head was sent, never a clean end. `RETURNED` reaches the client as defined by `Outcome`.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.support.raw import Framing
from tests.support.scripts import Then, response
from tests.support.wording import chunked, request


class Invalid(NamedTuple):
    """`section` is that of the RFC; `sent` are the upstream's bytes."""

    section: str
    what: str
    sent: bytes


class Broken(NamedTuple):
    """The bytes that the upstream sends of its response, and its next action."""

    section: str
    what: str
    sent: bytes
    then: Then


@dataclass(frozen=True, slots=True)
class Outcome:
    """A response as the client must receive it: values by name (empty: the field is missing), trailers, interim
    responses."""

    status: int = 200
    body: bytes = b"ok"
    framing: Framing = "length"
    fields: tuple[tuple[str, tuple[bytes, ...]], ...] = ()
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    interim: tuple[int, ...] = ()


class Returned(NamedTuple):
    """`unlike` names a limitation of stock ASGI servers (tests/support/faces.py)."""

    section: str
    what: str
    sent: bytes
    outcome: Outcome = Outcome()
    then: Then = "keep"
    asked: bytes = request("/public/x")
    unlike: str | None = None


def named(case: Invalid | Broken | Returned) -> str:
    """The name of the test for this case."""
    return f"{case.section}: {case.what}"


LENGTH: Final = response(200, ["Content-Length: 100"], None)
CHUNKS: Final = response(200, ["Transfer-Encoding: chunked"], None)
HEAD: Final = request("/public/x", method="HEAD")
OLD: Final = request("/public/x", version="1.0")


def ok(*fields: str, status: int = 200) -> bytes:
    """A response with these fields and the body `ok`."""
    return response(status, fields, b"ok")


def with_fields(*pairs: tuple[str, str | None]) -> Outcome:
    """`ok` with one value of each field, or without the field."""
    return Outcome(fields=tuple((name, () if value is None else (value.encode("latin-1"),)) for name, value in pairs))


INVALID: Final = (
    Invalid("9112 4", "garbage", b"garbage\r\n\r\n"),
    Invalid("9112 4", "binary", bytes(range(256)) * 4),
    Invalid("9112 4", "another protocol", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    Invalid("9112 4", "an ICY line", b"ICY 200 OK\r\n\r\n"),
    Invalid("9112 2.3", "RTSP/1.0", b"RTSP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 2.3", "ICE/1.0", b"ICE/1.0 200\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 2.3", "HTTP/1.2", b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 2.3", "HTTP/01.1", b"HTTP/01.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 2.2", "an LF before the status line", b"\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 2.2", "a CR before the status line", b"\rHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 2.2", "an LF after an empty line", b"\r\n\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 2.3", "HTTP/2.0", b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 2.3", "HTTP/0.9", b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 2.3", "HTTP/1.10", b"HTTP/1.10 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 2.3", "http in lower case", b"http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9110 15", "status 99", b"HTTP/1.1 099 What\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9110 15", "status 0", b"HTTP/1.1 000 What\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9110 15", "status 600", b"HTTP/1.1 600 What\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9110 15", "status 999", b"HTTP/1.1 999 What\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 4", "a status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 4", "a status of four digits", b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 4", "a status in words", b"HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid(
        "9110 15.2.2",
        "an unsolicited 101",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\n",
    ),
    Invalid(
        "9112 6.3",
        "a length and chunks",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    Invalid(
        "9112 6.3",
        "chunks and a length",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    Invalid("9112 6.3", "two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nok"),
    Invalid("9112 6.3", "a list of lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 2, 5\r\n\r\nok"),
    Invalid("9110 8.6", "a signed length", b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"),
    Invalid("9110 8.6", "a negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"),
    Invalid("9110 8.6", "a length in words", b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok"),
    Invalid("9110 8.6", "a hexadecimal length", b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok"),
    Invalid("9110 8.6", "an unbounded length", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nok"),
    Invalid(
        "9112 6.1", "gzip, chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    ),
    Invalid(
        "9112 6.3", "chunked, gzip", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    ),
    Invalid(
        "9112 6.1",
        "chunked, chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    Invalid(
        "9112 6.1",
        "chunked twice",
        b"HTTP/1.1 200 OK\r\n" + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    Invalid(
        "9112 6.1", "quoted chunked", b'HTTP/1.1 200 OK\r\nTransfer-Encoding: "chunked"\r\n\r\n2\r\nok\r\n0\r\n\r\n'
    ),
    Invalid(
        "9112 6.1", "chunks in HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    ),
    Invalid("9112 6.1", "an unknown coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: what\r\n\r\nok"),
    Invalid("9112 5.1", "a space before the colon", b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok"),
    Invalid("9110 5.1", "a name with a space", b"HTTP/1.1 200 OK\r\nX A: 1\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9110 5.1", "a name with a control", b"HTTP/1.1 200 OK\r\nX\x01A: 1\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9110 5.1", "an empty name", b"HTTP/1.1 200 OK\r\n: 1\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 5", "a line without a colon", b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 5.2", "an obsolete fold", b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9110 5.5", "a NUL", b"HTTP/1.1 200 OK\r\nX-A: 1\x002\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 2.2", "a bare CR", b"HTTP/1.1 200 OK\r\nX-A: 1\rX-B: 2\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 2.2", "a bare LF", b"HTTP/1.1 200 OK\r\nX-A: 1\nX-B: 2\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 2.2", "bare LFs only", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    Invalid("9110 5.5", "a control in a value", b"HTTP/1.1 200 OK\r\nX-A: 1\x012\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 4", "a control in the reason", b"HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\nok"),
    Invalid(
        "9110 15.2",
        "an interim response with a body",
        b"HTTP/1.1 103 Hints\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\nok",
    ),
    Invalid(
        "9112 6.1",
        "an interim response in chunks",
        b"HTTP/1.1 103 Hints\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    Invalid("9112 4", "no space after the version", b"HTTP/1.1200 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 4", "no space after the status", b"HTTP/1.1 200OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 4", "two spaces after the version", b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9112 4", "a tab after the version", b"HTTP/1.1\t200 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9110 15", "status 1000", b"HTTP/1.1 1000 What\r\nContent-Length: 2\r\n\r\nok"),
    Invalid(
        "9110 15.2",
        "unlimited interim responses",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 200 + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ),
    Invalid("9112 4", "white space before the status line", b" HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9110 8.6", "an empty length", b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nok"),
    Invalid("9110 8.6", "a length with a fraction", b"HTTP/1.1 200 OK\r\nContent-Length: 2.0\r\n\r\nok"),
    Invalid(
        "9112 6.1",
        "chunked with a parameter",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked;a=b\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    Invalid("9112 5.1", "a tab before the colon", b"HTTP/1.1 200 OK\r\nContent-Length\t: 2\r\n\r\nok"),
    Invalid("9110 5.1", "a name outside ASCII", b"HTTP/1.1 200 OK\r\nX\xe9: 1\r\nContent-Length: 2\r\n\r\nok"),
    Invalid("9110 5.5", "a DEL in a value", b"HTTP/1.1 200 OK\r\nX: a\x7fb\r\nContent-Length: 2\r\n\r\nok"),
)

BROKEN: Final = (
    Broken("9112 8", "a length, FIN", LENGTH + b"half", "fin"),
    Broken("9112 8", "a length, reset", LENGTH + b"half", "reset"),
    Broken("9112 8", "a length, nothing", LENGTH, "fin"),
    Broken("9112 8", "chunks, FIN", CHUNKS + b"4\r\nhalf\r\n", "fin"),
    Broken("9112 8", "chunks, FIN within one", CHUNKS + b"64\r\nhalf", "fin"),
    Broken("9112 8", "chunks, reset", CHUNKS + b"4\r\nhalf\r\n", "reset"),
    Broken("9112 8", "chunks, FIN before the last line", CHUNKS + b"4\r\nhalf\r\n0\r\n", "fin"),
    Broken("9112 7.1", "a bad chunk size", CHUNKS + b"4\r\nhalf\r\nzz\r\n", "keep"),
    Broken("9112 7.1", "a chunk too long", CHUNKS + b"4\r\nhalf and more\r\n0\r\n\r\n", "keep"),
    Broken("9112 7.1", "a negative chunk size", CHUNKS + b"4\r\nhalf\r\n-1\r\n", "keep"),
    Broken("9112 7.1", "a huge chunk size", CHUNKS + b"4\r\nhalf\r\nfffffffffffffffff1\r\n", "fin"),
    Broken("9112 7.1", "a bare LF after a chunk size", CHUNKS + b"4\nhalf\r\n0\r\n\r\n", "keep"),
    Broken("9112 7.1.1", "a malformed extension", CHUNKS + b"4;=\r\nhalf\r\n0\r\n\r\n", "keep"),
    Broken("9112 7.1.1", "extensions over the limit", CHUNKS + b"4;a=" + b"b" * 70_000, "keep"),
    Broken("9112 7.1.2", "a malformed trailer", CHUNKS + b"4\r\nhalf\r\n0\r\nX A: 1\r\n\r\n", "keep"),
    Broken("9112 7.1.2", "trailers over the limit", CHUNKS + b"0\r\nX: " + b"x" * 70_000, "keep"),
    Broken("9112 7.1.2", "unlimited trailers", CHUNKS + b"0\r\n" + b"a:b\r\n" * 20_000, "keep"),
    Broken("9112 8", "until the end, reset", response(200, [], None) + b"half", "reset"),
)

RETURNED: Final = (
    # ---- the status
    *(
        Returned("9110 15", f"status {status}", ok(status=status), Outcome(status))
        for status in (200, 201, 202, 203, 206, 207, 226, 299, 300, 301, 302, 303, 307, 308, 400, 401, 402, 403, 404)
    ),
    *(
        Returned("9110 15", f"status {status}", ok(status=status), Outcome(status))
        for status in (
            405,
            406,
            409,
            410,
            412,
            415,
            416,
            418,
            421,
            422,
            428,
            429,
            451,
            499,
            500,
            501,
            502,
            503,
            504,
            599,
        )
    ),
    Returned("9112 4", "no reason phrase", b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"),
    Returned("9112 4", "no reason phrase and no space before it", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"),
    Returned("9112 4", "a reason outside ASCII", b"HTTP/1.1 200 Tr\xe8s bien\r\nContent-Length: 2\r\n\r\nok"),
    # ---- framing
    Returned("9112 6.3", "a length", ok()),
    Returned("9112 6.3", "a length of zero", response(200, [], b""), Outcome(body=b"")),
    Returned("9112 7.1", "chunks", CHUNKS + chunked(b"o", b"k"), Outcome(framing="chunked")),
    Returned("9112 7.1", "no chunk before the last one", CHUNKS + chunked(), Outcome(body=b"", framing="chunked")),
    Returned(
        "9110 10.1.4",
        "an upper-case coding is equivalent",
        response(200, ["Transfer-Encoding: CHUNKED"], None) + chunked(b"ok"),
        Outcome(framing="chunked"),
    ),
    Returned(
        "9112 7.1.1",
        "chunk extensions are removed",
        CHUNKS + b'2;a;b="c"\r\nok\r\n0;d\r\n\r\n',
        Outcome(framing="chunked"),
    ),
    Returned(
        "9112 6.3",
        "a body until the end of the connection",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        Outcome(framing="chunked"),
        "fin",
    ),
    Returned(
        "9112 6.3",
        "an HTTP/1.0 body until the end of the connection",
        b"HTTP/1.0 200 OK\r\n\r\nok",
        Outcome(framing="chunked"),
        "fin",
    ),
    Returned("9112 6.3", "HTTP/1.0 with a length", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Outcome(), "fin"),
    Returned(
        "9110 6.4.1",
        "HEAD: the length of the omitted content",
        response(200, ["Content-Length: 999"], None),
        Outcome(body=b"", framing="none", fields=(("content-length", (b"999",)),)),
        asked=HEAD,
    ),
    Returned(
        "9110 6.4.1",
        "HEAD: no framing at all",
        response(200, ["X-A: 1"], None),
        Outcome(body=b"", framing="none", fields=(("content-length", ()), ("x-a", (b"1",)))),
        asked=HEAD,
    ),
    Returned(
        "9110 15.3.5",
        "204 has no body",
        response(204, ["X-A: 1"], None),
        Outcome(204, b"", "none", (("transfer-encoding", ()), ("x-a", (b"1",)))),
    ),
    Returned(
        "9110 15.4.5",
        "304 has no body",
        response(304, ['ETag: "x"'], None),
        Outcome(304, b"", "none", (("transfer-encoding", ()), ("etag", (b'"x"',)))),
    ),
    Returned(
        "9110 15.4.5",
        "304 keeps the length of its 200",
        response(304, ["Content-Length: 9000"], None),
        Outcome(304, b"", "none", (("content-length", (b"9000",)),)),
        unlike="304 length",
    ),
    Returned(
        "9110 8.6",
        "204 loses its length",
        response(204, ["Content-Length: 5", "X-A: 1"], None),
        Outcome(204, b"", "none", (("content-length", ()), ("transfer-encoding", ()), ("x-a", (b"1",)))),
    ),
    Returned(
        "9110 15.3.6",
        "205 loses its length",
        response(205, ["Content-Length: 0", "X-A: 1"], None),
        Outcome(205, b"", "chunked", (("content-length", ()), ("x-a", (b"1",)))),
    ),
    Returned(
        "9110 15.3.6",
        "205 loses its content",
        response(205, ["Transfer-Encoding: chunked"], None) + chunked(b"hello"),
        Outcome(205, b"", "chunked", (("content-length", ()),)),
    ),
    Returned("9112 2.2", "an empty line before the status line", b"\r\n" + ok()),
    Returned(
        "9112 9.3",
        "Connection: close ends the upstream connection only",
        ok("Connection: close"),
        with_fields(("connection", None)),
        "fin",
    ),
    # ---- fields
    Returned(
        "6265 3",
        "every Set-Cookie stays on its own line",
        ok("Set-Cookie: a=1, b", "X: y", "Set-Cookie: c=2"),
        Outcome(fields=(("set-cookie", (b"a=1, b", b"c=2")),)),
    ),
    Returned(
        "9110 6.6.1",
        "the upstream's Date is kept",
        ok("Date: Mon, 01 Jan 2001 00:00:00 GMT"),
        with_fields(("date", "Mon, 01 Jan 2001 00:00:00 GMT")),
    ),
    Returned(
        "9110 10.2.4", "the upstream's Server is kept", ok("Server: upstream/7"), with_fields(("server", "upstream/7"))
    ),
    Returned(
        "9110 8.4",
        "Content-Encoding passes unchanged",
        ok("Content-Encoding: gzip"),
        with_fields(("content-encoding", "gzip")),
    ),
    Returned(
        "9110 8.4",
        "an unknown Content-Encoding passes unchanged",
        ok("Content-Encoding: nonsense"),
        with_fields(("content-encoding", "nonsense")),
    ),
    Returned("9110 8.8.3", "ETag passes unchanged", ok('ETag: W/"x"'), with_fields(("etag", 'W/"x"'))),
    Returned(
        "9110 10.2.2",
        "Location is not rewritten",
        ok("Location: http://127.0.0.1/elsewhere", status=302),
        Outcome(302, fields=(("location", (b"http://127.0.0.1/elsewhere",)),)),
    ),
    Returned(
        "9110 11.6.1",
        "the upstream's challenge is kept",
        ok("WWW-Authenticate: Basic realm=x", status=401),
        Outcome(401, fields=(("www-authenticate", (b"Basic realm=x",)),)),
    ),
    Returned("9110 5.5", "bytes above ASCII are opaque", ok("X-A: caf\xe9 \xff"), with_fields(("x-a", "caf\xe9 \xff"))),
    Returned("9110 5.5", "an empty value", ok("X-A:"), with_fields(("x-a", ""))),
    Returned(
        "9110 5.3",
        "lines of one field keep their order",
        ok("X-A: 1", "X-B: 2", "X-A: 3"),
        Outcome(fields=(("x-a", (b"1", b"3")),)),
    ),
    Returned(
        "9111 5.2",
        "Cache-Control passes unchanged",
        ok("Cache-Control: private, max-age=5"),
        with_fields(("cache-control", "private, max-age=5")),
    ),
    # ---- hop-by-hop fields
    Returned("9110 7.6.1", "Keep-Alive is removed", ok("Keep-Alive: timeout=77"), with_fields(("keep-alive", None))),
    Returned(
        "9110 7.6.1",
        "Proxy-Connection is removed",
        ok("Proxy-Connection: keep-alive"),
        with_fields(("proxy-connection", None)),
    ),
    Returned(
        "9110 7.6.1",
        "fields named by Connection are removed",
        ok("Connection: X-Hop", "X-Hop: 1"),
        with_fields(("x-hop", None)),
    ),
    Returned(
        "9110 7.8",
        "an offered Upgrade is removed",
        ok("Upgrade: h2c", "Connection: upgrade"),
        with_fields(("upgrade", None)),
    ),
    Returned(
        "9110 11.7.1",
        "Proxy-Authenticate is removed",
        ok("Proxy-Authenticate: Basic realm=x"),
        with_fields(("proxy-authenticate", None)),
    ),
    # ---- interim responses and trailers
    Returned("9110 15.2.1", "100 is removed", b"HTTP/1.1 100 Continue\r\n\r\n" + ok()),
    Returned(
        "9110 15.2",
        "102 is forwarded",
        b"HTTP/1.1 102 Processing\r\nX-A: 1\r\n\r\n" + ok(),
        Outcome(fields=(("x-a", ()),), interim=(102,)),
        unlike="interim responses",
    ),
    Returned(
        "9110 15.2",
        "an unknown interim response is forwarded",
        b"HTTP/1.1 104 What\r\n\r\nHTTP/1.1 199 What\r\n\r\n" + ok(),
        Outcome(interim=(104, 199)),
        unlike="interim responses",
    ),
    Returned(
        "8297 2",
        "103 is forwarded",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok(),
        Outcome(interim=(103,)),
        unlike="interim responses",
    ),
    Returned(
        "8297 2",
        "several 103 are forwarded",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2 + ok(),
        Outcome(interim=(103, 103)),
        unlike="interim responses",
    ),
    Returned(
        "9110 15.2",
        "102 is not forwarded to HTTP/1.0",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok(),
        Outcome(),
        asked=OLD,
    ),
    Returned(
        "9112 7.1.2",
        "trailers are forwarded",
        CHUNKS + chunked(b"ok", trailers=["X-Sum: 1"]),
        Outcome(framing="chunked", trailers=((b"x-sum", b"1"),)),
        asked=request("/public/x", fields=["TE: trailers", "Connection: TE"]),
        unlike="response trailers",
    ),
    Returned(
        "9110 6.5.1",
        "a trailer does not affect framing",
        CHUNKS + chunked(b"ok", trailers=["Content-Length: 9"]),
        Outcome(framing="chunked", fields=(("content-length", ()),)),
    ),
    # ---- to HTTP/1.0
    Returned(
        "9112 6.1",
        "no chunks to HTTP/1.0",
        CHUNKS + chunked(b"ok"),
        Outcome(framing="close"),
        asked=OLD,
        unlike="HTTP/1.0 framing",
    ),
    Returned("9112 6.3", "a length to HTTP/1.0", ok(), Outcome(), asked=OLD),
)
