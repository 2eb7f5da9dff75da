"""A strict reference reader of responses: from the bytes that an upstream sends to the response that a client must get.

Rules come from RFC 9112, RFC 9110 and the documentation of the gateway; the code of the gateway is not used.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from tests.fuzz.reference import MAX_FIELDS
from tests.fuzz.wire import (
    DIGITS,
    Field,
    Incomplete,
    Malformed,
    chunked_body,
    field_lines,
    is_text,
    members,
    values,
)

Then = Literal["keep", "fin", "reset"]

MAX_HEAD: Final = 16384  # upstreams.*.max_head_size of the gateway under test, in bytes
MAX_INTERIM: Final = 100  # docs/upstreams.md
_BODILESS: Final = frozenset((204, 205, 304))
# RFC 9110 7.6.1, and the fields of proxy authentication.
_HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authentication-info te transfer-encoding "
    b"upgrade".split()
)


class Asked(NamedTuple):
    """The parts of a request that decide on the form of its response."""

    method: str = "GET"
    minor: int = 1


@dataclass(frozen=True, slots=True)
class Given:
    """A whole response as the client must get it: `fields` are the end-to-end fields, in their order."""

    status: int
    reason: bytes
    fields: tuple[Field, ...]
    body: bytes
    length: int | None = None
    interim: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The allowed outcomes of a response: the client gets it whole (`given`), gets a part of `begun` that does not look
    whole, or gets a 502. At least one of them is set.

    `announced` marks a response that has no body and announces one: its connection must not serve a second request.
    `extra` marks bytes after a whole response. `ends` marks one that only the end of the connection completes.
    """

    given: Given | None
    begun: Given | None = None
    refused: bool = False
    announced: bool = False
    extra: bool = False
    ends: bool = False


class _Head(NamedTuple):
    version: bytes
    status: int
    reason: bytes
    fields: list[Field]


def read(data: bytes, then: Then, asked: Asked) -> Outcome:
    """Predict the response to a request for which an upstream sends these bytes, and acts so behind them."""
    interim: tuple[int, ...] = ()
    doubtful = False
    for _ in range(MAX_INTERIM + 1):
        while data.startswith(b"\r\n"):  # RFC 9112 2.2 asks servers alone to ignore empty lines
            data, doubtful = data[2:], True
        block, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            return Outcome(None, refused=True, ends=True)
        try:
            head = _head(block + end)
            if head.status >= 200:
                break
            length, chunked = _framing(head)
        except Malformed:
            return Outcome(None, refused=True)
        # RFC 9112 6.3 ends these responses at the empty line. A client that expects the announced body disagrees.
        if head.status == 101 or length or chunked:
            return Outcome(None, refused=True)
        if head.status != 100 and asked.minor:
            interim += (head.status,)
        doubtful = doubtful or head.version == b"HTTP/1.0"  # RFC 9110 15.2: HTTP/1.0 has no interim responses
        data = rest
    else:
        return Outcome(None, refused=True)
    outcome = _final(head, rest, then, asked, interim)
    if doubtful or len(interim) > 5:
        return replace(outcome, refused=True)
    return outcome


def _head(block: bytes) -> _Head:
    """Raises Malformed."""
    if len(block) > MAX_HEAD:
        raise Malformed("a head beyond the limit")
    line, _, section = block[:-2].partition(b"\r\n")
    version, space, rest = line.partition(b" ")
    status, reason = rest[:3], rest[3:]
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not space:
        raise Malformed("not HTTP/1.1")
    if len(status) != 3 or not DIGITS.issuperset(status) or not b"100" <= status <= b"599":
        raise Malformed("not a status")
    if (reason and not reason.startswith(b" ")) or not is_text(reason):
        raise Malformed("not a reason phrase")
    return _Head(version, int(status), reason[1:], field_lines(section))


def _final(head: _Head, rest: bytes, then: Then, asked: Asked, interim: tuple[int, ...]) -> Outcome:
    """RFC 9112 6.3: the body of a final response."""
    bodiless = asked.method == "HEAD" or head.status in _BODILESS
    try:
        length, chunked = _framing(head)
    except Malformed:
        return Outcome(None, refused=True)
    if bodiless:
        stated = length if head.status not in (204, 205) else None
        announced = bool(length or chunked) and head.status in _BODILESS
        given = _given(head, b"", stated, interim)
        # Not every reader accepts a 205 with a body; the remaining bytes of the connection do not matter.
        refused = head.status == 205 and announced
        return Outcome(given, given if refused else None, refused, announced, extra=bool(rest))
    if chunked:
        return _in_chunks(head, rest, interim)
    if length is None:
        given = _given(head, rest, None, interim)
        return Outcome(given, ends=True) if then != "reset" else Outcome(None, given, refused=True)
    given = _given(head, rest[:length], length, interim)
    if len(rest) < length:
        return Outcome(None, given, refused=True, ends=True)
    return Outcome(given, extra=len(rest) > length)


def _in_chunks(head: _Head, rest: bytes, interim: tuple[int, ...]) -> Outcome:
    try:
        body = chunked_body(rest)
    except Malformed as fault:
        return Outcome(None, _given(head, fault.body, None, interim), refused=True)
    except Incomplete as some:
        return Outcome(None, _given(head, some.body, None, interim), refused=True, ends=True)
    given = _given(head, body.body, None, interim)
    if body.trailer_size > MAX_HEAD or len(body.trailers) > MAX_FIELDS:
        return Outcome(None, given, refused=True)
    doubtful = body.doubtful or body.trailer_size > MAX_HEAD * 0.9
    return Outcome(given, given if doubtful else None, refused=doubtful, extra=bool(body.rest))


def _framing(head: _Head) -> tuple[int | None, bool]:
    """The length that the head states, and whether the body is chunked instead. Raises Malformed."""
    lengths, codings = values(head.fields, b"content-length"), values(head.fields, b"transfer-encoding")
    if codings:
        if lengths or len(codings) > 1 or codings[0].lower() != b"chunked" or head.version != b"HTTP/1.1":
            raise Malformed("a Transfer-Encoding other than a plain chunked in HTTP/1.1")
        return None, True
    if not lengths:
        return None, False
    if len(lengths) > 1 or not lengths[0] or not DIGITS.issuperset(lengths[0]) or len(lengths[0]) > 18:
        raise Malformed("an odd Content-Length")
    return int(lengths[0]), False


def _given(head: _Head, body: bytes, length: int | None, interim: tuple[int, ...]) -> Given:
    named = {name for name in members(head.fields, b"connection") if name != b"content-length"}
    fields = tuple(
        (name, value)
        for name, value in head.fields
        if name.lower() not in _HOP_BY_HOP and name.lower() not in named and name.lower() != b"content-length"
    )
    return Given(head.status, head.reason, fields, body, length, interim)
