"""Everything that the native server and the ASGI app share at run time. Built in `server/composition.py`."""

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from starlette.types import ASGIApp, Receive

from gateway.api.console.recent_refusals import RecentRefusals
from gateway.api.operations import Readiness
from gateway.errors import Refusal
from gateway.gate.admission import Admission, Peer, Peers, RequestHead
from gateway.gate.factory import GateFactory
from gateway.gate.forward_auth import Verifier
from gateway.gate.gate import Decider
from gateway.gate.revalidation import RevocationWatcher
from gateway.observability.decision_log import DecisionLog
from gateway.observability.observer import Observer
from gateway.proxy.proxy import Proxy
from gateway.samples import Sample
from gateway.settings.model import ServerSettings
from gateway.ticker import Ticker
from gateway.wire.addresses import TrustedProxies
from gateway.wire.fields import Field, FieldRules, RequestFields
from gateway.wire.request_ids import RequestIds

# Only annotations. Tracing is imported if it is configured, and WebSockets over ASGI by the ASGI application.
if TYPE_CHECKING:
    from gateway.observability.tracing import Tracer
    from gateway.server.asgi.upstream_websocket import UpstreamSocket


class Watched(Protocol):
    """A request that must react to a disconnect of its client."""

    async def watch(self, receive: Receive) -> None:
        """Wait for the client's disconnect and act on it."""


class RefusalPage(Protocol):
    """Makes the pages of refusals."""

    def __call__(self, refusal: Refusal, request: RequestHead) -> tuple[list[Field], bytes] | None:
        """The header fields, without Content-Length, and the body. None for requests that get problem+json."""


@dataclass(slots=True)
class Runtime:
    """The state of one listener.

    api: the ASGI application of the built-in endpoints, called for admitted requests.
    connections: the client connections, if the server tracks them.
    upstream_sockets: the upstream connections of WebSockets on the ASGI face.
    policy_version: the version of the active policy.
    operations: the runtime of `server.operations_port`, None without it.
    public: in that runtime, the public runtime.
    tls: the context for new connections of the public listener, None without `server.tls` and on the ASGI face.
    tracer: None without tracing.
    decision_log: None without a decision log.
    refusals: the recent refusals, for the console.
    refusal_page: makes the page for a browser that navigates; None without pages.
    """

    server: ServerSettings
    gate: Decider
    gates: GateFactory
    policy_version: str
    verifier: Verifier
    proxy: Proxy
    api: ASGIApp
    observer: Observer
    readiness: Readiness
    header_rules: FieldRules
    proxies: TrustedProxies
    ticker: Ticker
    loop: asyncio.AbstractEventLoop
    refusals: RecentRefusals
    peers: Peers = field(init=False)
    watch: RevocationWatcher = field(init=False)
    tls: ssl.SSLContext | None = None
    tracer: "Tracer | None" = None
    decision_log: DecisionLog | None = None
    refusal_page: RefusalPage | None = None
    operations: "Runtime | None" = None
    public: "Runtime | None" = None
    connections: set[Any] = field(default_factory=set)
    upstream_sockets: "set[UpstreamSocket]" = field(default_factory=set)
    request_ids: RequestIds = field(default_factory=RequestIds)
    _unwatched: dict[Watched, Receive] = field(default_factory=dict)
    _watchers: dict[Watched, asyncio.Task[None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.peers = Peers(self.proxies)
        self.watch = RevocationWatcher(self.gate, self.loop)
        self.ticker.subscribe(self.watch.tick)
        self.ticker.subscribe(self._watch_the_slow)

    @property
    def public_gate(self) -> Decider:
        """The gate for requests to upstreams, also for decisions requested on the operations port."""
        return self.gate if self.public is None else self.public.gate

    def with_operations(self, gate: Decider) -> None:
        """Create the runtime of the operations listener, with a gate for operational endpoints only."""
        self.operations = replace(self, gate=gate, public=self, connections=set(), _unwatched={}, _watchers={})

    def head(self, method: bytes, target: bytes, fields: RequestFields, peer: Peer, minor: int) -> RequestHead:
        """A request head for the gate."""
        return RequestHead(method, target, fields, peer, minor=minor, made_id=self.request_ids.next())

    def page_of(self, refusal: Refusal, request: RequestHead) -> tuple[list[Field], bytes] | None:
        """The page of a refusal, None for requests that get problem+json."""
        return None if self.refusal_page is None else self.refusal_page(refusal, request)

    def samples(self) -> Iterator[Sample]:
        """Samples of connections, policy and upstreams."""
        yield Sample("gateway_connections", (), len(self.connections))
        yield Sample("gateway_policy_info", (self.policy_version,), 1)
        yield from self.proxy.samples()

    def refused_by_endpoint(self, refusal: Refusal, admission: Admission) -> None:
        """Record a refusal by an endpoint in the decision log."""
        if self.decision_log is not None:
            self.decision_log.endpoint_refused(refusal, admission)

    def watch_disconnect(self, answer: Watched, receive: Receive, *, at_once: bool) -> None:
        """Watch for the disconnect of an ASGI client. A task costs a tenth of a quick request, so requests that can be
        quick get one at the next tick, if they still run."""
        if at_once:
            self._watchers[answer] = self.loop.create_task(answer.watch(receive))
        else:
            self._unwatched[answer] = receive

    @property
    def is_proxying(self) -> bool:
        """Whether an ASGI request is being proxied, as far as its client is watched."""
        return bool(self._unwatched or self._watchers)

    def unwatch_disconnect(self, answer: Watched) -> None:
        """Stop watching a finished request."""
        self._unwatched.pop(answer, None)
        watcher = self._watchers.pop(answer, None)
        if watcher is not None:
            watcher.cancel()

    def _watch_the_slow(self, now: float) -> None:
        for answer, receive in self._unwatched.items():
            self._watchers[answer] = self.loop.create_task(answer.watch(receive))
        self._unwatched.clear()
