"""A strict reference reader of requests: the outcome of all bytes that a client sends on one connection.

It reads the whole stream at once, message by message, and predicts the response to each message and the requests that
reach the upstream. Rules come from RFC 9112, RFC 9110 and the documentation of the gateway; the code of the gateway is
not used. Where these sources allow several outcomes, `Message` lists all of them.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from tests.fuzz.paths import canonical_host, canonical_path
from tests.fuzz.wire import (
    DIGITS,
    LETTERS,
    Chunked,
    Field,
    Incomplete,
    Malformed,
    chunked_body,
    field_lines,
    is_text,
    is_token,
    members,
    values,
)

Framing = Literal["none", "length", "chunked"]

MAX_HEADER: Final = 8192  # server.max_header_size of the gateway under test, in bytes
MAX_BODY: Final = 65536
SMALL_BODY: Final = 64
MAX_FIELDS: Final = 1000


class Route(NamedTuple):
    """A route of the gateway under test. `status` is the status of every request, None if the upstream answers."""

    status: int | None = None
    methods: frozenset[bytes] = frozenset()
    max_body: int = MAX_BODY
    keeps_slash: bool = False


_READING: Final = frozenset((b"GET", b"HEAD"))
PUBLIC: Final = Route()
SMALL: Final = Route(max_body=SMALL_BODY)
KEPT: Final = Route(keeps_slash=True)
GET_ONLY: Final = Route(methods=_READING)
ADMIN: Final = Route(status=401)
HEALTH: Final = Route(status=200, methods=_READING)
NO_ROUTE: Final = Route(status=404)

# The methods of llhttp for HTTP; others are 501. Those of RTSP are known to it and have no place in HTTP.
METHODS: Final = frozenset(
    b"ACL BIND CHECKOUT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY OPTIONS "
    b"PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK "
    b"UNSUBSCRIBE".split()
)
_RTSP_METHODS: Final = frozenset(
    b"ANNOUNCE DESCRIBE FLUSH GET_PARAMETER PAUSE PLAY PRI RECORD REDIRECT SET_PARAMETER SETUP TEARDOWN".split()
)

# Folded names of the fields that end at the gateway: those of the connection (RFC 9110 7.6.1, 10.1), those that the
# gateway sets itself, and those that only a trusted proxy can set.
_HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization proxy-authentication-info te "
    b"trailer transfer-encoding upgrade http2-settings expect content-length".split()
)
_OURS: Final = frozenset(b"host x-request-id x-user-id x-user-email x-user-roles".split())
_FORWARDING: Final = frozenset(
    b"x-forwarded forwarded x-real-ip x-client-ip x-cluster-client-ip true-client-ip cf-connecting-ip "
    b"fastly-client-ip x-rewrite-url proxy x-http-method-override x-http-method x-method-override "
    b"script-name path-info x-script-name daphne-root-path".split()
)
_DROPPED: Final = _HOP_BY_HOP | _OURS | _FORWARDING
_DROPPED_PREFIXES: Final = (b"x-forwarded-", b"x-original-")


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A request as the upstream must get it: `fields` are the end-to-end fields of the client, in their order."""

    line: bytes
    host: bytes | None
    fields: tuple[Field, ...]
    body: bytes = b""
    framing: Framing = "none"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a connection, and its outcomes: it reaches the upstream as `forwarded`, or a response with one of
    `statuses` comes from the gateway itself.

    `closes` says whether the connection ends after the response; None leaves it to the gateway.
    """

    method: str
    forwarded: Forwarded | None
    statuses: frozenset[int] = frozenset()
    closes: bool | None = False


class Reading(NamedTuple):
    """The messages that get a response, and the state of the connection after them.

    "open": the gateway waits for the next request. "closed": it closes the connection. "incomplete": the bytes end
    inside a message; the gateway waits for more, or refuses the message early.
    """

    messages: list[Message]
    end: Literal["open", "closed", "incomplete"]


@dataclass(frozen=True, slots=True)
class _Head:
    """A head without faults. `length` is None for a chunked body. `doubtful` marks one that can be refused as well."""

    method: bytes
    target: bytes
    minor: int
    fields: list[Field]
    length: int | None
    doubtful: bool

    @property
    def persists(self) -> bool:
        """9.3: whether the connection outlives the message."""
        options = members(self.fields, b"connection")
        return b"close" not in options and (self.minor == 1 or b"keep-alive" in options)


class _Decision(NamedTuple):
    """The outcomes of a head, as in Message."""

    forwarded: Forwarded | None
    statuses: frozenset[int]
    max_body: int = MAX_BODY


def read(data: bytes) -> Reading:
    """Predict the outcome of all bytes that a client sends on a connection."""
    messages: list[Message] = []
    while True:
        while data.startswith(b"\r\n"):  # 2.2: empty lines in front of a request line
            data = data[2:]
        if not data:
            return Reading(messages, "open")
        block, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            return Reading(messages, "incomplete")
        message, behind = _message(block + end, rest)
        if message is not None:
            messages.append(message)
            if message.closes:
                return Reading(messages, "closed")
        if behind is None:
            return Reading(messages, "incomplete")
        data = behind


def _message(block: bytes, rest: bytes) -> tuple[Message | None, bytes | None]:
    """The message with this head, None if it gets no response; the bytes after it, None if it is incomplete."""
    head, faults = _head(block)
    if head is None:
        method = "HEAD" if b"HEAD" in block else "GET"
        return Message(method, None, frozenset(faults), closes=True), b""
    method = head.method.decode()
    decision = _decide(head)
    try:
        body = _body(head, rest)
    except Malformed:
        return Message(method, None, decision.statuses | {400, 413, 431}, closes=True), b""
    except Incomplete:
        if decision.forwarded is not None:
            return None, None
        # The part of a chunked body that has arrived can hold a fault already, even in a line without its end.
        early = {400, 413, 431} if head.length is None else set[int]()
        return Message(method, None, decision.statuses | early, None), None
    forwarded, statuses = _with_body(decision, body)
    if not head.persists:
        closes: bool | None = True
    elif statuses:  # a gateway that refuses a request can leave its body unread, and must close then
        sure = head.length is not None and head.length <= decision.max_body and statuses.isdisjoint({400, 413, 431})
        closes = False if sure and not values(head.fields, b"expect") else None
    else:
        closes = False
    return Message(method, forwarded, statuses, closes), body.rest


# ---- the head


def _head(block: bytes) -> tuple[_Head | None, set[int]]:
    """The head, or the statuses of its faults. The gateway refuses the fault that it meets first."""
    line, _, section = block[:-2].partition(b"\r\n")
    method, *rest = line.split(b" ")
    faults: set[int] = set()
    if len(block) > MAX_HEADER or section.count(b"\r\n") > MAX_FIELDS:
        faults.add(431)
    if method in _RTSP_METHODS or method == b"CONNECT":  # llhttp knows these, and reads the target of CONNECT
        faults |= {400, 501}
    elif method not in METHODS:
        # Garbage that begins like a method looks like one until more bytes arrive.
        faults |= {501} if is_token(method) and rest else {400, 501} if is_token(method[:1]) else {400}
    if len(rest) != 2 or not rest[0] or rest[1] not in (b"HTTP/1.1", b"HTTP/1.0") or b"\r" in line or b"\n" in line:
        faults.add(400)
    minor = 0 if line.endswith(b"0") else 1
    try:
        fields = field_lines(section)
        length = _length(fields, minor)
        if not faults:
            return _Head(method, rest[0], minor, fields, length, _ends_in_tab(section)), faults
    except Malformed:
        faults.add(400)
    return None, faults


def _ends_in_tab(section: bytes) -> bool:
    """llhttp refuses `chunked` with a tab after it, although the tab is no part of the value (RFC 9110 5.5)."""
    lines = section.lower().split(b"\r\n")
    return any(line.startswith(b"transfer-encoding:") and line.endswith(b"\t") for line in lines)


def _length(fields: list[Field], minor: int) -> int | None:
    """The length of the body, None for chunks (6.3). Raises Malformed."""
    lengths, codings = values(fields, b"content-length"), values(fields, b"transfer-encoding")
    if codings:
        if lengths or len(codings) > 1 or codings[0].lower() != b"chunked" or minor == 0:
            raise Malformed("a Transfer-Encoding other than a plain chunked in HTTP/1.1")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not lengths[0] or not DIGITS.issuperset(lengths[0]) or len(lengths[0]) > 18:
        raise Malformed("an odd Content-Length")
    return int(lengths[0])


# ---- the decision


def _decide(head: _Head) -> _Decision:
    """The order of checks is path and host, route, method, credential."""
    try:
        authority, raw_path, query = _target(head.target)
        path = canonical_path(raw_path)
        host = _host(head, authority)
    except Malformed:
        return _refused(400)
    decision = _routed(head, path, query, host)
    # The documentation is silent about a query outside ASCII, and about a URL in HTTP/1.0 without Host.
    if head.doubtful or not query.isascii() or (host is None and authority is not None):
        return decision._replace(statuses=decision.statuses | {400})
    return decision


def _routed(head: _Head, path: bytes, query: bytes, host: bytes | None) -> _Decision:
    route = _route(path)
    if _asks_for_websocket(head):
        return _refused(400, 403, 405, route.status or 403)  # a refusal by the path, the handshake, or the route
    if b"%2F" in path and not route.keeps_slash:
        return _refused(400, route.status or 400)
    if route.status == 404:
        return _refused(404)
    if head.method == b"TRACE" or (route.methods and head.method not in route.methods):
        return _refused(405)
    if route.status is not None:
        return _refused(route.status)
    line = b"%b %b%b HTTP/1.1" % (head.method, path, query)
    framing: Framing = "chunked" if head.length is None else "none"
    if values(head.fields, b"content-length"):
        framing = "length"
    forwarded = Forwarded(line, host, _end_to_end(head.fields), framing=framing)
    return _Decision(forwarded, frozenset(), route.max_body)


def _refused(*statuses: int) -> _Decision:
    return _Decision(None, frozenset(statuses))


def _target(raw: bytes) -> tuple[bytes | None, bytes, bytes]:
    """The authority of an absolute-form target, the path, and the query with its question mark (3.2)."""
    if b"#" in raw or not is_text(raw) or b"\t" in raw:
        raise Malformed("a character that no target holds")
    authority = None
    if not raw.startswith(b"/"):
        scheme, separator, rest = raw.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise Malformed("neither a path nor a URL")
        end = min(at for at in (rest.find(b"/"), rest.find(b"?"), len(rest)) if at >= 0)
        authority, raw = rest[:end], rest[end:]
    path, mark, query = raw.partition(b"?")
    return authority, path or b"/", mark + query


def _host(head: _Head, authority: bytes | None) -> bytes | None:
    """The Host as the client sent it; None in HTTP/1.0 without one."""
    hosts = values(head.fields, b"host")
    if not hosts and head.minor == 0:
        return None
    if len(hosts) != 1:
        raise Malformed("no Host, or several")
    host = canonical_host(hosts[0])
    if authority is not None and canonical_host(authority) != host:
        raise Malformed("the target names another host")
    return hosts[0]


def _route(path: bytes) -> Route:
    """The first segment picks the route. A slash at the end of a path changes nothing."""
    match path.removesuffix(b"/").split(b"/")[1:]:
        case [b"public", *_]:
            return PUBLIC
        case [b"small", *_]:
            return SMALL
        case [b"admin", *_]:
            return ADMIN
        case [b"kept", _, b"x"]:
            return KEPT
        case [b"get", b"x"]:
            return GET_ONLY
        case [b"_gateway", b"health"]:
            return HEALTH
    return NO_ROUTE


def _asks_for_websocket(head: _Head) -> bool:
    """RFC 6455 4.2.1."""
    upgrades = b"websocket" in members(head.fields, b"upgrade") and b"upgrade" in members(head.fields, b"connection")
    return upgrades and head.method == b"GET" and head.minor == 1


def fold(name: bytes) -> bytes:
    """The name as CGI upstreams read it, with a dash for every other character than letters and digits."""
    return bytes(octet if octet in DIGITS or octet in LETTERS else ord("-") for octet in name).lower()


def _end_to_end(fields: list[Field]) -> tuple[Field, ...]:
    """RFC 9110 7.6.1: fields that Connection names end at the gateway too."""
    named = set(members(fields, b"connection"))
    return tuple(
        (name, value)
        for name, value in fields
        if name.lower() not in named and fold(name) not in _DROPPED and not fold(name).startswith(_DROPPED_PREFIXES)
    )


# ---- the body


def _body(head: _Head, rest: bytes) -> Chunked:
    """The body after the head. Raises Malformed and Incomplete."""
    if head.length is None:
        return chunked_body(rest)
    if len(rest) < head.length:
        raise Incomplete(rest)
    return Chunked(rest[: head.length], [], rest[head.length :], 0, 0, doubtful=False)


def _with_body(decision: _Decision, body: Chunked) -> tuple[Forwarded | None, frozenset[int]]:
    """The outcomes of a request with a whole body, after the limits."""
    forwarded, statuses = decision.forwarded, decision.statuses
    over = {413} if len(body.body) > decision.max_body else set[int]()
    largest = max(body.extensions, body.trailer_size)
    if largest > MAX_HEADER or len(body.trailers) > MAX_FIELDS:
        over.add(431)
    # RFC 9112 does not define which bytes count as an extension.
    if MAX_HEADER * 0.9 < largest <= MAX_HEADER or body.doubtful:
        statuses |= {400, 431}
    if over:
        return None, statuses | over
    return None if forwarded is None else replace(forwarded, body=body.body), statuses
