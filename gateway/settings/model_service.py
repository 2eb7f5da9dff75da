"""The settings of the process itself: server, storage, cache, accounts, observability."""

from ipaddress import ip_network
from typing import Literal

from gateway.settings.declare import section, setting
from gateway.settings.grammar import database_address, listen_host, origin, redis_address, shared_secret
from gateway.settings.kinds import Choice, Duration, Flag, Share, Size, Text, Whole
from gateway.settings.kinds_compound import ListOf, Section
from gateway.settings.kinds_special import Network, NetworkKind, Prefix, RoleName, SecretText, StoreAddress
from gateway.settings.secret import Secret

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40

PORT = Whole(0, 65535)
ROLE = RoleName()
NETWORKS = ListOf(NetworkKind(), "a list of networks", right='for example [10.0.0.0/8, "fd00::/8"]')


@section
class ServerSettings:
    """Where it listens, whom it believes, and how long it waits."""

    host: str = setting(
        Text("an IP address or a host name", check=listen_host),
        "The address to listen on; `0.0.0.0` or `::` for all.",
        default="127.0.0.1",
    )
    port: int = setting(PORT, "The port to listen on; 0 takes a free one.", default=8000)
    workers: int = setting(
        Whole(1, 256),
        "Processes. More than one need `storage.redis`, so that they share what they cache.",
        default=1,
    )
    public_url: str | None = setting(
        Text("an http:// or https:// address", check=origin, words="address").or_null(),
        "The address by which callers know the gateway, for example `https://api.example.com`.",
        default=None,
    )
    trusted_proxies: tuple[Network, ...] = setting(
        NETWORKS,
        "The peers whose `X-Forwarded-*` headers are believed. Networks that are everyone are refused.",
        default=(),
    )
    paths: Literal["strict", "relaxed"] = setting(
        Choice("strict", "relaxed"),
        "What request paths may hold: `strict` also refuses empty segments, `;`, escaped `;`, `#` and `?`, and "
        "double escapes; `relaxed` merges empty segments and lets the others pass.",
        default="strict",
    )
    header_timeout: float = setting(Duration(), "A request head must be complete by then.", default=10.0)
    body_timeout: float = setting(Duration(), "The longest pause inside a request body; 408 beyond.", default=30.0)
    min_body_rate: int = setting(
        Size(1, 1 << 30, zero=True),
        "The bytes per second that an upload must average over any 15 s once `body_timeout` has passed; 408 below. "
        "Time in which the upstream does not read does not count. 0 is no limit.",
        default=512,
    )
    keep_alive: float = setting(Duration(), "How long an idle connection of a caller is kept.", default=75.0)
    max_header_size: int = setting(
        Size(KIB, 16 * MIB),
        "The largest request head; 431 beyond. The trailers, and the chunk extensions, of a request can each be as "
        "large again.",
        default=32 * KIB,
    )
    max_body: int = setting(
        Size(1, TIB, zero=True),
        "The largest request body; 413 beyond. A route may set its own; 0 is no limit.",
        default=100 * MIB,
    )
    max_connections: int = setting(
        Whole(1, 1_000_000), "Connections of callers at a time, per process.", default=10_000
    )
    operations_port: int | None = setting(
        PORT.or_null(),
        "Set: `/_gateway/*` is served on this port of `host` only, not on the public one; 0: a free one.",
        default=None,
    )
    drain: float = setting(
        Duration(zero=True),
        "After SIGTERM: stop accepting, finish what runs, at most this long; exit 0 if all finished, else 1.",
        default=30.0,
    )


@section
class StorageSettings:
    """Where users and sessions are kept, and what replicas share."""

    database: Secret = setting(
        StoreAddress("the address of an SQLite or PostgreSQL database", database_address),
        "The database: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`.",
        default=Secret("sqlite:///gateway.db"),
    )
    redis: Secret | None = setting(
        StoreAddress("the address of a Redis", redis_address).or_null(),
        "The Redis that replicas share: `redis://HOST:6379/0`, `rediss://` with TLS, `redis+sentinel://`, "
        "`redis+cluster://`; null: an in-process cache, for one process only.",
        default=None,
    )


