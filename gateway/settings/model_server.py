"""Settings of the process: server, storage, cache, accounts, observability."""

from ipaddress import ip_network
from typing import Literal, TypeVar

from gateway.settings.declare import section, setting
from gateway.settings.hints import rate_meant
from gateway.settings.model_browsers import (
    ORIGINS,
    EmailSettings,
    EncryptionKeySettings,
    InvitationSettings,
    PageSettings,
)
from gateway.settings.model_tls import CertificateSettings, CertificatesKind
from gateway.settings.reader import INVALID, Invalid, Reader, Scalar
from gateway.settings.secret import Secret
from gateway.settings.syntax import (
    database_address,
    listen_host,
    origin,
    public_origin,
    redis_address,
    served_host,
    shared_secret,
)
from gateway.settings.types import Boolean, Duration, Enum, Integer, Ratio, Size, Text
from gateway.settings.types_compound import ListOf, Section, Sections
from gateway.settings.types_network import Network, NetworkKind, Prefix, RoleName, SecretText, StoreAddress
from gateway.settings.yaml import ScalarNode

T = TypeVar("T")
KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40

PORT = Integer(0, 65535)
ROLE = RoleName()
NETWORKS = ListOf(NetworkKind(), "a list of networks", right='for example [10.0.0.0/8, "fd00::/8"]')


@section
class ServerSettings:
    """Listener, trusted proxies, time-outs and limits."""

    host: str = setting(
        Text("an IP address or a host name", check=listen_host),
        "The address to listen on; `0.0.0.0` or `::` for all addresses.",
        default="127.0.0.1",
    )
    port: int = setting(PORT, "The port to listen on; 0 selects a free port.", default=8000)
    workers: int = setting(
        Integer(1, 256),
        "Number of processes. More than one require `storage.redis`, which keeps their caches consistent.",
        default=1,
    )
    public_url: str | None = setting(
        Text("an http:// or https:// address", check=public_origin, words="address").or_null(),
        "The public address of the gateway, for example `https://api.example.com`. Sessions, pages and mail need it: "
        "`https`, or `http` on this machine. The gateway builds links from it, never from a `Host` header.",
        default=None,
    )
    tls: tuple[CertificateSettings, ...] | None = setting(
        CertificatesKind().or_null(),
        "Certificates of `port`, which then serves HTTPS only: one, or a list of which the client's server name (SNI) "
        "selects one, else the first. Renewed files are read at once. null: HTTP.",
        default=None,
    )
    trusted_proxies: tuple[Network, ...] = setting(
        NETWORKS,
        "The proxies whose `X-Forwarded-*` headers the gateway trusts. Networks that cover every address are refused.",
        default=(),
    )
    hosts: tuple[str, ...] = setting(
        ListOf(
            Text("a host name", check=served_host, words="host name"),
            "a list of host names",
            right='for example [api.example.com, "*.example.com"]',
        ),
        "The hosts that the gateway serves; `*.example.com` covers every name below it. A request for any other `Host` "
        "is 421 `misdirected`, except for health, readiness, metrics, verify and the key set. Empty: every host.",
        default=(),
    )
    paths: Literal["strict", "relaxed"] = setting(
        Enum("strict", "relaxed"),
        "Handling of ambiguous paths. `strict` refuses empty segments, `;`, escaped `;`, `#` and `?`, and double "
        "escapes; `relaxed` merges empty segments and allows the others.",
        default="strict",
    )
    header_timeout: float = setting(Duration(), "Time limit for receiving a complete request head.", default=10.0)
    body_timeout: float = setting(Duration(), "Time limit for a pause within a request body; 408 beyond.", default=30.0)
    min_body_rate: int = setting(
        Size(1, 1 << 30, zero=True),
        "The bytes per second that an upload must average over any 15 s after `body_timeout` has passed; 408 "
        "below. Time in which the upstream does not read does not count. 0: no limit.",
        default=512,
    )
    keep_alive: float = setting(Duration(), "Time limit for an idle client connection.", default=75.0)
    max_header_size: int = setting(
        Size(KIB, 16 * MIB),
        "The largest request head; 431 beyond. The trailers and the chunk extensions of a request have the same "
        "limit, each separately.",
        default=32 * KIB,
    )
    max_body: int = setting(
        Size(1, TIB, zero=True),
        "The largest request body; 413 beyond. A route can override it; 0: no limit.",
        default=100 * MIB,
    )
    max_connections: int = setting(
        Integer(1, 1_000_000), "The most concurrent client connections, per process.", default=10_000
    )
    operations_port: int | None = setting(
        PORT.or_null(),
        "If set, the gateway serves `/_gateway/*` on this port of `host` instead of the public port; 0 selects a "
        "free port.",
        default=None,
    )
    drain: float = setting(
        Duration(zero=True),
        "After SIGTERM: stop accepting connections and finish running requests for at most this long. Exit with 0 "
        "if all finished, else 1.",
        default=30.0,
    )


