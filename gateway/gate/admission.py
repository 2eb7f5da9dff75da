"""The values passed from the gate to the proxy: the parsed request head, and the frozen decision."""

from collections.abc import Awaitable, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

from gateway.identity.principal import Principal
from gateway.identity.user import Claims
from gateway.policy.cors import without_cors
from gateway.policy.rewrite import sent_path
from gateway.policy.route import Route
from gateway.wire.addresses import TrustedProxies
from gateway.wire.fields import Action, Field, HeadShape, RequestFields
from gateway.wire.forwarded import client_address
from gateway.wire.paths import RequestTarget
from gateway.wire.request_ids import acceptable_request_id

D = TypeVar("D")

_LONGEST_ORIGIN: Final = 512  # In bytes.
_ORIGINS: Final = tuple([HeadShape((b"origin",) * count, (Action.KEEP,) * count) for count in range(3)])
_HTTP_SCHEMES: Final = {"ws": "http", "wss": "https"}
# Clients choose their addresses where an ASGI server believes their X-Forwarded-For.
_MOST_PEERS: Final = 1024
_LONGEST_PEER: Final = 64  # In characters.


class Peer:
    """The client side of one connection, created once per connection.

    address: "" without an address (Unix socket).
    scheme: the scheme of the connection.
    trusted: whether the peer is a proxy whose X-Forwarded-* fields are trusted.
    forwarded: the forwarding fields sent to an upstream for an untrusted peer.
    host: the last Host that an untrusted peer sent, with all of its forwarding fields in `host_lines`.
    """

    __slots__ = ("address", "forwarded", "host", "host_lines", "proxies", "scheme", "trusted")

    def __init__(self, address: str, scheme: str, proxies: TrustedProxies) -> None:
        self.address = address
        self.scheme = scheme
        self.proxies = proxies
        self.trusted = proxies.trusts(address)
        self.forwarded = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (
            address.encode("ascii", "replace"),
            scheme.encode("ascii"),
        )
        self.host: bytes | None = None
        self.host_lines = b""


class Peers:
    """The peers of the ASGI face, where each request names its peer again."""

    def __init__(self, proxies: TrustedProxies) -> None:
        self._proxies = proxies
        self._known: dict[tuple[str, str], Peer] = {}

    def of(self, address: str, scheme: str) -> Peer:
        """The peer at an address. `scheme` is that of the ASGI scope."""
        known = self._known.get((address, scheme))
        if known is not None:
            return known
        peer = Peer(address, _HTTP_SCHEMES.get(scheme, scheme), self._proxies)
        if len(address) + len(scheme) <= _LONGEST_PEER:
            if len(self._known) >= _MOST_PEERS:
                self._known.clear()
            self._known[address, scheme] = peer
        return peer


class Trace(Protocol):
    """The trace of a request; `trace_id` is 32 hexadecimal digits."""

    @property
    def trace_id(self) -> str: ...

    async def look_up(self, concluding: Awaitable[D]) -> D:
        """Trace the store lookups of a decision, and return the decision."""

    def sent_on(self, fields: list[Field]) -> list[Field]:
        """The fields for the upstream, which continue the trace."""


class RequestHead:
    """A request head as parsed by a server, before any decision.

    `target` is the raw request target, `minor` the 0 or 1 of HTTP/1.x, 2 for later versions. `request_id` is the
    client's if acceptable, else `made_id`. `trace` is None without tracing.
    """

    __slots__ = ("fields", "method", "minor", "peer", "request_id", "target", "trace", "websocket")

    def __init__(
        self, method: bytes, target: bytes, fields: RequestFields, peer: Peer, *, minor: int, made_id: bytes
    ) -> None:
        self.method = method
        self.target = target
        self.fields = fields
        self.peer = peer
        self.minor = minor
        self.websocket = False
        self.trace: Trace | None = None
        given = fields.request_id
        self.request_id = made_id if given is None or not acceptable_request_id(given) else given

    @property
    def client(self) -> str:
        """The client's address: the peer of the socket, or the address forwarded by trusted proxies."""
        if self.peer.trusted and self.fields.forwarded_for:
            return client_address(self.peer.address, self.fields.forwarded_for, self.peer.proxies)
        return self.peer.address

    def keep_for_log(self) -> None:
        """Drop the fields that only the decision and the upstream need. Event streams last for hours, and a head can be
        250 KB of objects."""
        # A reload rechecks the origin of a WebSocket. Origins in `cors` are never longer.
        origins = [value[:_LONGEST_ORIGIN] for name, value in self.fields.kept if name.lower() == b"origin"][:2]
        kept = RequestFields(_ORIGINS[len(origins)], tuple(origins))
        kept.request_id, kept.canonical_host = self.fields.request_id, self.fields.canonical_host
        if self.peer.trusted and self.fields.forwarded_for:
            kept.forwarded_for = self.client.encode("ascii")
        self.fields = kept
        self.target = self.target.partition(b"?")[0]


class Admission(NamedTuple):
    """An allowed request: route, canonical target and principal.

    `principal` is None for an anonymous client, and on routes with `auth: none`. `claims` are those of the accepted
    credential. `response_fields` are added to every response; plain routes have none.
    """

    route: Route
    captures: tuple[tuple[str, bytes], ...]
    target: RequestTarget
    principal: Principal | None
    claims: Claims | None
    request: RequestHead
    response_fields: tuple[Field, ...] = ()

    def upstream_path(self) -> bytes:
        """The path for the upstream: the canonical path, rewritten if the route has a rewrite."""
        return sent_path(self.route.rewrite, self.captures, self.target.path)

    def response_head(self, fields: Sequence[Field]) -> list[Field]:
        """The response fields, made of those of the upstream or of a refusal."""
        kept = fields if self.route.cors is None else without_cors(fields)
        return [*kept, *self.response_fields]

    def lasting(self) -> "Admission":
        """A copy for a running WebSocket or event stream, without most of the head."""
        self.request.keep_for_log()
        return self._replace(target=self.target._replace(query=None))


class DirectResponse(NamedTuple):
    """A response by the gate itself: a status without a body, and its fields."""

    route: Route
    status: int
    fields: tuple[Field, ...]


class PendingDecision(NamedTuple):
    """A decision that needs I/O: credential verification, a user record, or a shared rate limit count. `Gate.resolve`
    completes it.

    `admitted` is the admission if only the count is missing. Without it, `claims` identify the user record to load;
    without those, the `credential` must be verified first, which is a session cookie if `by_cookie`.
    """

    route: Route
    captures: tuple[tuple[str, bytes], ...]
    target: RequestTarget
    claims: Claims | None
    request: RequestHead
    admitted: Admission | None = None
    credential: bytes = b""
    by_cookie: bool = False