@section
class CacheSettings:
    """How long user records are served without asking the database."""

    user_ttl: float = setting(Duration(), "How long a user record is served without asking the database.", default=60.0)
    max_local_entries: int = setting(
        Whole(1, 100_000_000),
        "User records, and verified tokens, kept in the memory of each process at most; twice as many as are in use at "
        "a time keep all of those.",
        default=100_000,
    )
    key: Secret | None = setting(
        SecretText("a secret", 'for example "${file:/run/secrets/cache-key}"', shared_secret).or_null(),
        "The secret that authenticates user records and messages in Redis, at least 32 bytes and the same on every "
        "replica; null: derived from `tokens.keys`.",
        default=None,
    )


@section
class PasswordSettings:
    """What passwords must be, and what checking one costs."""

    min_length: int = setting(Whole(1, 72), "The fewest characters of a new password.", default=8)
    bcrypt_rounds: int = setting(
        Whole(4, 16), "The work factor of bcrypt: one more doubles the time. A warning below 10.", default=12
    )


@section
class LockoutSettings:
    """How many failed logins are too many."""

    failures: int = setting(
        Whole(1, 1_000_000),
        "Failed logins per account and address together, so that nobody locks a victim out from elsewhere.",
        default=5,
    )
    window: float = setting(Duration(), "The time in which they are counted.", default=900.0)
    ban: float = setting(Duration(), "How long they are refused after the last of them.", default=900.0)
    per_address_failures: int = setting(
        Whole(1, 1_000_000), "Failed logins per address, over all accounts.", default=20
    )


@section
class RegistrationLimitSettings:
    """How many registrations from one address are accepted: so many at once, and then as many in each such time."""

    requests: int = setting(Whole(1, 1_000_000_000), "Registrations…", default=60)
    per: float = setting(Duration(), "…in this time.", default=3600.0)


@section
class ApiKeysSettings:
    """What API keys may be."""

    max_ttl: float | None = setting(
        Duration().or_null(),
        "The longest life of a new key, and its default; null: keys may have no end.",
        default=365 * 86_400.0,
    )


@section
class AccountsSettings:
    """Registration, login and administration, which the gateway serves itself."""

    prefix: str = setting(Prefix(), 'The path below which they are served; `""` is the root.', default="/auth")
    registration: Literal["open", "closed"] = setting(
        Choice("open", "closed"), "Whether anyone may register.", default="open"
    )
    default_roles: tuple[str, ...] = setting(
        ListOf(ROLE, "a list of roles", right="for example [user]"),
        "The roles of whoever registers.",
        default=("user",),
    )
    admin_role: str = setting(ROLE, "The role that administrates users.", default="admin")
    password: PasswordSettings = setting(
        Section(PasswordSettings), "What passwords must be.", default=PasswordSettings()
    )
    registration_limit: RegistrationLimitSettings | None = setting(
        Section(RegistrationLimitSettings).or_null(),
        "Registrations from one address, a /64 of IPv6 being one; 429 beyond; null: no limit.",
        default=RegistrationLimitSettings(),
    )
    lockout: LockoutSettings = setting(
        Section(LockoutSettings), "How many failed logins are too many.", default=LockoutSettings()
    )
    api_keys: ApiKeysSettings = setting(Section(ApiKeysSettings), "What API keys may be.", default=ApiKeysSettings())


@section
class TracingSettings:
    """Where traces are sent."""

    otlp_endpoint: str = setting(
        Text("an http:// or https:// address", check=origin, words="address"),
        "The OTLP/HTTP collector, for example `http://localhost:4318`.",
    )


@section
class DecisionLogSettings:
    """Which decisions are logged with their reason."""

    refusals: bool = setting(Flag(), "Whether every refusal is.", default=True)
    allows: float = setting(Share(), "The share of what is let through that is, chosen at random.", default=0.0)


@section
class ObservabilitySettings:
    """What the gateway tells about its work."""

    access_log: Literal["json", "text", "off"] = setting(
        Choice("json", "text", "off"), "The form of the access log.", default="json"
    )
    decision_log: DecisionLogSettings | None = setting(
        Section(DecisionLogSettings).or_null(),
        "Decisions with the reason for each, beside the access log; `{}`: refusals; null: none.",
        default=None,
    )
    metrics: bool = setting(Flag(), "Whether `/_gateway/metrics` is served.", default=True)
    tracing: TracingSettings | None = setting(
        Section(TracingSettings).or_null(), "Where traces are sent; null: nowhere.", default=None
    )
    operations_allow: tuple[Network, ...] = setting(
        NETWORKS,
        "Who may read `/_gateway/metrics`.",
        default=(ip_network("127.0.0.0/8"), ip_network("::1/128")),
    )
