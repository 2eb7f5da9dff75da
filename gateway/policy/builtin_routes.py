"""The built-in endpoints: their paths, and the access each requires.

They are ordinary routes, decided by the same code. All their paths are reserved, even while an endpoint is not served:
it then answers 404 and the path still never reaches an upstream.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, Literal, NamedTuple

from gateway.policy.patterns import Pattern, parse_pattern
from gateway.policy.route import NOTHING_MORE, Requirement, Route, with_head
from gateway.settings.model import Settings

_Access = Literal["anyone", "signed in", "admin"]

VERIFY: Final = "operations.verify"
METRICS: Final = "operations.metrics"
_BROWSERS: Final = "accounts.session."
REGISTER: Final = "accounts.register"

# Requested by an address of the machine or of the pod: by probes, by Prometheus, by the proxy in front, by upstreams.
_AT_ANY_HOST: Final = frozenset(("operations.health", "operations.ready", METRICS, VERIFY, "tokens.jwks"))


class _Endpoint(NamedTuple):
    name: str
    methods: str | None  # separated by spaces, None for all
    path: str
    access: _Access
    is_served: bool = False
    condition: str = ""  # the check that the endpoint makes itself, in words
    own_page: bool = False


# Below accounts.prefix.
_ACCOUNTS: Final = (
    _Endpoint(REGISTER, "POST", "/register", "anyone", True),
    _Endpoint("accounts.login", "POST", "/login", "anyone", True),
    _Endpoint("accounts.refresh", "POST", "/refresh", "anyone", True),
    _Endpoint("accounts.logout", "POST", "/logout", "signed in", True),
    _Endpoint("accounts.logout_all", "POST", "/logout-all", "signed in", True),
    _Endpoint("accounts.me", "GET", "/me", "signed in", True),
    _Endpoint("accounts.password", "POST", "/password", "signed in", True),
    _Endpoint("accounts.session.begin", "POST", "/session", "anyone", own_page=True),
    _Endpoint("accounts.session.show", "GET", "/session", "anyone"),
    _Endpoint("accounts.session.confirm", "POST", "/session/confirm", "signed in", own_page=True),
    _Endpoint("accounts.session.end", "DELETE", "/session", "anyone", own_page=True),
    _Endpoint("accounts.sessions.list", "GET", "/sessions", "signed in", True),
    _Endpoint("accounts.sessions.end", "DELETE", "/sessions/{id}", "signed in", True),
    _Endpoint("accounts.api_keys.list", "GET", "/api-keys", "signed in", True),
    _Endpoint("accounts.api_keys.create", "POST", "/api-keys", "signed in", True),
    _Endpoint("accounts.api_keys.delete", "DELETE", "/api-keys/{id}", "signed in", True),
    _Endpoint("admin.users.list", "GET", "/users", "admin", True),
    _Endpoint("admin.users.create", "POST", "/users", "admin", True),
    _Endpoint("admin.users.show", "GET", "/users/{id}", "admin", True),
    _Endpoint("admin.users.change", "PATCH", "/users/{id}", "admin", True),
    _Endpoint("admin.users.delete", "DELETE", "/users/{id}", "admin", True),
    _Endpoint("admin.users.revoke", "POST", "/users/{id}/revoke", "admin", True),
    _Endpoint("admin.audit", "GET", "/audit", "admin", True),
)
# At the root.
_ROOT: Final = (
    _Endpoint("tokens.jwks", "GET", "/.well-known/jwks.json", "anyone", True),
    _Endpoint("operations.health", "GET", "/_gateway/health", "anyone", True),
    _Endpoint("operations.ready", "GET", "/_gateway/ready", "anyone", True),
    _Endpoint(METRICS, "GET", "/_gateway/metrics", "anyone", True, "an address in observability.operations_allow"),
    # Forward-auth is called with the method of the original request, so every method is served.
    _Endpoint(VERIFY, None, "/_gateway/verify", "anyone", True, "a peer in server.trusted_proxies"),
    _Endpoint("operations.openapi", "GET", "/_gateway/openapi.json", "anyone", True),
    _Endpoint("operations.docs", "GET", "/_gateway/docs", "anyone", True),
    # The console authenticates by itself: a browser sends no bearer token and gets a sign-in page.
    _Endpoint("operations.console", "GET", "/_gateway/console", "anyone", True, "an administrator, by its own sign-in"),
    _Endpoint("operations.console.sign", "POST", "/_gateway/console", "anyone", True),
)


def own_routes(settings: Settings) -> tuple[Route, ...]:
    """The routes of all built-in endpoints, including those that are not served: with `operations_port` set,
    operational endpoints are not served on the public port. Raises PatternError for an invalid prefix."""
    prefix = settings.accounts.prefix.rstrip("/")
    accounts = (_route(endpoint, prefix, settings) for endpoint in _ACCOUNTS)
    root = (_route(endpoint, "", settings) for endpoint in _ROOT)
    hidden = settings.server.operations_port is not None
    return (
        *accounts,
        *(replace(route, is_served=False) if hidden and _is_operational(route) else route for route in root),
    )


def operations_routes(settings: Settings) -> tuple[Route, ...]:
    """The routes of the `server.operations_port` listener."""
    root = (_route(endpoint, "", settings) for endpoint in _ROOT)
    return tuple(route for route in root if _is_operational(route))


def _is_operational(route: Route) -> bool:
    return route.pattern.startswith("/_gateway/")


def reserved_for(pattern: Pattern, own: Iterable[Route]) -> Route | None:
    """The built-in endpoint that matches every path of the pattern, if any."""
    return next((route for route in own if route.shape.covers(pattern)), None)


def _is_open(settings: Settings) -> bool:
    return settings.accounts.registration == "open"


def _is_served(endpoint: _Endpoint, settings: Settings) -> bool:
    if endpoint.name.startswith(_BROWSERS):
        return settings.sessions is not None
    return endpoint.is_served and (endpoint.name != METRICS or settings.observability.metrics)


def _route(endpoint: _Endpoint, prefix: str, settings: Settings) -> Route:
    administrators = Requirement(any=frozenset({settings.accounts.admin_role}))
    methods = None if endpoint.methods is None else frozenset(endpoint.methods.encode().split())
    return Route(
        name=endpoint.name,
        shape=parse_pattern(prefix + endpoint.path),
        methods=methods and with_head(methods),
        authentication="none" if endpoint.access == "anyone" else "required",
        requirement=administrators if endpoint.access == "admin" else NOTHING_MORE,
        endpoint=endpoint.name,
        is_served=_is_served(endpoint, settings),
        refusal="registration_closed" if endpoint.name == REGISTER and not _is_open(settings) else None,
        condition=endpoint.condition,
        own_page=endpoint.own_page,
        at_any_host=endpoint.name in _AT_ANY_HOST,
        # The proxy that asks forwards the Upgrade field of the original handshake.
        websocket=endpoint.name == VERIFY,
    )
