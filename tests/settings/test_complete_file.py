"""A file with every key is read unchanged, and a file without any has the documented defaults."""

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest
import yaml

from gateway.settings.model import (
    UNSET,
    RolesSettings,
    RouteSettings,
    Secret,
    Settings,
    SettingsKind,
    UpstreamSettings,
)
from gateway.settings.types_compound import Section
from tests.settings.reading import settings_of

# Every key with its default; upstreams and routes are examples. `auditor` is declared because a route names it.
EVERYTHING = """
server:
  host: 127.0.0.1
  port: 8000
  workers: 1
  public_url: null
  tls: null
  hosts: []
  trusted_proxies: []
  paths: strict
  header_timeout: 10s
  body_timeout: 30s
  min_body_rate: 512B
  keep_alive: 75s
  max_header_size: 32KiB
  max_body: 100MiB
  max_connections: 10000
  operations_port: null
  drain: 30s
storage:
  database: sqlite:///gateway.db
  redis: null
  encryption_keys: []
cache:
  user_ttl: 60s
  key: null
  max_local_entries: 100000
accounts:
  prefix: /auth
  registration: open
  default_roles: [user]
  admin_role: admin
  origins: []
  email: {verification: none, link_ttl: 24h, forward: auto}
  invitations: {ttl: 7d}
  fresh: 10m
  pages: null
  password: {min_length: 8, bcrypt_rounds: 12, reset_ttl: 30m}
  registration_limit: {requests: 60, per: 1h}
  lockout: {failures: 5, window: 15m, ban: 15m, per_address_failures: 20}
  api_keys: {max_ttl: 365d}
sessions: null
mail: null
tokens:
  issuer: gateway
  audience: gateway
  access_ttl: 15m
  refresh_ttl: 14d
  refresh_grace: 10s
  leeway: 5s
  max_size: 8KiB
  include_roles: false
  keys: []
  external: []
identity:
  headers:
    id: X-User-Id
    email: X-User-Email
    roles: X-User-Roles
    email_verified: null
    acr: null
    session: null
  assertion: null
roles:
  admin: [editor]
  editor: [user]
  user: []
  auditor: []
upstreams:
  web: http://127.0.0.1:9000
  orders:
    targets: [http://10.0.0.1:8080, http://10.0.0.2:8080]
    balance: round_robin
    connect_timeout: 3s
    response_timeout: 30s
    max_head_size: 64KiB
    idle_timeout: 60s
    retries: 1
    retry_budget: 0.2
    max_connections: 256
    keep_alive: 4s
    health: null
    eject: {failures: 5, for: 10s, statuses: []}
    preserve_host: true
    rewrite_responses: true
    method_override: false
    tls: {verify: true, ca: null, client_cert: null, client_key: null, server_name: null}
    engine: native
routes:
  - path: /public/**
    auth: none
    upstream: web
  - path: /orders/{order_id}
    methods: [GET]
    roles: [user, auditor]
    upstream: orders
  - path: /users/{user_id}/**
    methods: null
    auth: required
    credentials: null
    fresh: null
    verified: false
    same_origin: false
    sign_in: null
    roles: [admin]
    owner: user_id
    upstream: web
    name: user-space
    host: api.example.com
    strip_prefix: /users
    rewrite: null
    websocket: false
    max_body: 10MiB
    response_timeout: 5m
    rate_limit: null
    forward_credentials: false
    encoded_slash: reject
    shadow: false
    cors: null
observability:
  access_log: json
  decision_log: null
  metrics: true
  tracing: null
  operations_allow: [127.0.0.0/8, "::1/128"]
"""
PARTS = ["server", "storage", "cache", "accounts", "sessions", "mail", "tokens", "identity", "observability"]


def missing(section: Section[Any], written: dict[str, Any], path: str = "") -> Iterator[str]:
    """The keys of a section, and of the sections in it, that are not written."""
    for name, key in section.keys.items():
        if name not in written:
            yield path + name
        elif isinstance(key.kind, Section) and isinstance(written[name], dict):
            yield from missing(key.kind, written[name], f"{path}{name}.")


