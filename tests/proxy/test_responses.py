"""The response is returned unchanged."""

import gzip
import time
from email.utils import parsedate_to_datetime

import pytest

from tests.support.engines import lacks
from tests.support.faces import stock
from tests.support.processes import Gateway
from tests.support.raw import Answer
from tests.support.recording import RecordingUpstream
from tests.support.scripts import HeldConnection, answer, raw, response
from tests.support.waiting import eventually
from tests.support.wording import chunked, request

pytestmark = pytest.mark.every_variant

LONG_AGO = "Mon, 01 Jan 2001 00:00:00 GMT"
OURS = {b"connection", b"keep-alive", b"transfer-encoding", b"via"}


def sent_back(got: Answer) -> list[tuple[bytes, bytes]]:
    fields = ((name.lower(), value) for name, value in got.fields)
    return [field for field in fields if field[0] not in OURS]


def date_of(got: Answer) -> float:
    """The Date of a response, in seconds since the epoch."""
    value = got.value("date")
    assert value is not None
    return parsedate_to_datetime(value.decode()).timestamp()


def test_fields_come_back_in_order_with_duplicates(gateway: Gateway, upstream: RecordingUpstream) -> None:
    sent = [
        ("Date", "Mon, 01 Jan 2001 00:00:00 GMT"),
        ("Server", "upstream/7"),
        ("Set-Cookie", "a=1; Path=/; HttpOnly"),
        ("X-B", "2"),
        ("Set-Cookie", "b=2; Expires=Mon, 01 Jan 2029 00:00:00 GMT"),
        ("X-A", "1"),
        ("WWW-Authenticate", "Basic realm=x"),
        ("set-cookie", "a=1"),
        ("X-B", ""),
        ("Content-Type", "text/plain; charset=latin-1"),
        ("Vary", "Accept"),
        ("X-Latin", "\xe9\xff"),
        ("Cache-Control", "private"),
    ]
    upstream.on("/public/x", answer(200, [f"{name}: {value}" for name, value in sent], b"body"))
    got = gateway.get("/public/x")
    expected = [(name.lower().encode(), value.encode("latin-1")) for name, value in sent]
    assert sent_back(got) == [*expected, (b"content-length", b"4")]
    assert got.body == b"body"


STATUSES = [
    200,
    201,
    202,
    206,
    207,
    226,
    299,
    300,
    301,
    302,
    308,
    399,
    400,
    401,
    403,
    404,
    405,
    409,
    413,
    418,
    429,
    431,
]
STATUSES += [451, 499, 500, 501, 502, 503, 504, 511, 599]


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_comes_back_untouched(gateway: Gateway, upstream: RecordingUpstream, status: int) -> None:
    """An upstream's 401 or 502 is its own: the gateway adds no challenge, code or format."""
    upstream.on("/public/x", answer(status, ["Location: /elsewhere", "Content-Type: text/x"], b"its own words"))
    got = gateway.get("/public/x")
    assert (got.status, got.body) == (status, b"its own words")
    assert got.value("content-type") == b"text/x"
    assert got.value("location") == b"/elsewhere"
    assert not got.head.has("www-authenticate")
    assert not got.head.has("cache-control")
    if not stock(gateway.face, "reason phrases"):
        assert got.head.reason == b"Fine"


