"""The handlers of the pages by the names of their routes."""

from collections.abc import Mapping

from gateway.accounts.api_keys import OwnKeys
from gateway.accounts.browser_sessions import BrowserSessions
from gateway.accounts.service import Accounts
from gateway.accounts.sessions import OwnSessions
from gateway.api.pages.account import AccountPages
from gateway.api.pages.endpoints import Handler
from gateway.api.pages.sign_in import SignInPages


def page_handlers(
    browser: BrowserSessions,
    *,
    accounts: Accounts,
    sessions: OwnSessions,
    keys: OwnKeys,
) -> Mapping[str, Handler]:
    """The handlers of all pages. Those of links are in `links.py`, because they need mail."""
    signing_in = SignInPages(browser)
    account = AccountPages(browser, accounts, sessions, keys)
    return {
        "pages.sign_in": signing_in.sign_in,
        "pages.sign_in.submit": signing_in.submit_sign_in,
        "pages.confirm": signing_in.confirm,
        "pages.confirm.submit": signing_in.submit_confirm,
        "pages.sign_out": signing_in.sign_out,
        "pages.sign_out.submit": signing_in.submit_sign_out,
        "pages.account": account.account,
        "pages.account.submit": account.submit_account,
        "pages.password": account.password,
        "pages.password.submit": account.submit_password,
        "pages.key": account.key,
        "pages.key.submit": account.submit_key,
    }
