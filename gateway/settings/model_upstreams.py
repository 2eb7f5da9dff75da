"""The settings of upstreams: where requests may go."""

from dataclasses import field
from typing import Any, Literal

from gateway.settings import grammar
from gateway.settings.declare import section, setting
from gateway.settings.kinds import Choice, Duration, Flag, JsonSchema, Share, Size, Text, Whole
from gateway.settings.kinds_compound import ListOf, Section, SetOf
from gateway.settings.kinds_special import FilePath
from gateway.settings.model_service import KIB, MIB
from gateway.settings.nodes import MappingNode, ScalarNode
from gateway.settings.reader import INVALID, Invalid, Reader, Scalar

TARGET = Text("an http:// or https:// address", check=grammar.origin, words="address")


@section
class HealthSettings:
    """Active health checks."""

    path: str = setting(
        Text("a path", check=grammar.request_path, words="path"), "What is asked for, for example `/healthz`."
    )
    interval: float = setting(Duration(), "The time between two checks.", default=5.0)
    timeout: float = setting(Duration(), "How long an answer may take.", default=2.0)
    fall: int = setting(Whole(1, 1000), "Failures in a row after which a target is out.", default=3)
    rise: int = setting(Whole(1, 1000), "Successes in a row after which it is back.", default=2)


@section
class EjectSettings:
    """Passive outlier ejection: by the outcomes of requests."""

    failures: int = setting(
        Whole(1, 1_000_000),
        "Failures in a row after which a target is ejected: connect errors, time-outs before the head, answers that "
        "are not HTTP. A route's own shorter `response_timeout` never counts.",
        default=5,
    )
    for_: float = setting(Duration(), "How long it is ejected. A passed health check ends an ejection.", default=10.0)
    statuses: frozenset[int] = setting(
        SetOf(ListOf(Whole(500, 599), "a list of status codes from 500 to 599", right="for example [502, 503, 504]")),
        "Statuses of responses that count as failures too.",
        default=frozenset(),
    )


@section
class TlsSettings:
    """How https targets are spoken to."""

    verify: bool = setting(Flag(), "Whether the certificate of the target is checked.", default=True)
    ca: str | None = setting(
        FilePath().or_null(),
        "A PEM file of the authorities to trust; null: those of the system.",
        default=None,
    )
    client_cert: str | None = setting(FilePath().or_null(), "A PEM file with the gateway's certificate.", default=None)
    client_key: str | None = setting(
        FilePath(private=True).or_null(),
        "A PEM file with its key, readable by nobody else; null: it is in `client_cert`.",
        default=None,
    )
    server_name: str | None = setting(
        Text("a host name", check=grammar.route_host).or_null(),
        "The name to ask for and to check; null: that of the target.",
        default=None,
    )


@section
class UpstreamSettings:
    """A service behind the gateway: its address alone (`web: http://127.0.0.1:9000`), or this mapping."""

    name: str = field(default="")
    targets: tuple[str, ...] = setting(
        ListOf(TARGET, "a list of at least one address", least=1, right="for example [http://127.0.0.1:9000]"),
        "Its addresses, `http://` or `https://` with host and port.",
    )
    balance: Literal["round_robin", "least_requests"] = setting(
        Choice("round_robin", "least_requests"),
        "How requests are spread over the targets.",
        default="round_robin",
    )
    connect_timeout: float = setting(Duration(), "How long a connection may take to be made.", default=3.0)
    response_timeout: float | None = setting(
        Duration().or_null(),
        "From the request sent on whole until the response head; not retried; null: no limit.",
        default=30.0,
    )
    max_head_size: int = setting(
        Size(KIB, 16 * MIB),
        "The largest response head; 502 beyond. All interim responses together, the trailers, and the chunk extensions "
        "of a response can each be as large again.",
        default=64 * KIB,
    )
    idle_timeout: float = setting(
        Duration(), "Between two parts of a body; none for WebSocket and `text/event-stream`.", default=60.0
    )
    retries: int = setting(
        Whole(0, 10),
        "How often a request is sent again where that is safe: an idempotent method, nothing of the body sent on, no "
        "byte of a response seen; or any method, nothing at all written (connect refused, failed or timed out).",
        default=1,
    )
    retry_budget: float = setting(Share(), "Retries are at most this share of the requests, plus 20.", default=0.2)
    max_connections: int = setting(
        Whole(1, 1_000_000),
        "Connections per target; a request waits for one at most `connect_timeout`, then 503.",
        default=256,
    )
    keep_alive: float = setting(
        Duration(),
        "How long an idle connection to a target is kept, or less where the target says so (`Keep-Alive: timeout`) or "
        "was seen to close sooner.",
        default=4.0,
    )
    health: HealthSettings | None = setting(
        Section(HealthSettings).or_null(), "Active health checks; null: none.", default=None
    )
    eject: EjectSettings | None = setting(
        Section(EjectSettings).or_null(), "Passive outlier ejection; null: none.", default=EjectSettings()
    )
    preserve_host: bool = setting(
        Flag(),
        "Whether the `Host` of the caller goes on to the upstream instead of the target's own.",
        default=False,
    )
    method_override: bool = setting(
        Flag(),
        "Whether `X-HTTP-Method-Override`, `X-HTTP-Method` and `X-Method-Override` go on. An upstream that obeys them "
        "serves another method than the one that the route allowed.",
        default=False,
    )
    tls: TlsSettings = setting(Section(TlsSettings), "How https targets are spoken to.", default=TlsSettings())
    engine: Literal["native", "httpx"] = setting(
        Choice("native", "httpx"),
        "What speaks HTTP to the targets: `httpx` is slow and well known.",
        default="native",
    )


class UpstreamKind(Section[UpstreamSettings]):
    """An upstream: its address alone, or a mapping."""

    words = "address or mapping"

    def __init__(self) -> None:
        super().__init__(UpstreamSettings, "an address or a mapping")
        self.right = "for example http://127.0.0.1:9000"

    def extras(self, node: MappingNode, path: str, reader: Reader) -> dict[str, Any]:
        return {"name": path.partition(".")[2]}

    def read_scalar(self, scalar: Scalar, node: ScalarNode, path: str, reader: Reader) -> UpstreamSettings | Invalid:
        target = TARGET.read_scalar(scalar, node, path, reader)
        if target is INVALID:
            return INVALID
        return UpstreamSettings(name=path.partition(".")[2], targets=(target,))

    def schema(self) -> JsonSchema:
        return {"anyOf": [TARGET.schema(), super().schema()]}
