"""Settings of upstreams."""

from dataclasses import field
from typing import Any, Literal

from gateway.settings import syntax
from gateway.settings.declare import section, setting
from gateway.settings.model_server import KIB, MIB
from gateway.settings.reader import INVALID, Invalid, Reader, Scalar
from gateway.settings.target_address import TargetAddress, target
from gateway.settings.types import Boolean, Duration, Enum, Integer, JsonSchema, Ratio, Size, Text
from gateway.settings.types_compound import ListOf, Section, SetOf
from gateway.settings.types_network import FilePath
from gateway.settings.yaml import MappingNode, ScalarNode

TARGET = Text("an http:// or https:// address", check=target, words="address")


@section
class BalanceSettings:
    """Load balancing by a hash of the request: requests with the same key reach the same target."""

    hash: str = setting(
        Text(
            "cookie NAME, header NAME or client_address",
            check=syntax.hash_key,
            words="key",
            pattern=f"^ *(client_address|(cookie|header) +{syntax.TCHARS}) *$",
        ),
        "The key: `cookie NAME`, `header NAME` as the upstream receives it, or `client_address`. Requests without the "
        "cookie or the header are balanced in turn.",
    )

    def __str__(self) -> str:
        return f"hash: {self.hash}"


class BalanceKind(Section[BalanceSettings | str]):
    """The name of an algorithm, or a mapping with a hash key."""

    def __init__(self) -> None:
        self.choice = Enum("round_robin", "least_requests")
        super().__init__(BalanceSettings, "round_robin, least_requests or {hash: KEY}")
        self.words = f"{self.choice.words}, or mapping"
        self.right = "for example {hash: cookie NAME}"

    def read_scalar(
        self, scalar: Scalar, node: ScalarNode, path: str, reader: Reader
    ) -> BalanceSettings | str | Invalid:
        if scalar.value in self.choice.choices:
            return scalar.text
        alike = [choice for choice in self.choice.choices if choice == scalar.text.lower().replace("-", "_")]
        reader.wrong(node, path, self.unacceptable(alike[0] if alike else ""), scalar.found)
        return INVALID

    def write(self, value: BalanceSettings | str) -> Any:
        return value if isinstance(value, str) else super().write(value)

    def schema(self) -> JsonSchema:
        return {"anyOf": [self.choice.schema(), super().schema()]}


@section
class HealthSettings:
    """Active health checks."""

    path: str = setting(
        Text("a path", check=syntax.request_path, words="path"),
        "The path that each check requests, for example `/healthz`.",
    )
    host: str | None = setting(
        Text("a host name", check=syntax.request_host, words="host").or_null(),
        "The `Host` of the checks; null: with `preserve_host` the first name of `server.hosts`, else the target's.",
        default=None,
    )
    interval: float = setting(Duration(), "The time between two checks.", default=5.0)
    timeout: float = setting(Duration(), "Time limit for the response.", default=2.0)
    fall: int = setting(Integer(1, 1000), "Consecutive failures after which a target is down.", default=3)
    rise: int = setting(Integer(1, 1000), "Consecutive successes after which it is up again.", default=2)


@section
class EjectSettings:
    """Passive outlier ejection, based on the results of requests."""

    failures: int = setting(
        Integer(1, 1_000_000),
        "Consecutive failures after which a target is ejected: connect errors, time-outs before the response head, "
        "and responses that are not HTTP. A time-out shortened by the route never counts.",
        default=5,
    )
    for_: float = setting(
        Duration(), "How long the target stays ejected. A passed health check ends the ejection.", default=10.0
    )
    statuses: frozenset[int] = setting(
        SetOf(ListOf(Integer(500, 599), "a list of status codes from 500 to 599", right="for example [502, 503, 504]")),
        "Response statuses that also count as failures.",
        default=frozenset(),
    )


@section
class TlsSettings:
    """TLS for https targets."""

    verify: bool = setting(Boolean(), "Verify the certificate of the target.", default=True)
    ca: str | None = setting(
        FilePath().or_null(),
        "A PEM file of trusted authorities; null: those of the system.",
        default=None,
    )
    client_cert: str | None = setting(
        FilePath().or_null(), "A PEM file with the gateway's client certificate.", default=None
    )
    client_key: str | None = setting(
        FilePath(private=True).or_null(),
        "A PEM file with its private key, readable by its owner only; null: the key is in `client_cert`.",
        default=None,
    )
    server_name: str | None = setting(
        Text("a host name", check=syntax.host_name).or_null(),
        "The name to send (SNI) and to verify; null: the host of the target.",
        default=None,
    )


