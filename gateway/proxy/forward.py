"""Builds the upstream request from an admission, as a pure function.

The order of the steps is essential. When the request is read, fields of the connection and fields reserved for the
gateway are dropped. Then the fields that `Connection` names are dropped. The gateway's own fields are added last, so
that no client can have them removed as hop-by-hop (CVE-2024-45410, CVE-2021-32813).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from gateway.errors import Refusal
from gateway.gate.admission import Admission, Peer, RequestHead
from gateway.identity.principal import Principal
from gateway.identity.user import Claims
from gateway.policy.rewrite import PrefixStrip
from gateway.policy.route import Route
from gateway.proxy.balancer import HashKey
from gateway.wire import max_forwards
from gateway.wire.fields import MAX_FORWARDS, REMEMBERED_SIZE, Action, Field, FieldRules, RequestFields, list_members
from gateway.wire.websocket import Handshake, field_value, handshake_of, valid_key, without_credential

# RFC 9110 9.2.2: sending one of these twice has the effect of sending it once.
IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))


class UpstreamRequest:
    """A request for the upstream, without the Host line, which depends on the target.

    `start` is the request line. `fields` is the header block without Host, including the framing. `length` is the
    length of the body in bytes, None for a chunked body, 0 for none. `limit` is the largest body in bytes, 0 for no
    limit. `response_timeout` is in seconds or None. `preserved_host` is the client's Host, if the upstream gets it.
    `hash_key` chooses the target of an upstream that balances by a hash; None without a key. `handshake` is the
    WebSocket handshake that a 101 must answer; None for other requests. `plan` and `head` are those of the
    client's request; None for a health check.
    """

    limit = 0
    response_timeout: float | None = None
    preserved_host: bytes | None = None
    hash_key: bytes | None = None
    plan: "ForwardPlan | None" = None
    head: RequestHead | None = None

    def __init__(self, method: bytes, start: bytes, fields: bytes, *, length: int | None) -> None:
        self.method = method
        self.start = start
        self.fields = fields
        self.length = length
        self.handshake: Handshake | None = None

    @property
    def is_repeatable(self) -> bool:
        """Whether the request can be sent again after it was sent completely (RFC 9110 9.2.2). Bodies are not kept."""
        return self.length == 0 and self.method in IDEMPOTENT

    def forget_head(self) -> None:
        """Drop the sent head during a long response."""
        self.start = self.fields = b""
        self.plan = self.head = None

    @property
    def field_lines(self) -> list[Field]:
        """Return the fields as names and values."""
        return [(name, value) for name, _, value in (line.partition(b": ") for line in self.fields.split(b"\r\n")[:-1])]


# Options of Connection that name no field to drop.
_PLAIN_CONNECTION: Final = frozenset((None, b"keep-alive", b"Keep-Alive", b"close", b"Close"))
_NAMEABLE: Final = (Action.KEEP, Action.AUTHORIZATION, Action.FORWARDING, Action.CONDITIONAL, Action.COOKIE)
_CONNECTION_OPTIONS: Final = frozenset((b"keep-alive", b"close", b"upgrade", b"te"))
# RFC 9110 7.6.3: the protocol version of the client's request. 2 stands for newer versions of an ASGI server too.
_VERSIONS: Final = (b"1.0", b"1.1", b"2")
_PREFIX: Final = re.compile(rb"(?:/[0-9A-Za-z._~!$&'()*+,:@=%-]++)++/?+")
_HOST_LINES: Final = b"X-Forwarded-Host: %b\r\nX-Forwarded-Port: %b\r\n"


class OwnCookieFilter(Protocol):
    """Takes the gateway's own cookies out of the fields of a response."""

    def removed_from(self, fields: Sequence[Field]) -> Sequence[Field]: ...