@section
class StorageSettings:
    """The stores of users and sessions, and the store that replicas share."""

    database: Secret = setting(
        StoreAddress("the address of an SQLite or PostgreSQL database", database_address),
        "The database: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`.",
        default=Secret("sqlite:///gateway.db"),
    )
    redis: Secret | None = setting(
        StoreAddress("the address of a Redis", redis_address).or_null(),
        "The Redis server that replicas share: `redis://HOST:6379/0`, `rediss://` with TLS, `redis+sentinel://`, "
        "`redis+cluster://`; null: an in-process cache, for a single process.",
        default=None,
    )
    encryption_keys: tuple[EncryptionKeySettings, ...] = setting(
        Sections(Section(EncryptionKeySettings, "an encryption key"), "a list of encryption keys"),
        "The keys that encrypt stored data, such as queued mails: the first encrypts, all decrypt. Empty: the gateway "
        "generates one beside the SQLite database; with PostgreSQL, mail needs an explicit key.",
        default=(),
    )


@section
class CacheSettings:
    """Caching of user records."""

    user_ttl: float = setting(
        Duration(), "How long the gateway uses a user record before it reads the database again.", default=60.0
    )
    max_local_entries: int = setting(
        Integer(1, 100_000_000),
        "Capacity of each process's caches of user records and of verified tokens. A working set of at most half the "
        "capacity is never evicted.",
        default=100_000,
    )
    key: Secret | None = setting(
        SecretText("a secret", 'for example "${file:/run/secrets/cache-key}"', shared_secret).or_null(),
        "The secret that authenticates user records and messages in Redis, at least 32 bytes and equal on all "
        "replicas; null: derived from `tokens.keys`.",
        default=None,
    )


@section
class PasswordSettings:
    """Requirements for new passwords, and the cost of checking one."""

    min_length: int = setting(Integer(1, 72), "The fewest characters of a new password.", default=8)
    bcrypt_rounds: int = setting(
        Integer(4, 16),
        "The work factor of bcrypt; each increment doubles the time. Values below 10 give a warning.",
        default=12,
    )
    reset_ttl: float = setting(Duration(most=86_400.0), "Lifetime of a link that resets a password.", default=1800.0)


@section
class LockoutSettings:
    """Limits on failed logins."""

    failures: int = setting(
        Integer(1, 1_000_000),
        "Failed logins per pair of account and address. Counting the pair prevents a lockout of the account from "
        "other addresses.",
        default=5,
    )
    window: float = setting(Duration(), "The period over which failures are counted.", default=900.0)
    ban: float = setting(Duration(), "How long logins are refused after the last failure.", default=900.0)
    per_address_failures: int = setting(
        Integer(1, 1_000_000), "Failed logins per address, over all accounts.", default=20
    )


@section
class RegistrationLimitSettings:
    """A leaking bucket per address: a burst of `requests`, refilled over each `per`."""

    requests: int = setting(Integer(1, 1_000_000_000), "Registrations…", default=60)
    per: float = setting(Duration(), "…per this period.", default=3600.0)


class RateKind(Section[T]):
    """A number of requests per period. A rate in one word is an error that suggests the equivalent mapping."""

    right = "for example {requests: 100, per: 1m}"

    def read_scalar(self, scalar: Scalar, node: ScalarNode, path: str, reader: Reader) -> T | Invalid:
        meant = "" if scalar.hidden else rate_meant(scalar.text)
        reader.wrong(node, path, self.unacceptable(meant), scalar.found)
        return INVALID