def test_the_file_writes_every_key() -> None:
    written = yaml.safe_load(EVERYTHING)

    assert [*missing(SettingsKind(), written)] == []
    assert [*missing(Section(UpstreamSettings), written["upstreams"]["orders"])] == []
    assert [*missing(Section(RouteSettings), written["routes"][-1])] == []


@pytest.mark.parametrize("part", PARTS)
def test_the_written_defaults_are_the_defaults(part: str) -> None:
    assert getattr(settings_of(EVERYTHING), part) == getattr(Settings(), part)


def test_a_file_without_roles_upstreams_and_routes_has_none() -> None:
    settings = settings_of("server: {}")

    assert (settings.roles, settings.upstreams, settings.routes) == (None, {}, ())


def test_the_short_form_of_an_upstream_is_the_long_one_with_defaults() -> None:
    short = settings_of("upstreams: {web: 'http://127.0.0.1:9000'}").upstreams["web"]
    long = settings_of("upstreams: {web: {targets: ['http://127.0.0.1:9000']}}").upstreams["web"]

    assert short == long
    assert (short.name, short.targets) == ("web", ("http://127.0.0.1:9000",))


def test_the_written_defaults_of_an_upstream_are_its_defaults() -> None:
    upstreams = settings_of(EVERYTHING).upstreams
    bare = settings_of("upstreams: {orders: {targets: [http://10.0.0.1:8080, http://10.0.0.2:8080]}}").upstreams

    assert upstreams["orders"] == bare["orders"]
    assert upstreams["orders"].eject is not None
    assert upstreams["orders"].eject.for_ == 10.0