class ForwardPlan:
    """The parts of forwarding that depend only on the route, computed when the policy is loaded.

    `max_body` is in bytes, 0 for no limit. `assertion` makes the field line with which the upstream verifies the
    caller; None: the upstream gets none. `credential_lines` makes the identity headers about the credential, and
    `names_credential` is true with one of both. `hash_key` finds the key that chooses the target; None: the upstream
    balances without a key. `own_cookies` is None without sessions. `own_paths` are the paths of the gateway that
    browsers can open. `prefix` is the part of the path that `strip_prefix` removes, and `base` the base path of the
    upstream, where the path is otherwise unchanged. `changes_cookies`: Set-Cookie of a response is
    rewritten.
    """

    __slots__ = (
        "assertion",
        "base",
        "changes_cookies",
        "credential_lines",
        "hash_key",
        "max_body",
        "method_override",
        "names_credential",
        "own_cookies",
        "own_paths",
        "passes_credentials",
        "prefix",
        "preserve_host",
        "response_timeout",
        "rewrites_responses",
    )

    def __init__(
        self,
        route: Route,
        *,
        max_body: int,
        response_timeout: float | None,
        preserve_host: bool,
        rewrites_responses: bool = False,
        method_override: bool = False,
        assertion: Callable[[Principal, Claims], bytes] | None = None,
        credential_lines: Callable[[Claims], bytes] | None = None,
        hash_key: HashKey | None = None,
        own_cookies: OwnCookieFilter | None = None,
        own_paths: frozenset[bytes] = frozenset(),
    ) -> None:
        self.passes_credentials = route.passes_credentials
        self.max_body = max_body
        self.response_timeout = response_timeout
        self.preserve_host = preserve_host
        self.rewrites_responses = rewrites_responses
        self.method_override = method_override
        self.assertion = assertion
        self.credential_lines = credential_lines
        self.names_credential = assertion is not None or credential_lines is not None
        self.hash_key = hash_key
        self.own_cookies = own_cookies
        self.own_paths = own_paths
        stripped, self.base = 0, b""
        if isinstance(route.rewrite, PrefixStrip):
            stripped, self.base = route.rewrite.count, route.rewrite.base
        self.prefix = "/".join(route.pattern.split("/")[: stripped + 1]).encode()
        self.changes_cookies = own_cookies is not None or bool(self.prefix or self.base)


def upstream_request(admission: Admission, plan: ForwardPlan, rules: FieldRules, length: int | None) -> UpstreamRequest:
    """Build the upstream request. `length` is that of the body in bytes, None for a chunked body.

    Raises Refusal `body_too_large` if the announced length is over the route's limit, and `bad_request` for a TRACE
    with a body.
    """
    if length != 0:
        _check_body(admission, plan, length)
    request = UpstreamRequest(
        admission.request.method,
        b"%b %b HTTP/1.1\r\n" % (admission.request.method, _target(admission)),
        _field_block(admission, plan, rules, length),
        length=length,
    )
    request.limit = plan.max_body
    request.response_timeout = plan.response_timeout
    if plan.preserve_host:
        request.preserved_host = admission.request.fields.host
    request.plan = plan
    request.head = admission.request
    if plan.hash_key is not None:
        request.hash_key = plan.hash_key(admission.request, request.fields)
    return request


def _check_body(admission: Admission, plan: ForwardPlan, length: int | None) -> None:
    if admission.request.method == b"TRACE":  # RFC 9110 9.3.8
        raise Refusal("bad_request", "a TRACE with a body", route=admission.route.name)
    if length is not None and length > plan.max_body > 0:
        raise Refusal("body_too_large", f"announced {length} bytes", route=admission.route.name)


def websocket_request(admission: Admission, plan: ForwardPlan, rules: FieldRules) -> UpstreamRequest:
    """Build the WebSocket handshake (RFC 6455 4.1) with the client's own key, so that client and upstream complete it
    together and the gateway relays. Raises Refusal `bad_request` for an invalid handshake."""
    fields, route = admission.request.fields.kept, admission.route.name
    key = field_value(fields, b"sec-websocket-key")
    if field_value(fields, b"sec-websocket-version") != b"13":
        version = (b"sec-websocket-version", b"13")  # RFC 6455 4.2.2: the client can try again with this version
        raise Refusal("bad_request", "a WebSocket of another version than 13", route=route, headers=(version,))
    if key is None or not valid_key(key):
        raise Refusal("bad_request", "no good Sec-WebSocket-Key", route=route)
    request = upstream_request(admission, plan, rules, 0)
    request.handshake = handshake_of(key, request.field_lines)
    return request


def _target(admission: Admission) -> bytes:
    """Return the path and the unchanged query."""
    target = admission.target
    path: bytes = target.path if admission.route.rewrite is None else admission.upstream_path()
    return path if target.query is None else b"%b?%b" % (path, target.query)


