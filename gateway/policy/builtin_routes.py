"""The built-in endpoints: their paths, and the access each requires.

They are ordinary routes, decided by the same code. All their paths are reserved, even while an endpoint is not served:
it then answers 404 and the path still never reaches an upstream.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final, Literal, NamedTuple

from gateway.policy.cors import cors_of_accounts
from gateway.policy.patterns import Pattern, parse_pattern
from gateway.policy.route import NOTHING_MORE, Authentication, Requirement, Route, with_head
from gateway.settings.model import Settings

# "visitors": everyone, and a session counts where there is one.
_Access = Literal["anyone", "visitors", "signed in", "admin"]

VERIFY: Final = "operations.verify"
METRICS: Final = "operations.metrics"
_BROWSERS: Final = "accounts.session."
REGISTER: Final = "accounts.register"
_PASSWORD_PAGE: Final = "pages.change_password"  # noqa: S105  no password

# Requested by an address of the machine or of the pod: by probes, by Prometheus, by the proxy in front, by upstreams.
_AT_ANY_HOST: Final = frozenset(("operations.health", "operations.ready", METRICS, VERIFY, "tokens.jwks"))


_AUTHENTICATION: Final[Mapping[_Access, Authentication]] = {
    "anyone": "none",
    "visitors": "optional",
    "signed in": "required",
    "admin": "required",
}


class _Endpoint(NamedTuple):
    name: str
    methods: str | None  # separated by spaces, None for all
    path: str
    access: _Access
    is_served: bool = False
    condition: str = ""  # the check that the endpoint makes itself, in words
    own_page: bool = False
    needs_mail: bool = False  # served if mail is configured


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
    _Endpoint("accounts.verify", "POST", "/verify", "visitors", needs_mail=True),
    _Endpoint("accounts.verify.resend", "POST", "/verify/resend", "signed in", needs_mail=True),
    _Endpoint("accounts.password.forgot", "POST", "/password/forgot", "anyone", needs_mail=True),
    _Endpoint("accounts.password.reset", "POST", "/password/reset", "anyone", needs_mail=True),
    _Endpoint("accounts.email", "POST", "/email", "signed in", needs_mail=True),
    _Endpoint("accounts.invitations.accept", "POST", "/invitations/accept", "visitors", needs_mail=True),
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
    _Endpoint("admin.users.reset", "POST", "/users/{id}/reset", "admin", needs_mail=True),
    _Endpoint("admin.invitations.list", "GET", "/invitations", "admin", needs_mail=True),
    _Endpoint("admin.invitations.create", "POST", "/invitations", "admin", needs_mail=True),
    _Endpoint("admin.invitations.delete", "DELETE", "/invitations/{id}", "admin", needs_mail=True),
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
    # RFC 8615. Reserved for pages.
    _Endpoint(_PASSWORD_PAGE, "GET", "/.well-known/change-password", "anyone"),
    _Endpoint("pages.webauthn", "GET", "/.well-known/webauthn", "anyone"),
    _Endpoint("pages.passkey_endpoints", "GET", "/.well-known/passkey-endpoints", "anyone"),
)
_AT_ROOT: Final = frozenset(endpoint.name for endpoint in _ROOT)
# Below accounts.pages.path, where pages are configured. Forms are posted to the address of their page.
_FORMS: Final = {
    "account": "",
    "sign_in": "/sign-in",
    "confirm": "/confirm",
    "sign_out": "/sign-out",
    "register": "/register",
    "password": "/password",
    "key": "/api-key",
    "verify": "/verify",
    "forgot": "/forgot",
    "reset": "/reset",
    "invitation": "/invitation",
    "email": "/email",
}
_WITH_MAIL: Final = frozenset(("verify", "forgot", "reset", "invitation", "email"))


def own_routes(settings: Settings) -> tuple[Route, ...]:
    """The routes of all built-in endpoints, including those that are not served: with `operations_port` set,
    operational endpoints are not served on the public port. Raises PatternError for an invalid prefix."""
    prefix = settings.accounts.prefix.rstrip("/")
    accounts = (_route(endpoint, prefix, settings) for endpoint in _ACCOUNTS)
    root = (_route(endpoint, "", settings) for endpoint in _ROOT)
    hidden = settings.server.operations_port is not None
    return (
        *accounts,
        *_page_routes(settings),
        *(replace(route, is_served=False) if hidden and _is_operational(route) else route for route in root),
    )


def _page_routes(settings: Settings) -> Iterator[Route]:
    """The routes of the pages for accounts. Pages that send or open links need mail."""
    pages = settings.accounts.pages
    if pages is None:
        return
    path = pages.path.rstrip("/")
    yield _route(_Endpoint("pages.logo", "GET", "/logo", "anyone", pages.logo is not None), path, settings)
    for name, page in _FORMS.items():
        is_served = settings.mail is not None or name not in _WITH_MAIL
        for method, route in {"GET": f"pages.{name}", "POST": f"pages.{name}.submit"}.items():
            made = _route(_Endpoint(route, method, page, "visitors", is_served), path, settings)
            closed = name == "register" and not _is_open(settings)
            yield replace(made, refusal="registration_closed") if closed else made


def colliding_page(own: Iterable[Route]) -> tuple[Route, Route] | None:
    """A page and another built-in endpoint with the same path and method. Paths of pages have no captures, so equal
    patterns are the only collisions."""
    places = {(route.pattern, method): route for route in own if not is_page(route) for method in route.methods or ()}
    for page in filter(is_page, own):
        for method in page.methods or ():
            other = places.get((page.pattern, method))
            if other is not None:
                return page, other
    return None


def is_page(route: Route) -> bool:
    """Whether a built-in route is below `accounts.pages.path`."""
    return route.name.startswith("pages.") and route.name not in _AT_ROOT


def browsable_paths(settings: Settings) -> frozenset[bytes]:
    """The paths of the gateway that browsers can open: the pages for accounts, and the endpoints at the root. The
    endpoints below `accounts.prefix` are for programs."""
    served = (route for route in own_routes(settings) if route.is_served)
    return frozenset(route.pattern.encode() for route in served if is_page(route) or route.name in _AT_ROOT)


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
    if endpoint.name == _PASSWORD_PAGE:
        return settings.accounts.pages is not None
    if endpoint.name.startswith(_BROWSERS):
        return settings.sessions is not None
    if endpoint.needs_mail:
        return settings.mail is not None
    return endpoint.is_served and (endpoint.name != METRICS or settings.observability.metrics)


def _route(endpoint: _Endpoint, prefix: str, settings: Settings) -> Route:
    administrators = Requirement(any=frozenset({settings.accounts.admin_role}))
    methods = None if endpoint.methods is None else frozenset(endpoint.methods.encode().split())
    return Route(
        name=endpoint.name,
        shape=parse_pattern(prefix + endpoint.path),
        methods=methods and with_head(methods),
        authentication=_AUTHENTICATION[endpoint.access],
        requirement=administrators if endpoint.access == "admin" else NOTHING_MORE,
        endpoint=endpoint.name,
        is_served=_is_served(endpoint, settings),
        refusal="registration_closed" if endpoint.name == REGISTER and not _is_open(settings) else None,
        cors=cors_of_accounts(settings, methods) if methods and endpoint.name.startswith("accounts.") else None,
        condition=endpoint.condition,
        own_page=endpoint.own_page,
        at_any_host=endpoint.name in _AT_ANY_HOST,
        # The proxy that asks forwards the Upgrade field of the original handshake.
        websocket=endpoint.name == VERIFY,
    )