@section
class UpstreamSettings:
    """A service behind the gateway: an address (`web: http://127.0.0.1:9000`), or this mapping."""

    name: str = field(default="")
    targets: tuple[str, ...] = setting(
        ListOf(TARGET, "a list of at least one address", least=1, right="for example [http://127.0.0.1:9000]"),
        "Its addresses: `http://` or `https://` with host and port, or `unix:` with the path of a socket. A base path "
        "(`http://app:8000/api`, `unix:/run/app.sock:/api`), equal in all of them, precedes the path of each request.",
    )
    balance: Literal["round_robin", "least_requests"] | BalanceSettings = setting(
        BalanceKind(),
        "The load-balancing algorithm.",
        default="round_robin",
    )
    connect_timeout: float = setting(Duration(), "Time limit for a connection attempt.", default=3.0)
    response_timeout: float | None = setting(
        Duration().or_null(),
        "Time limit from the end of the request to the response head; not retried; null: no limit.",
        default=30.0,
    )
    max_head_size: int = setting(
        Size(KIB, 16 * MIB),
        "The largest response head; 502 beyond. All interim responses together, the trailers, and the chunk "
        "extensions of a response have the same limit, each separately.",
        default=64 * KIB,
    )
    idle_timeout: float = setting(
        Duration(), "Time limit for a pause within a body; none for WebSocket and `text/event-stream`.", default=60.0
    )
    retries: int = setting(
        Integer(0, 10),
        "How often the gateway repeats a request when that is safe: an idempotent method, if nothing of the body was "
        "sent and no byte of a response has arrived; or any method, if nothing was written (connection refused, failed "
        "or timed out).",
        default=1,
    )
    retry_budget: float = setting(Ratio(), "Retries are at most this share of the requests, plus 20.", default=0.2)
    max_connections: int = setting(
        Integer(1, 1_000_000),
        "Connections per target. A request waits for a free one for at most `connect_timeout`, then 503.",
        default=256,
    )
    keep_alive: float = setting(
        Duration(),
        "Time limit for an idle connection to a target; shorter if the target announces it (`Keep-Alive: timeout`) "
        "or has closed connections sooner.",
        default=4.0,
    )
    health: HealthSettings | None = setting(
        Section(HealthSettings).or_null(), "Active health checks; null: none.", default=None
    )
    eject: EjectSettings | None = setting(
        Section(EjectSettings).or_null(), "Passive outlier ejection; null: none.", default=EjectSettings()
    )
    preserve_host: bool = setting(
        Boolean(),
        "Forward the client's `Host` header; false: the target's host.",
        default=True,
    )
    rewrite_responses: bool = setting(
        Boolean(),
        "Make addresses in responses public: `Location`, `Content-Location` and `Refresh` that name the target. On "
        "routes with `strip_prefix`, and with a base path, also paths in them and cookie paths.",
        default=True,
    )
    method_override: bool = setting(
        Boolean(),
        "Forward `X-HTTP-Method-Override`, `X-HTTP-Method` and `X-Method-Override`. An upstream that honours them "
        "can serve a method that the route does not allow.",
        default=False,
    )
    tls: TlsSettings = setting(Section(TlsSettings), "TLS for https targets.", default=TlsSettings())
    engine: Literal["native", "httpx"] = setting(
        Enum("native", "httpx"),
        "The HTTP client for the targets. `httpx` is widely used, and slower.",
        default="native",
    )

    @property
    def base_path(self) -> str:
        """The path in front of the path of every request, "" without one."""
        return TargetAddress.of(self.targets[0]).base


class UpstreamKind(Section[UpstreamSettings]):
    """An upstream: an address, or a mapping."""

    words = "address or mapping"

    def __init__(self) -> None:
        super().__init__(UpstreamSettings, "an address or a mapping")
        self.right = "for example http://127.0.0.1:9000"

    def extras(self, node: MappingNode, path: str, reader: Reader) -> dict[str, Any]:
        return {"name": path.partition(".")[2]}

    def read_scalar(self, scalar: Scalar, node: ScalarNode, path: str, reader: Reader) -> UpstreamSettings | Invalid:
        address = TARGET.read_scalar(scalar, node, path, reader)
        if address is INVALID:
            return INVALID
        return UpstreamSettings(name=path.partition(".")[2], targets=(address,))

    def schema(self) -> JsonSchema:
        return {"anyOf": [TARGET.schema(), super().schema()]}