def _field_block(admission: Admission, plan: ForwardPlan, rules: FieldRules, length: int | None) -> bytes:
    """Build the header block: the client's end-to-end fields in their order, then the gateway's."""
    request, principal = admission.request, admission.principal
    fields = request.fields
    caller_lines = fields.sent_with_credentials if plan.passes_credentials else fields.sent
    if caller_lines is None:
        caller_lines = _caller_lines(request, plan, rules)
    identity_lines = b""
    if principal is not None:
        identity_lines = _credential_lines(admission, plan) if plan.names_credential else principal.header_lines
    unframed = length == 0 and fields.te is None and fields.content_length is None and not request.websocket
    return b"%b%b%b%b" % (
        caller_lines,
        b"" if unframed else _framing_lines(request, length),
        identity_lines,
        _forwarding_lines(request, plan),
    )


def _credential_lines(admission: Admission, plan: ForwardPlan) -> bytes:
    """Return the identity headers, those about the credential, and the assertion for this upstream. A TRACE carries no
    assertion, because its response shows the request to the client (RFC 9110 9.3.8)."""
    principal, claims = admission.principal, admission.claims
    assert principal is not None and claims is not None
    lines = principal.header_lines
    if plan.credential_lines is not None:
        lines += plan.credential_lines(claims)
    if plan.assertion is not None and admission.request.method != b"TRACE":
        lines += plan.assertion(principal, claims)
    return lines


def _caller_lines(request: RequestHead, plan: ForwardPlan, rules: FieldRules) -> bytes:
    """Return the lines of the client's end-to-end fields. They are cached with the fields, so a repeated header block
    costs nothing. Requests with a trace of their own are not cached."""
    fields = request.fields
    if fields.connection in _PLAIN_CONNECTION and not _is_exceptional(request, plan):
        lines = fields.shape.kept.lines(fields.values)
    else:
        kept = _end_to_end(request, plan, rules)
        if request.websocket:
            kept = without_credential(kept)
        if request.trace is not None:
            return _lines(request.trace.sent_on(kept))
        lines = _lines(kept)
        if fields.shape.has_conditional:
            return lines  # they differ by upstream and method
    if len(lines) > REMEMBERED_SIZE:
        return lines  # no other request repeats them
    # A connection keeps one copy. Clients seldom alternate between routes with and without credentials.
    if plan.passes_credentials:
        fields.sent, fields.sent_with_credentials = None, lines
    else:
        fields.sent, fields.sent_with_credentials = lines, None
    return lines


def _is_exceptional(request: RequestHead, plan: ForwardPlan) -> bool:
    """Return whether other fields are forwarded than those that every route forwards for every peer."""
    shape = request.fields.shape
    if plan.passes_credentials and Action.AUTHORIZATION in shape.apart:
        return True
    if request.peer.trusted and Action.FORWARDING in shape.apart:
        return True
    return shape.has_conditional or request.websocket or request.trace is not None


def _lines(fields: Iterable[Field]) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def _framing_lines(request: RequestHead, length: int | None) -> bytes:
    """Return the lines for the framing of the body and the connection to the upstream."""
    fields, line = request.fields, b""
    if length is None:
        line = b"Transfer-Encoding: chunked\r\n"
    elif fields.content_length is not None:
        line = b"Content-Length: %d\r\n" % length
    if request.websocket:
        return line + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    if fields.te is not None and b"trailers" in list_members(fields.te):
        # RFC 9110 10.1.4: TE concerns one connection, so the gateway states itself that it passes trailers back.
        return line + b"TE: trailers\r\nConnection: TE\r\n"
    return line


def _end_to_end(request: RequestHead, plan: ForwardPlan, rules: FieldRules) -> list[Field]:
    """Return the client's fields to forward, in their order."""
    kept, connection = _with_those_apart(request, plan), request.fields.connection
    if connection is not None and connection not in _PLAIN_CONNECTION:
        kept = _without_named(kept, connection, rules)
    return kept


def _with_those_apart(request: RequestHead, plan: ForwardPlan) -> list[Field]:
    """Return the kept fields together with the separated fields that this route and this peer forward, in their
    original order."""
    fields, kept = request.fields, request.fields.kept
    apart = [*fields.credentials] if plan.passes_credentials else []
    if request.peer.trusted:
        apart += fields.forwarding
    if fields.shape.has_conditional:
        apart += max_forwards.sent_on(request.method, fields)
        if plan.method_override:
            apart += [placed for placed in fields.conditional if placed[1][0].lower() != MAX_FORWARDS]
    whole: list[Field] = []
    copied = 0
    for index, field in sorted(apart, key=lambda placed: placed[0]):  # a stable sort keeps the order of equal indexes
        whole += kept[copied:index]
        whole.append(field)
        copied = index
    return whole + kept[copied:]


