"""The pages of links and of new accounts: register, verify, forgot, reset, invitation, change of an address.

Opening the page of a link changes nothing, because mail scanners open links too (CVE-2026-124020): a button uses it.
Pages after a request for a link are the same for known and unknown addresses.
"""

from collections.abc import Mapping
from typing import Final, Protocol

from starlette.responses import Response

from gateway.accounts.browser_sessions import BrowserSessions
from gateway.accounts.commands import AcceptedInvitation, EmailOnly, Registration, ResetByLink, Verify
from gateway.accounts.emails import EmailAddress, email_address
from gateway.accounts.inputs import accept
from gateway.accounts.invitations import InvitationAcceptance
from gateway.accounts.links import INVITING, RESETTING, VERIFYING, Link
from gateway.accounts.password_reset import PasswordReset
from gateway.accounts.passwords import presented_password
from gateway.accounts.service import Accounts
from gateway.accounts.verification import Verification
from gateway.api.body import cancel_on_disconnect, origin_of
from gateway.api.pages.site import Visit
from gateway.api.pages.views import AddressView, LinkView, MailSentView, RegisterView
from gateway.api.session_cookie import CookieFields
from gateway.errors import Refusal

_NEW: Final[Mapping[str, str]] = {"password": "new_password"}  # names of fields in models and in forms
_NEW_EMAIL: Final[Mapping[str, str]] = {"email": "new_email"}
_RESENT: Final[Mapping[str, str]] = {"link": "account.done_link"}


class LinkServices(Protocol):
    """The services of links, which need mail."""

    @property
    def verification(self) -> Verification: ...

    @property
    def resets(self) -> PasswordReset: ...

    @property
    def acceptance(self) -> InvitationAcceptance: ...


class RegistrationPages:
    """The page that creates an account, at once or by a link. `links` is None without mail."""

    def __init__(self, browser: BrowserSessions, accounts: Accounts, links: LinkServices | None) -> None:
        self._browser = browser
        self._accounts = accounts
        self._links = links
        self._cookies = CookieFields(browser.settings)

    async def register(self, visit: Visit) -> Response:
        self._accounts.require_open_registration()
        if visit.query.get("done") == "mail":
            return _mail_sent(visit, MailSentView("verify"))
        return visit.show("register", self._view(visit))

    async def submit_register(self, visit: Visit) -> Response:
        values = await visit.form()
        try:
            return await self._register(visit, values)
        except Refusal as refusal:
            return visit.refuse(refusal, "register", self._view(visit), values, focus="email", names=_NEW)

    async def _register(self, visit: Visit, values: Mapping[str, str]) -> Response:
        settings, origin = visit.site.settings, origin_of(visit.request)
        if self._view(visit).by_mail and self._links is not None:
            form = accept(EmailOnly, {"email": values.get("email", "")}, settings)
            await self._links.verification.register(form.email, origin)
            return visit.redirect(visit.url("register", done="mail"))
        text = values.get("new_password", "")
        body = accept(Registration, {"email": values.get("email", ""), "password": text}, settings)
        await cancel_on_disconnect(visit.request, self._accounts.create(body.email, body.password, origin))
        return await begin(visit, self._browser, self._accounts, body.email, text)

    def _view(self, visit: Visit) -> RegisterView:
        accounts = visit.site.settings.accounts
        return RegisterView(accounts.email.verification == "required", accounts.password.min_length)