def test_durations_are_seconds_and_sizes_are_bytes() -> None:
    settings = settings_of(EVERYTHING)

    assert settings.tokens.refresh_ttl == 14 * 24 * 60 * 60
    assert settings.server.max_body == 100 * 1024 * 1024
    assert settings.observability.operations_allow == (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def test_the_defaults_of_a_route_are_strict() -> None:
    route = settings_of("{upstreams: {web: 'http://h'}, routes: [{path: /a, upstream: web}]}").routes[0]

    assert (route.auth, route.roles, route.owner, route.methods) == ("required", None, None, None)
    assert (route.websocket, route.forward_credentials, route.encoded_slash) == (False, UNSET, "reject")
    assert (route.max_body, route.response_timeout) == (None, UNSET)


def test_a_route_has_its_configured_values() -> None:
    public, orders, users = settings_of(EVERYTHING).routes

    assert public.auth == "none"
    assert orders.methods == ("GET",)
    assert orders.roles == RolesSettings(any=frozenset({"user", "auditor"}))
    assert (users.owner, users.name, users.host, users.strip_prefix) == (
        "user_id",
        "user-space",
        "api.example.com",
        "/users",
    )
    assert (users.max_body, users.response_timeout) == (10 * 1024 * 1024, 300.0)


ROUTES: list[tuple[str, str, Any]] = [
    ("roles: {all: [b, a]}", "roles", RolesSettings(all=frozenset({"a", "b"}))),
    ("roles: {any: [a], all: [b]}", "roles", RolesSettings(any=frozenset({"a"}), all=frozenset({"b"}))),
    ("roles: null", "roles", None),
    ("response_timeout: null", "response_timeout", None),
    ("max_body: 0", "max_body", 0),
    ("methods: null", "methods", None),
    ("host: API.Example.COM.", "host", "api.example.com"),
    ("host: '[2001:DB8::1]'", "host", "[2001:db8::1]"),
    ("name: null", "name", None),
    ("cors: {origins: ['*']}", "cors.origins", ("*",)),
    (
        "cors: {origins: ['https://A.example:443', 'http://b.example:80']}",
        "cors.origins",
        (
            "https://a.example",
            "http://b.example",
        ),
    ),
    ("cors: {origins: ['*']}", "cors.max_age", 600.0),
    ("rate_limit: {requests: 100, per: 1m}", "rate_limit.by", "user"),
]


@pytest.mark.parametrize(("written", "attribute", "value"), ROUTES)
def test_a_key_of_a_route_means(written: str, attribute: str, value: object) -> None:
    found: Any = settings_of(
        f"upstreams: {{web: 'http://h'}}\nroutes:\n  - path: /a\n    upstream: web\n    {written}\n"
    ).routes[0]
    for name in attribute.split("."):
        found = getattr(found, name)

    assert found == value


ACCEPTED: list[tuple[str, str, Any]] = [
    ("server: {host: '::'}", "server.host", "::"),
    ("server: {host: '[::1]'}", "server.host", "::1"),
    ("server: {host: localhost}", "server.host", "localhost"),
    ("server: {port: 0}", "server.port", 0),
    ("server: {port: 010}", "server.port", 10),
    ("server: {public_url: 'HTTPS://Api.Example.com'}", "server.public_url", "https://api.example.com"),
    ("server: {trusted_proxies: [10.0.0.1]}", "server.trusted_proxies", (ip_network("10.0.0.1/32"),)),
    ("server: {drain: 0s}", "server.drain", 0.0),
    ("server: {max_body: 0}", "server.max_body", 0),
    ("server: {max_body: 2048}", "server.max_body", 2048),
    ("accounts: {prefix: ''}", "accounts.prefix", ""),
    ("accounts: {prefix: /v1/accounts}", "accounts.prefix", "/v1/accounts"),
    ("accounts: {default_roles: []}", "accounts.default_roles", ()),
    ("observability: {access_log: off}", "observability.access_log", "off"),
    (
        "storage: {database: 'sqlite+aiosqlite:////var/lib/g.db'}",
        "storage.database",
        Secret("sqlite+aiosqlite:////var/lib/g.db"),
    ),
    (
        "storage: {database: 'postgresql+asyncpg://u:p@h/db'}",
        "storage.database",
        Secret("postgresql+asyncpg://u:p@h/db"),
    ),
    ("storage: {redis: 'rediss://h:6380/1'}", "storage.redis", Secret("rediss://h:6380/1")),
    ("storage: {redis: 'redis+sentinel://a:1,b:2/main/0'}", "storage.redis", Secret("redis+sentinel://a:1,b:2/main/0")),
    ("storage: {redis: 'redis+cluster://a:1'}", "storage.redis", Secret("redis+cluster://a:1")),
    ("storage: {redis: 'redis://h?db=3'}", "storage.redis", Secret("redis://h?db=3")),
    ("roles: {no: [], on: [no], 12:30: []}", "roles", {"no": (), "on": ("no",), "12:30": ()}),
    ("identity: {headers: {id: X-Forwarded-User}}", "identity.headers.id", "X-Forwarded-User"),
    ("tokens: {leeway: 0s}", "tokens.leeway", 0.0),
    (
        "upstreams: {web: 'http://[::1]:80'}",
        "upstreams",
        {"web": UpstreamSettings(name="web", targets=("http://[::1]:80",))},
    ),
]


@pytest.mark.parametrize(("written", "attribute", "value"), ACCEPTED)
def test_a_key_means(written: str, attribute: str, value: object) -> None:
    found: Any = settings_of(written)
    for name in attribute.split("."):
        found = getattr(found, name)

    assert found == value


def test_settings_that_are_written_and_read_again_are_the_same() -> None:
    settings = settings_of(EVERYTHING.replace("roles: [user, auditor]", "roles: {any: [user], all: [auditor, editor]}"))

    again = settings_of(yaml.safe_dump(SettingsKind().written(settings)))

    assert again == settings


def test_a_key_is_not_written_out() -> None:
    settings = settings_of("tokens: {keys: [{kid: a, algorithm: HS256, secret: '${S}'}]}", {"S": "hunter2" * 5})

    assert "hunter2" not in str(SettingsKind().written(settings))