def test_a_response_without_a_reason_phrase_is_one(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for line in (b"HTTP/1.1 200 \r\n", b"HTTP/1.1 200\r\n"):
        upstream.on("/public/x", raw(line + b"Content-Length: 2\r\n\r\nok"))
        assert gateway.get("/public/x").body == b"ok"


def test_hop_by_hop_fields_of_the_response_end_here(gateway: Gateway, upstream: RecordingUpstream) -> None:
    fields = ["Connection: X-Hop, keep-alive", "X-Hop: 1", "Keep-Alive: timeout=7", "Proxy-Connection: keep-alive"]
    fields += ["Upgrade: h2c", "X-End: 1", "Connection: x-other", "X-Other: 2", f"Date: {LONG_AGO}"]
    upstream.on("/public/x", answer(200, fields))
    got = gateway.get("/public/x")
    assert sent_back(got) == [(b"x-end", b"1"), (b"date", LONG_AGO.encode()), (b"content-length", b"0")]
    assert b"timeout=7" not in got.values("keep-alive")
    assert all(b"x-" not in value.lower() for value in got.values("connection"))


def test_a_content_coding_is_left_alone(gateway: Gateway, upstream: RecordingUpstream) -> None:
    coded = gzip.compress(b"hello " * 1000)
    for coding in ("gzip", "br", "zstd", "gzip, br", "nonsense"):
        upstream.on("/public/x", answer(200, [f"Content-Encoding: {coding}"], coded))
        got = gateway.get("/public/x", "Accept-Encoding: identity")
        assert got.body == coded
        assert got.value("content-encoding") == coding.encode()


# ---- framings


@pytest.mark.parametrize("pieces", [[], [b"x"], [b"abc", b"\r\n0\r\n\r\n"], [b"a" * 100_000, b"b" * 70_001]])
def test_a_chunked_response_comes_back_in_chunks(
    gateway: Gateway, upstream: RecordingUpstream, pieces: list[bytes]
) -> None:
    body = response(200, ["Transfer-Encoding: chunked", "X-A: 1"], None) + chunked(*pieces)
    upstream.on("/public/x", raw(body))
    got = gateway.get("/public/x")
    assert (got.framing, got.whole, got.body) == ("chunked", True, b"".join(pieces))


def test_chunks_are_passed_on_as_they_come(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """Without waiting for more: otherwise an event stream would never arrive."""
    from tests.support.scripts import HeldConnection

    head = response(200, ["Transfer-Encoding: chunked", "Content-Type: text/event-stream"], None)
    held = HeldConnection(before=head + b"6\r\nfirst\n\r\n", after=b"7\r\nsecond\n\r\n0\r\n\r\n")
    upstream.on("/public/x", held)
    with gateway.caller() as caller:
        caller.send(request("/public/x"))
        got = caller.receive_head()
        pieces: list[bytes] = []

        def take(piece: bytes) -> None:
            pieces.append(piece)
            held.release()

        assert caller.receive_body(got, take)[1]
    assert b"".join(pieces) == b"first\nsecond\n"
    assert len(pieces) >= 2


def test_a_response_that_ends_with_its_connection_is_whole(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for version in (b"1.1", b"1.0"):
        for body in (b"until the end", b"x" * 200_000, b""):
            upstream.on("/public/x", raw(b"HTTP/" + version + b" 200 OK\r\nX-A: 1\r\n\r\n" + body, then="fin"))
            got = gateway.get("/public/x")
            assert (got.status, got.whole, got.body) == (200, True, body)


def test_an_http_1_0_response_with_a_length_is_whole(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/public/x", raw(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", then="fin"))
    for _ in range(3):
        assert gateway.get("/public/x").body == b"abc"


def test_bytes_may_come_one_by_one(gateway: Gateway, upstream: RecordingUpstream) -> None:
    whole = response(200, ["Transfer-Encoding: chunked", "X-A: b"], None) + chunked(b"abc", b"de")
    upstream.on("/public/x", raw(*(whole[i : i + 1] for i in range(len(whole))), pause=0.0005))
    assert gateway.get("/public/x").body == b"abcde"


def test_equal_lengths_on_several_lines_are_one_or_none(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """RFC 9112 6.3 allows a recipient to merge identical values; two must never be forwarded."""
    upstream.on("/public/x", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"))
    got = gateway.get("/public/x")
    assert (got.status, got.values("content-length")) in ((200, [b"2"]), (502, got.values("content-length")))


def test_the_head_of_a_get_has_no_body(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for framing, expected in (
        ("Content-Length: 12345", [b"12345"]),
        ("Transfer-Encoding: chunked", []),
        ("X-No-Framing: 1", []),
    ):
        upstream.on("/public/x", raw(response(200, [framing, 'ETag: "x"'], None)))
        with gateway.caller() as caller:
            caller.send(request("/public/x", method="HEAD"))
            got = caller.receive("HEAD")
            assert (got.status, got.values("content-length"), got.value("etag")) == (200, expected, b'"x"')
            caller.send(request("/public/y"))
            assert caller.receive().body == b"upstream"


@pytest.mark.parametrize("status", [204, 304])
def test_no_content_has_none(gateway: Gateway, upstream: RecordingUpstream, status: int) -> None:
    upstream.on("/public/x", raw(response(status, ['ETag: "x"', "X-A: 1"], None)))
    with gateway.caller() as caller:
        for _ in range(3):
            caller.send(request("/public/x"))
            got = caller.receive()
            assert (got.status, got.value("etag"), got.body) == (status, b'"x"', b"")
            assert not got.head.has("transfer-encoding")
        caller.send(request("/public/y"))
        assert caller.receive().body == b"upstream"


def test_a_304_can_carry_the_length_of_its_200(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/public/x", raw(response(304, ["Content-Length: 9000", 'ETag: "x"'], None)))
    with gateway.caller() as caller:
        caller.send(request("/public/x", fields=['If-None-Match: "x"']))
        got = caller.receive()
        assert (got.status, got.value("etag")) == (304, b'"x"')
        assert got.values("content-length") == ([] if stock(gateway.face, "304 length") else [b"9000"])
        caller.send(request("/public/y"))
        assert caller.receive().body == b"upstream"


# ---- trailers and interim responses


def test_response_trailers_are_passed_on(gateway: Gateway, upstream: RecordingUpstream) -> None:
    head = response(200, ["Transfer-Encoding: chunked", "Trailer: X-Check, X-More"], None)
    upstream.on("/public/x", raw(head + chunked(b"abc", trailers=["X-Check: 1", "X-More: 2", "X-Check: 3"])))
    got = gateway.get("/public/x", "TE: trailers", "Connection: TE")
    assert (got.whole, got.body) == (True, b"abc")
    lost = stock(gateway.face, "response trailers") or lacks(gateway.engine, "trailers")
    expected = [] if lost else [(b"x-check", b"1"), (b"x-more", b"2"), (b"x-check", b"3")]
    assert [(name.lower(), value) for name, value in got.trailers] == expected
    promised = [] if lacks(gateway.engine, "trailers") else [b"trailers"]
    assert upstream.only.values("te") == promised, "who says `TE: trailers` does not lose them (RFC 9110 10.1.4)"


def test_a_trailer_never_becomes_a_field_of_the_head_or_frames_anything(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    head = response(200, ["Transfer-Encoding: chunked"], None)
    upstream.on(
        "/public/x", raw(head + chunked(b"abc", trailers=["Content-Length: 999", "Set-Cookie: a=b", "Connection: x"]))
    )
    with gateway.caller() as caller:
        caller.send(request("/public/x", fields=["TE: trailers"]))
        got = caller.receive()
        assert (got.whole, got.body) == (True, b"abc")
        assert not got.head.has("set-cookie")
        assert not any(
            name.lower() in (b"content-length", b"connection", b"transfer-encoding") for name, _ in got.trailers
        )
        caller.send(request("/public/y"))
        assert caller.receive().body == b"upstream"


def test_interim_responses_are_passed_on_in_order(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """RFC 9110 15.2. A 100 is not forwarded: the client or the gateway itself waited for it."""
    links = b"Link: </a.css>; rel=preload\r\nLink: </b.js>\r\n"
    hints = b"HTTP/1.1 103 Early Hints\r\n" + links + b"Connection: x-hop\r\nX-Hop: 1\r\n\r\n"
    others = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nX-A: 1\r\n\r\nHTTP/1.1 199 What\r\n\r\n"
    upstream.on("/public/x", raw(others, hints, hints + others, response(200, ["X-Final: 1"], b"ok"), pause=0.01))
    with gateway.caller() as caller:
        caller.send(request("/public/x"))
        got = caller.receive()
        assert (got.status, got.body, got.value("x-final")) == (200, b"ok", b"1")
        interim = [] if stock(gateway.face, "interim responses") else [102, 199, 103, 103, 102, 199]
        assert [head.status for head in got.interim] == interim
        for head in got.interim:
            assert head.values("link") == ([b"</a.css>; rel=preload", b"</b.js>"] if head.status == 103 else [])
            assert head.values("x-a") == ([b"1"] if head.status == 102 else [])
            assert not head.has("x-hop")
            assert not head.has("date")
        caller.send(request("/public/y"))
        assert caller.receive().body == b"upstream"


@pytest.mark.parametrize("status", [102, 103, 104, 199])
def test_an_interim_response_reaches_the_client_before_the_final_one(
    gateway: Gateway, upstream: RecordingUpstream, status: int
) -> None:
    if stock(gateway.face, "interim responses"):
        pytest.skip("uvicorn cannot send one")
    held = HeldConnection(before=b"HTTP/1.1 %d Interim\r\nX-A: 1\r\n\r\n" % status, after=response(200, [], b"ok"))
    upstream.on("/public/x", held)
    with gateway.caller() as caller:
        head = caller.send(request("/public/x")).receive_head()
        assert (head.status, head.values("x-a")) == (status, [b"1"])
        held.release()
        assert caller.receive().body == b"ok"


def test_an_http_1_0_caller_gets_no_interim_response(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/public/x", raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + response(200, [], b"ok")))
    got = gateway.ask(request("/public/x", version="1.0"))
    assert (got.status, got.interim) == (200, ())


def test_endless_interim_responses_are_given_up_on(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """`response_timeout` applies until the final head."""
    upstream.on("/hasty/x", raw(*[b"HTTP/1.1 102 Processing\r\n\r\n"] * 60, pause=0.01))
    assert gateway.get("/hasty/x").refused() == (504, "upstream_timeout")


@pytest.mark.parametrize(
    "sent", [b"HTTP/1.1 102 P\r\n\r\n" * 101, b"HTTP/1.1 103 H\r\nX: %b\r\n\r\n" % (b"x" * 30_000) * 3]
)
def test_interim_responses_are_bounded_in_number_and_size(
    gateway: Gateway, upstream: RecordingUpstream, sent: bytes
) -> None:
    upstream.on("/public/x", raw(sent + response(200, [], b"ok")))
    assert gateway.get("/public/x").refused() == (502, "upstream_invalid")
    eventually(lambda: upstream.only.link.ended)


# ---- Date


@pytest.mark.parametrize("status", [200, 204, 205, 304, 404, 503])
def test_a_response_without_a_date_gets_one(gateway: Gateway, upstream: RecordingUpstream, status: int) -> None:
    """RFC 9110 6.6.1."""
    upstream.on("/public/x", raw(response(status, ["X-A: 1"], None if status in (204, 304) else b"")))
    assert abs(date_of(gateway.get("/public/x")) - time.time()) < 5


def test_the_same_head_gets_the_date_of_each_response(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/public/x", answer(200, ["X-A: 1"], b"ok"))
    with gateway.caller() as caller:

        def date() -> float:
            return date_of(caller.send(request("/public/x")).receive())

        first = date()
        eventually(lambda: date() > first)


def test_the_date_of_an_upstream_is_kept(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for spelling in ("Date", "date", "DATE"):
        upstream.on("/public/x", answer(200, [f"{spelling}: {LONG_AGO}"], b"ok"))
        for _ in range(2):
            assert gateway.get("/public/x").values("date") == [LONG_AGO.encode()]


def test_a_date_for_the_connection_only_is_replaced(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/public/x", answer(200, [f"Date: {LONG_AGO}", "Connection: Date"], b"ok"))
    (date,) = gateway.get("/public/x").values("date")
    assert date != LONG_AGO.encode()


# ---- responses without content


@pytest.mark.parametrize("status", [204, 205])
@pytest.mark.parametrize(
    "framing", ["Content-Length: 0", "Content-Length: 5", "Transfer-Encoding: chunked", "X-None: 1"]
)
def test_204_and_205_have_neither_length_nor_content(
    gateway: Gateway, upstream: RecordingUpstream, status: int, framing: str
) -> None:
    """RFC 9110 8.6 and 15.3.6."""
    body = {"Content-Length: 5": b"hello", "Transfer-Encoding: chunked": b"5\r\nhello\r\n0\r\n\r\n"}.get(framing, b"")
    upstream.on("/public/x", raw(response(status, [framing, "X-A: 1"], None) + body))
    with gateway.caller() as caller:
        for _ in range(2):
            got = caller.send(request("/public/x")).receive()
            assert (got.status, got.body, got.whole, got.values("x-a")) == (status, b"", True, [b"1"])
            assert not got.head.has("content-length")
        assert caller.send(request("/public/y")).receive().body == b"upstream"


def test_a_205_to_http_1_0_ends_with_the_connection(gateway: Gateway, upstream: RecordingUpstream) -> None:
    if stock(gateway.face, "HTTP/1.0 framing"):
        pytest.skip("uvicorn answers HTTP/1.0 in chunks")
    upstream.on("/public/x", raw(response(205, ["Content-Length: 5"], None) + b"hello"))
    got = gateway.ask(request("/public/x", version="1.0"))
    assert (got.status, got.body, got.framing, got.whole) == (205, b"", "close", True)
