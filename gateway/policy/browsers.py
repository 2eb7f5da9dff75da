"""The rules for browsers with sessions: the proof that a cookie needs, and the redirect to the sign-in page."""

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.errors import Refusal
from gateway.policy.route import Route
from gateway.settings.model import Settings
from gateway.settings.syntax import browser_origin
from gateway.wire.fields import Field, RequestFields
from gateway.wire.navigation import is_navigation, with_return_to
from gateway.wire.own_pages import OwnOrigins
from gateway.wire.paths import RequestTarget

SAFE_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_LONGEST_TARGET: Final = 4096  # In bytes. A longer one is left out of `return_to`.
_SIGN_IN: Final = "/sign-in"
# The page below `accounts.pages.path` that resolves a refusal.
_PAGES: Final[Mapping[str, str]] = {
    "token_missing": _SIGN_IN,
    "token_invalid": _SIGN_IN,
    "token_expired": _SIGN_IN,
    "token_revoked": _SIGN_IN,
    "user_inactive": _SIGN_IN,
    "reauthentication_required": "/confirm",
    "email_unverified": "/verify",
}


class BrowserPolicy:
    """`origins` are those whose pages can use sessions. `pages` is the path of the gateway's own pages, None without
    them; `sign_in` is `sessions.sign_in`."""

    def __init__(self, origins: OwnOrigins, *, sign_in: str, pages: str | None) -> None:
        self.origins: Final = origins
        self._sign_in = sign_in
        self._pages = pages

    def check_page(self, route: Route, method: bytes, fields: Sequence[Field], *, can_write: bool) -> Refusal | None:
        """Refusal `cross_site` for a request with a cookie that must come from an own page and does not prove it."""
        missing = self.origins.missing_proof(fields) if must_prove_page(route, method, can_write=can_write) else ""
        return Refusal("cross_site", missing, route=route.name) if missing else None

    def missing_proof(self, host: bytes | None, fields: Sequence[Field]) -> str:
        """ "" if a request to this host comes from an own page; otherwise the reason, for the log. None is the host of
        `server.public_url`."""
        if host is not None and host not in self.origins.hosts:
            return "not an own host"
        return self.origins.missing_proof(fields)

    def redirect(
        self, refusal: Refusal, route: Route, target: RequestTarget, method: bytes, fields: RequestFields
    ) -> None:
        """Turn the refusal of a proxied route into a redirect to the page that resolves it, if a browser navigates."""
        if refusal.code not in _PAGES or fields.canonical_host not in self.origins.hosts:
            return
        location = self.page_for(refusal.code, route, target)
        if location is not None and is_navigation(method, fields):
            refusal.redirect(location, self.origins.at(fields.canonical_host))

    def page_for(self, code: str, route: Route, target: RequestTarget) -> str | None:
        """The location of the page that resolves a refusal of a proxied route, with `return_to`; None without one."""
        page = None if route.upstream is None or code not in _PAGES else self._page(code, route)
        if page is None or _is_at(page, target):
            return None  # A sign-in page that asks for a sign-in would lead to itself without end.
        address = target.path if target.query is None else b"%b?%b" % (target.path, target.query)
        return with_return_to(page, address) if len(address) <= _LONGEST_TARGET else page

    def _page(self, code: str, route: Route) -> str | None:
        own = None if route.settings is None else route.settings.sign_in
        place = own or self._sign_in
        if place.startswith("/"):
            return place
        return None if place == "refuse" or self._pages is None else self._pages + _PAGES[code]


def must_prove_page(route: Route, method: bytes, *, can_write: bool) -> bool:
    """Whether a request with a cookie must come from an own page.

    Safe methods need no proof, so that links from other sites work (RFC 9110 9.2.1), except on routes with
    `same_origin`, and for requests that `can_write` with a safe method: WebSockets, and overrides of the method.
    """
    return can_write or method not in SAFE_METHODS or (route.conditions is not None and route.conditions.same_origin)


def _is_at(location: str, target: RequestTarget) -> bool:
    return location.partition("?")[0].rstrip("/").encode("ascii") == target.path.rstrip(b"/")


def browser_policy(settings: Settings) -> BrowserPolicy | None:
    """The rules of a configuration; None without sessions."""
    sessions, pages = settings.sessions, settings.accounts.pages
    if sessions is None or settings.server.public_url is None:
        return None
    origins = OwnOrigins((browser_origin(settings.server.public_url), *sessions.origins))
    return BrowserPolicy(origins, sign_in=sessions.sign_in, pages=None if pages is None else pages.path)