class LinkPages:
    """The pages that send and open links."""

    def __init__(self, browser: BrowserSessions, accounts: Accounts, links: LinkServices) -> None:
        self._browser = browser
        self._accounts = accounts
        self._verification = links.verification
        self._resets = links.resets
        self._acceptance = links.acceptance

    # ---- verified addresses

    async def verify(self, visit: Visit) -> Response:
        if "token" not in visit.query:
            return self._verification_needed(visit)
        link = await self._verification.uses.shown(visit.query["token"], VERIFYING)
        return _invalid(visit, "verify") if link is None else visit.show("verify", _verify_view(visit, link))

    def _verification_needed(self, visit: Visit) -> Response:
        """The page to which the gate leads browsers whose address is not verified."""
        principal, _ = visit.signed_in()
        if principal.email_verified:
            return visit.redirect(visit.return_to())
        return visit.show("verify", _link_view(visit, "required", visit.email), visit.notice("verify", done=_RESENT))

    async def submit_verify(self, visit: Visit) -> Response:
        values = await visit.form()
        if "token" not in visit.query:
            principal, claims = visit.signed_in()
            await self._verification.resend(principal, claims, origin_of(visit.request))
            return visit.redirect(visit.url("verify", done="link"))
        link = await self._verification.uses.shown(visit.query["token"], VERIFYING)
        if link is None:
            return _invalid(visit, "verify")
        try:
            return await self._use(visit, link, values)
        except Refusal as refusal:
            if refusal.code == "link_invalid":
                return _invalid(visit, "verify", refusal)
            code = "wrong_password" if refusal.code == "invalid_credentials" else ""
            names = _NEW if link.kind == "register" else {}
            view = _verify_view(visit, link)
            return visit.refuse(refusal, "verify", view, values, focus="password", code=code, names=names)

    async def _use(self, visit: Visit, link: Link, values: Mapping[str, str]) -> Response:
        fields = {"token": visit.query["token"]}
        for name in ("password", "new_password"):
            if name in values:
                fields["password" if link.kind == "register" else name] = values[name]
        body = accept(Verify, fields, visit.site.settings)
        using = self._verification.accept(body, visit.claims, origin_of(visit.request), with_tokens=False)
        registered = await cancel_on_disconnect(visit.request, using)
        if registered is not None:
            return await begin(visit, self._browser, self._accounts, registered.email, body.password or "")
        if link.kind == "email":
            return _finished(visit, "email", "email-changed")
        return _finished(visit, "verified", "email-verified")

    # ---- forgotten passwords

    async def forgot(self, visit: Visit) -> Response:
        return _mail_sent(visit, MailSentView("reset")) if visit.query.get("done") == "mail" else visit.show("forgot")

    async def submit_forgot(self, visit: Visit) -> Response:
        values = await visit.form()
        try:
            form = accept(EmailOnly, {"email": values.get("email", "")}, visit.site.settings)
        except Refusal as refusal:
            return visit.refuse(refusal, "forgot", values=values)
        await self._resets.request(form.email, origin_of(visit.request))
        return visit.redirect(visit.url("forgot", done="mail"))

    async def reset(self, visit: Visit) -> Response:
        link = await self._resets.uses.shown(visit.query.get("token", ""), RESETTING)
        return _invalid(visit, "reset") if link is None else visit.show("reset", _link_view(visit, "reset", link.email))

    async def submit_reset(self, visit: Visit) -> Response:
        values, token = await visit.form(), visit.query.get("token", "")
        link = await self._resets.uses.shown(token, RESETTING)
        if link is None:
            return _invalid(visit, "reset")
        try:
            fields = {"token": token, "new_password": values.get("new_password", "")}
            body = accept(ResetByLink, fields, visit.site.settings)
            resetting = self._resets.accept(body.token, body.new_password, origin_of(visit.request))
            await cancel_on_disconnect(visit.request, resetting)
        except Refusal as refusal:
            if refusal.code == "link_invalid":
                return _invalid(visit, "reset", refusal)
            return visit.refuse(refusal, "reset", _link_view(visit, "reset", link.email), values, focus="new_password")
        return visit.redirect(visit.url("sign_in", done="password-reset"))

    # ---- invitations

    async def invitation(self, visit: Visit) -> Response:
        link = await self._acceptance.uses.shown(visit.query.get("token", ""), INVITING)
        if link is None:
            return _invalid(visit, "invitation")
        return visit.show("invitation", _link_view(visit, _invitation_kind(visit, link), link.email))

    async def submit_invitation(self, visit: Visit) -> Response:
        values, token = await visit.form(), visit.query.get("token", "")
        link = await self._acceptance.uses.shown(token, INVITING)
        if link is None:
            return _invalid(visit, "invitation")
        fields = {"token": token}
        if "new_password" in values:
            fields["password"] = values["new_password"]
        try:
            body = accept(AcceptedInvitation, fields, visit.site.settings)
            accepting = self._acceptance.accept(body, visit.claims, origin_of(visit.request), with_tokens=False)
            registered = await cancel_on_disconnect(visit.request, accepting)
        except Refusal as refusal:
            if refusal.code == "link_invalid":
                return _invalid(visit, "invitation", refusal)
            kind = "sign_in" if refusal.code == "account_exists" else _invitation_kind(visit, link)
            view = _link_view(visit, kind, link.email)
            return visit.refuse(refusal, "invitation", view, values, focus="new_password", names=_NEW)
        if registered is not None:
            return await begin(visit, self._browser, self._accounts, registered.email, body.password or "")
        return visit.redirect(visit.url("account", done="invitation"))

    # ---- changes of an address

    async def email(self, visit: Visit) -> Response:
        _, claims = visit.signed_in()
        if visit.query.get("done") == "mail":
            return _mail_sent(visit, MailSentView("email"))
        self._verification.require_fresh(claims)
        return visit.show("email", AddressView(visit.email))

    async def submit_email(self, visit: Visit) -> Response:
        principal, claims = visit.signed_in()
        self._verification.require_fresh(claims)
        values = await visit.form()
        try:
            body = accept(EmailOnly, {"email": values.get("new_email", "")}, visit.site.settings)
            await self._verification.change_email(principal, claims, body.email, origin_of(visit.request))
        except Refusal as refusal:
            view = AddressView(visit.email)
            return visit.refuse(refusal, "email", view, values, focus="new_email", names=_NEW_EMAIL)
        return visit.redirect(visit.url("email", done="mail"))


