"""The HTTP endpoints of the pages, by the names of their routes."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.accounts.api_keys import ApiKeyService
from gateway.accounts.browser_sessions import BrowserSessions
from gateway.accounts.service import Accounts, SessionService
from gateway.api.body import Endpoint, admission_of, note_refusal
from gateway.api.pages.account import AccountPages
from gateway.api.pages.links import LinkPages, LinkServices, RegistrationPages
from gateway.api.pages.refusals import RefusalPages
from gateway.api.pages.sign_in import SignInPages
from gateway.api.pages.site import PATHS, Site, Visit
from gateway.errors import Refusal, StorageUnavailable
from gateway.gate.session_cookies import require_own_page
from gateway.settings.model import Settings

Handler = Callable[[Visit], Awaitable[Response]]

# An SVG file can contain scripts, which run if a browser opens the file itself.
_LOGO_HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "max-age=300",
}
# The refusals that another page resolves.
_RESOLVED_BY: Final[Mapping[str, str]] = {
    "reauthentication_required": "confirm",
    "token_expired": "sign_in",
    "token_invalid": "sign_in",
    "token_missing": "sign_in",
    "token_revoked": "sign_in",
}


class Pages:
    """The pages in force. A reload replaces texts, templates and logo."""

    def __init__(self, settings: Settings) -> None:
        self._site = Site(settings)
        self.refusals = RefusalPages(lambda: self._site)

    def prepare(self, settings: Settings) -> Site | None:
        """The pages of a new configuration, None without pages. Raises ConfigurationError."""
        return None if settings.accounts.pages is None else Site(settings)

    def apply(self, site: Site | None) -> None:
        """Show these pages from now on."""
        if site is not None:
            self._site = site

    def endpoints(self, handlers: Mapping[str, Handler]) -> dict[str, Endpoint]:
        """The endpoints of these handlers, the logo, and the well-known address of the password page."""
        pages = {name: self._endpoint(handler) for name, handler in handlers.items()}
        return {**pages, "pages.logo": self._logo, "pages.change_password": self._change_password}

    def _endpoint(self, handler: Handler) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            try:
                if request.method == "POST":
                    # With a session and without: no other site can sign a visitor in to an account of its choice.
                    require_own_page(admission_of(request).request, self._site.browsers)
                visit = Visit.of(self._site, request)
            except Refusal as refusal:
                return self._refused(request, refusal)
            try:
                return await handler(visit)
            except Refusal as refusal:
                if refusal.code in _RESOLVED_BY:
                    url = visit.site.urls({**visit.query, "return_to": visit.here()})[_RESOLVED_BY[refusal.code]]
                    return visit.redirect(url or "")
                return self._refused(request, refusal)
            except StorageUnavailable as error:
                return self._refused(request, Refusal("storage_unavailable", str(error), retry_after=1))

        return endpoint

    def _refused(self, request: Request, refusal: Refusal) -> Response:
        note_refusal(request, refusal)
        fields, body = self.refusals.page(refusal, admission_of(request).request)
        response = Response(body, refusal.status)
        response.raw_headers = [*fields, (b"content-length", b"%d" % len(body))]
        return response

    async def _logo(self, request: Request) -> Response:
        logo = self._site.logo
        if logo is None:
            raise Refusal("not_found")
        return Response(logo.content, headers={**_LOGO_HEADERS, "content-type": logo.media_type})

    async def _change_password(self, request: Request) -> Response:
        """The address that password managers open (W3C: A Well-Known URL for Changing Passwords)."""
        return RedirectResponse(self._site.pages.path + PATHS["password"], 303, {"cache-control": "no-store"})


def page_handlers(
    browser: BrowserSessions,
    *,
    accounts: Accounts,
    sessions: SessionService,
    keys: ApiKeyService,
    links: LinkServices | None,
) -> Mapping[str, Handler]:
    """The handlers of all pages. `links` is None without mail."""
    signing_in = SignInPages(browser, accounts)
    account = AccountPages(browser, accounts, sessions, keys, links)
    registration = RegistrationPages(browser, accounts, links)
    return {
        "pages.sign_in": signing_in.sign_in,
        "pages.sign_in.submit": signing_in.submit_sign_in,
        "pages.confirm": signing_in.confirm,
        "pages.confirm.submit": signing_in.submit_confirm,
        "pages.sign_out": signing_in.sign_out,
        "pages.sign_out.submit": signing_in.submit_sign_out,
        "pages.register": registration.register,
        "pages.register.submit": registration.submit_register,
        "pages.account": account.account,
        "pages.account.submit": account.submit_account,
        "pages.password": account.password,
        "pages.password.submit": account.submit_password,
        "pages.key": account.key,
        "pages.key.submit": account.submit_key,
        **({} if links is None else _link_handlers(LinkPages(browser, accounts, links))),
    }


def _link_handlers(pages: LinkPages) -> Mapping[str, Handler]:
    return {
        "pages.verify": pages.verify,
        "pages.verify.submit": pages.submit_verify,
        "pages.forgot": pages.forgot,
        "pages.forgot.submit": pages.submit_forgot,
        "pages.reset": pages.reset,
        "pages.reset.submit": pages.submit_reset,
        "pages.invitation": pages.invitation,
        "pages.invitation.submit": pages.submit_invitation,
        "pages.email": pages.email,
        "pages.email.submit": pages.submit_email,
    }