@section
class ApiKeysSettings:
    """Limits on API keys."""

    max_ttl: float | None = setting(
        Duration().or_null(),
        "The longest lifetime of a new key, and its default; null: keys can live without an expiry.",
        default=365 * 86_400.0,
    )


@section
class AccountsSettings:
    """Registration, login and administration, served by the gateway itself."""

    prefix: str = setting(Prefix(), 'The path prefix of these endpoints; `""` is the root.', default="/auth")
    registration: Literal["open", "invite", "closed"] = setting(
        Enum("open", "invite", "closed"),
        "`open`: anyone can register. `invite`: only invited addresses, which needs `mail`. `closed`: only "
        "administrators create accounts.",
        default="open",
    )
    origins: tuple[str, ...] = setting(
        ORIGINS,
        "Origins whose pages can call the JSON endpoints with bearer tokens (CORS without credentials). Pages of "
        "`sessions.origins` can also call them with cookies.",
        default=(),
    )
    default_roles: tuple[str, ...] = setting(
        ListOf(ROLE, "a list of roles", right="for example [user]"),
        "The roles of a newly registered user.",
        default=("user",),
    )
    admin_role: str = setting(ROLE, "The role that administers users.", default="admin")
    password: PasswordSettings = setting(
        Section(PasswordSettings), "Requirements for passwords.", default=PasswordSettings()
    )
    registration_limit: RegistrationLimitSettings | None = setting(
        RateKind(RegistrationLimitSettings).or_null(),
        "Registrations per client address (a /64 for IPv6); 429 beyond; null: no limit.",
        default=RegistrationLimitSettings(),
    )
    lockout: LockoutSettings = setting(Section(LockoutSettings), "Limits on failed logins.", default=LockoutSettings())
    api_keys: ApiKeysSettings = setting(Section(ApiKeysSettings), "Limits on API keys.", default=ApiKeysSettings())
    email: EmailSettings = setting(
        Section(EmailSettings), "The verification of e-mail addresses.", default=EmailSettings()
    )
    invitations: InvitationSettings = setting(
        Section(InvitationSettings), "Invitations by link.", default=InvitationSettings()
    )
    fresh: float = setting(
        Duration(),
        "Changes of the ways to sign in, such as a new API key, need a sign-in or a confirmation that is at most this "
        "old.",
        default=600.0,
    )
    pages: PageSettings | None = setting(
        Section(PageSettings).or_null(),
        "The gateway's own pages for accounts; `{}`: with defaults; null: none.",
        default=None,
    )


@section
class TracingSettings:
    """Export of traces."""

    otlp_endpoint: str = setting(
        Text("an http:// or https:// address", check=origin, words="address"),
        "The OTLP/HTTP collector, for example `http://localhost:4318`.",
    )


@section
class DecisionLogSettings:
    """Decisions to log with their reasons."""

    refusals: bool = setting(Boolean(), "Log every refusal.", default=True)
    allows: float = setting(Ratio(), "The share of allowed requests to log, sampled at random.", default=0.0)


@section
class ObservabilitySettings:
    """Logs, metrics and traces."""

    access_log: Literal["json", "text", "off"] = setting(
        Enum("json", "text", "off"), "The format of the access log.", default="json"
    )
    decision_log: DecisionLogSettings | None = setting(
        Section(DecisionLogSettings).or_null(),
        "A log of decisions and their reasons, in addition to the access log; `{}`: refusals; null: no such log.",
        default=None,
    )
    metrics: bool = setting(Boolean(), "Serve `/_gateway/metrics`.", default=True)
    tracing: TracingSettings | None = setting(
        Section(TracingSettings).or_null(), "Export of traces; null: none.", default=None
    )
    operations_allow: tuple[Network, ...] = setting(
        NETWORKS,
        "The networks that can read `/_gateway/metrics`.",
        default=(ip_network("127.0.0.0/8"), ip_network("::1/128")),
    )