async def begin(
    visit: Visit, browser: BrowserSessions, accounts: Accounts, email: EmailAddress, password: str
) -> Response:
    """Begin the first session of a new account."""
    beginning = browser.begin(email, presented_password(password), remember=False, origin=origin_of(visit.request))
    began = await cancel_on_disconnect(visit.request, beginning)
    await accounts.note_language(began.session.user.id, visit.language)
    return visit.redirect(visit.return_to(), CookieFields(browser.settings).set(began.cookie))


def _mail_sent(visit: Visit, view: MailSentView) -> Response:
    back = visit.url("account" if view.kind == "email" else "sign_in")
    return visit.show("mail_sent", view, urls={"back": back})


def _invalid(visit: Visit, page: str, refusal: Refusal | None = None) -> Response:
    """The page of a link that is unknown, used or void. `page` gives the title."""
    found = refusal or Refusal("link_invalid", "unknown, used, expired, void or of another kind")
    return visit.refuse(found, "link_invalid", heading=visit.texts["pages"][page]["title"])


def _finished(visit: Visit, signed_in: str, signed_out: str) -> Response:
    """Lead to the account with a session, and otherwise to the sign-in page."""
    has_session = visit.claims is not None
    return visit.redirect(
        visit.url("account", done=signed_in) if has_session else visit.url("sign_in", done=signed_out)
    )


def _verify_view(visit: Visit, link: Link) -> LinkView:
    match link.kind:
        case "register":
            kind = "first"
        case "email":
            kind = "change"
        case _:
            is_own = visit.claims is not None and visit.claims.subject == link.user_id
            kind = "signed_in" if is_own else "password"
    return _link_view(visit, kind, link.email)


def _invitation_kind(visit: Visit, link: Link) -> str:
    """The form behind an invitation: of a new account, or of the signed-in one with the invited address."""
    is_own = bool(visit.email) and email_address(visit.email).canonical == link.canonical
    return "join" if is_own else "intro"


def _link_view(visit: Visit, kind: str, email: str) -> LinkView:
    return LinkView(kind, email, visit.site.settings.accounts.password.min_length)
