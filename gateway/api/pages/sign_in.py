"""The pages of a session: sign in, confirm, sign out."""

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from gateway.accounts.browser_sessions import BrowserSessions
from gateway.accounts.commands import BrowserLogin, PasswordProof
from gateway.accounts.inputs import accept
from gateway.accounts.service import Accounts
from gateway.api.body import admission_of, cancel_on_disconnect, cookie_of, origin_of
from gateway.api.pages.site import Visit
from gateway.api.pages.views import AddressView, SignInView
from gateway.api.session_cookie import CookieFields
from gateway.errors import Refusal
from gateway.gate.session_cookies import sent_to_own_host

# The notices of the sign-in page after a success elsewhere.
_DONE: Final[Mapping[str, str]] = {
    "email-changed": "email_changed",
    "email-verified": "email_verified",
    "password-reset": "password_reset",
    "registered": "registered",
    "signed-out": "signed_out",
}


class SignInPages:
    """One method per page and method."""

    def __init__(self, browser: BrowserSessions, accounts: Accounts) -> None:
        self._browser = browser
        self._accounts = accounts
        self._cookies = CookieFields(browser.settings)

    async def sign_in(self, visit: Visit) -> Response:
        return visit.show("sign_in", self._view(), visit.notice("sign_in", done=_DONE))

    async def submit_sign_in(self, visit: Visit) -> Response:
        values = await visit.form()
        fields = {"email": values.get("email", ""), "password": values.get("password", "")}
        try:
            login = accept(BrowserLogin, {**fields, "remember": "remember" in values}, visit.site.settings)
            beginning = self._browser.begin(
                login.email,
                login.password,
                remember=login.remember,
                origin=origin_of(visit.request),
                previous=_cookie(visit),
            )
            began = await cancel_on_disconnect(visit.request, beginning)
        except Refusal as refusal:
            return visit.refuse(refusal, "sign_in", self._view(), values, focus="password")
        await self._accounts.note_language(began.session.user.id, visit.language)
        return visit.redirect(visit.return_to(), self._cookies.set(began.cookie))

    async def confirm(self, visit: Visit) -> Response:
        visit.signed_in()
        return visit.show("confirm", AddressView(visit.email))

    async def submit_confirm(self, visit: Visit) -> Response:
        _, claims = visit.signed_in()
        values = await visit.form()
        try:
            proof = accept(PasswordProof, {"password": values.get("password", "")}, visit.site.settings)
            confirming = self._browser.confirm(
                claims, cookie_of(visit.request), proof.password, origin_of(visit.request)
            )
            began = await cancel_on_disconnect(visit.request, confirming)
        except Refusal as refusal:
            code = "wrong_password" if refusal.code == "invalid_credentials" else ""
            return visit.refuse(refusal, "confirm", AddressView(visit.email), values, focus="password", code=code)
        return visit.redirect(visit.return_to(), self._cookies.set(began.cookie))

    async def sign_out(self, visit: Visit) -> Response:
        return visit.show("sign_out", AddressView(visit.email))

    async def submit_sign_out(self, visit: Visit) -> Response:
        await self._browser.end(_cookie(visit), origin_of(visit.request))
        return visit.redirect(visit.url("sign_in", done="signed-out"), self._cookies.clear())

    def _view(self) -> SignInView:
        sessions = self._browser.settings.sessions
        return SignInView(remember=sessions is not None and sessions.remember is not None)


def _cookie(visit: Visit) -> bytes | None:
    return sent_to_own_host(admission_of(visit.request).request, visit.site.browsers)