def _without_named(kept: list[Field], connection: bytes, rules: FieldRules) -> list[Field]:
    """Drop the fields that Connection names (RFC 9110 7.6.1). Framing and the gateway's own fields are not in `kept`,
    so naming them has no effect. Max-Forwards stays, because a loop would never end without it."""
    named = set(list_members(connection)) - _CONNECTION_OPTIONS - {MAX_FORWARDS}
    named = {name for name in named if rules.action(name) in _NAMEABLE}
    return [field for field in kept if field[0].lower() not in named] if named else kept


def _forwarding_lines(request: RequestHead, plan: ForwardPlan) -> bytes:
    """Return X-Request-Id, X-Forwarded-* and Via. The client's fields of these names were dropped when its head was
    read."""
    host, peer = request.fields.host, request.peer
    if host is None or host != peer.host or plan.prefix:
        if host is None or peer.trusted or plan.prefix:
            return _appended_lines(request, plan)
        peer.host, peer.host_lines = host, peer.forwarded + _HOST_LINES % (host, _port(host, peer.scheme))
    return b"X-Request-Id: %b\r\n%bVia: %b gateway\r\n" % (
        request.request_id,
        peer.host_lines,
        _VERSIONS[request.minor],
    )


def _appended_lines(request: RequestHead, plan: ForwardPlan) -> bytes:
    """Return the same lines for a trusted proxy, whose values are extended, for a stripped prefix, and for a client of
    HTTP/1.0 without Host."""
    fields, peer, prefix = request.fields, request.peer, plan.prefix
    address, scheme, host = peer.address.encode("ascii", "replace"), peer.scheme.encode(), fields.host
    port = _port(host, peer.scheme)
    if peer.trusted:
        port = fields.forwarded_port or b""
        port = port if port.isdigit() else _stated_port(fields, peer)
        prefix = stated_prefix(fields) + prefix
        address = _appended(fields.forwarded_for, address)
        scheme = _appended(fields.forwarded_proto, scheme)
        host = _appended(fields.forwarded_host, host) if host else fields.forwarded_host
    return b"X-Request-Id: %b\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n%b%bVia: %b gateway\r\n" % (
        request.request_id,
        address,
        scheme,
        _HOST_LINES % (host, port) if host else b"X-Forwarded-Port: %b\r\n" % port,
        b"X-Forwarded-Prefix: %b\r\n" % prefix if prefix else b"",
        _VERSIONS[request.minor],
    )


def _stated_port(fields: RequestFields, peer: Peer) -> bytes:
    """Return the port that clients of a trusted proxy use, from the host and the scheme that it states."""
    host = fields.forwarded_host or fields.host
    scheme = peer.scheme if fields.forwarded_proto is None else first_member(fields.forwarded_proto).decode("latin-1")
    return _port(None if host is None else first_member(host), scheme)


def stated_prefix(fields: RequestFields) -> bytes:
    """Return the prefix that a trusted proxy states, or nothing if it is not a path.

    Many proxies forward the X-Forwarded-Prefix of their clients. `//host`, `.host` or `/;Domain=host` in front of a
    path would lead redirects and cookies to another site.
    """
    stated = fields.forwarded_prefix
    return stated.rstrip(b"/") if stated is not None and _PREFIX.fullmatch(stated) else b""


def first_member(members: bytes) -> bytes:
    """Return the first member of a list, which is the one of the outermost proxy."""
    return members.partition(b",")[0].strip(b" \t")


def _port(host: bytes | None, scheme: str) -> bytes:
    """Return the port of a Host, or the default of the scheme. An IPv6 address without a port ends in a bracket."""
    port = b"" if host is None else host.rpartition(b":")[2]
    return port if port.isdigit() else _default_port(scheme)


def _default_port(scheme: str) -> bytes:
    return b"443" if scheme.lower() in ("https", "wss") else b"80"


def _appended(before: bytes | None, own: bytes) -> bytes:
    return b"%b, %b" % (before, own) if before else own
