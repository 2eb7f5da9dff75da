"""The handlers of the pages by the names of their routes."""

from collections.abc import Mapping

from gateway.accounts.api_keys import ApiKeyService
from gateway.accounts.browser_sessions import BrowserSessions
from gateway.accounts.service import Accounts
from gateway.accounts.sessions import SessionService
from gateway.api.pages.account import AccountPages
from gateway.api.pages.endpoints import Handler
from gateway.api.pages.links import LinkPages, LinkServices, RegistrationPages
from gateway.api.pages.sign_in import SignInPages


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
