"""What crosses from deciding to doing: the request as it was read, and the one frozen value that says it may pass."""

from collections.abc import Awaitable, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

from gateway.identity.principals import Principal
from gateway.identity.records import Claims
from gateway.policy.cors import without_cors
from gateway.policy.route import Route
from gateway.wire.addresses import TrustedProxies
from gateway.wire.fields import Field, RequestFields
from gateway.wire.forwarded import client_address
from gateway.wire.paths import Target
from gateway.wire.request_ids import acceptable_request_id

D = TypeVar("D")

_LONGEST_ORIGIN: Final = 512  # bytes


class Peer:
    """The other end of one connection: its address ("" where there is none), the scheme it speaks, and whether it is a
    proxy whose X-Forwarded-* are believed. `forwarded` are the lines by which an upstream is told of it where it is
    none. Made once for each connection."""

    __slots__ = ("address", "forwarded", "proxies", "scheme", "trusted")

    def __init__(self, address: str, scheme: str, proxies: TrustedProxies) -> None:
        self.address = address
        self.scheme = scheme
        self.proxies = proxies
        self.trusted = proxies.trusts(address)
        self.forwarded = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (
            address.encode("ascii", "replace"),
            scheme.encode("ascii"),
        )


class Trace(Protocol):
    """The trace that a request belongs to; `trace_id` is 32 hexadecimal digits."""

    @property
    def trace_id(self) -> str: ...

    async def look_up(self, concluding: Awaitable[D]) -> D:
        """What the gate says once the stores have been asked."""

    def sent_on(self, fields: list[Field]) -> list[Field]:
        """The fields of the request to the upstream, which is to continue the trace."""


class RequestHead:
    """A request head as a face has read it: nothing decided yet, everything the decision needs.

    `target` is the request target as it was sent, `minor` the 0 or 1 of HTTP/1.x, 2
    for any later version. `request_id` is the caller's where
    that is acceptable, else `made_id`. `trace` is None where nothing is traced.
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
        """The caller's address: the socket's, or the one that the trusted proxies in front of us vouch for."""
        if self.peer.trusted and self.fields.forwarded_for:
            return client_address(self.peer.address, self.fields.forwarded_for, self.peer.proxies)
        return self.peer.address

    def keep_for_log(self) -> None:
        """Drop the fields that only the decision and the upstream need. An event stream lasts for hours, and a head is
        up to 250 KB of objects."""
        kept = RequestFields()
        # A reload decides again on the origin of a WebSocket. No origin that cors lists is longer.
        kept.kept = [(name, value[:_LONGEST_ORIGIN]) for name, value in self.fields.kept if name.lower() == b"origin"][
            :2
        ]
        kept.request_id, kept.canonical_host = self.fields.request_id, self.fields.canonical_host
        if self.peer.trusted and self.fields.forwarded_for:
            kept.forwarded_for = self.client.encode("ascii")
        self.fields = kept
        self.target = self.target.partition(b"?")[0]


class Admission(NamedTuple):
    """The request may pass: on which route, to which canonical target, on whose behalf.

    `principal` is None for an anonymous caller, and always on routes with `auth: none`. `claims` are those of the
    token that was presented and accepted. `response_fields` are added to whatever the answer is; there are none on a
    plain route.
    """

    route: Route
    captures: tuple[tuple[str, bytes], ...]
    target: Target
    principal: Principal | None
    claims: Claims | None
    request: RequestHead
    response_fields: tuple[Field, ...] = ()

    def response_head(self, fields: Sequence[Field]) -> list[Field]:
        """The fields of the answer, made of those of the upstream's or of a refusal."""
        kept = fields if self.route.cors is None else without_cors(fields)
        return [*kept, *self.response_fields]

    def lasting(self) -> "Admission":
        """The same for a WebSocket or an event stream that has begun: without most of its head."""
        self.request.keep_for_log()
        return self._replace(target=self.target._replace(query=None))


class Answered(NamedTuple):
    """The gate has answered the request itself: a status without a body, and its fields."""

    route: Route
    status: int
    fields: tuple[Field, ...]


class Waiting(NamedTuple):
    """The decision needs what is not at hand: what a credential says, a user record, a count that replicas share.
    `Gate.conclude` asks for it, and may wait for a store.

    `admitted` is what it will be if only the count is missing; without it, `claims` say whose record is, and without
    those the `credential` must be asked about first.
    """

    route: Route
    captures: tuple[tuple[str, bytes], ...]
    target: Target
    claims: Claims | None
    request: RequestHead
    admitted: Admission | None = None
    credential: bytes = b""
