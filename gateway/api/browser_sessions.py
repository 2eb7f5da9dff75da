"""HTTP endpoints of browser sessions: sign in, check, confirm and sign out by a cookie."""

from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.accounts.browser_sessions import BrowserSessions
from gateway.accounts.commands import BrowserLogin, PasswordProof
from gateway.accounts.inputs import accept
from gateway.accounts.service import Accounts
from gateway.api.accounts import tokens
from gateway.api.body import (
    Endpoint,
    admission_of,
    cancel_on_disconnect,
    json_body,
    origin_of,
    signed_in,
    translate_storage_errors,
)
from gateway.api.session_cookie import CookieFields, shown_session
from gateway.gate.session_cookies import sent_to_own_host
from gateway.policy.policy import Policy

_SIGNED_OUT: Final = {"signed_in": False}


class BrowserEndpoints:
    """One method per endpoint. The gate has checked that requests that change something come from an own page. `policy`
    returns the one in force."""

    def __init__(self, browser: BrowserSessions, accounts: Accounts, policy: Callable[[], Policy]) -> None:
        self._browser = browser
        self._policy = policy
        self._accounts = accounts
        self._fields = CookieFields(browser.settings)

    async def begin(self, request: Request) -> Response:
        """POST /session"""
        login = accept(BrowserLogin, await json_body(request), self._browser.settings)
        beginning = self._browser.begin(
            login.email,
            login.password,
            remember=login.remember,
            origin=origin_of(request),
            previous=self._cookie(request),
        )
        began = await cancel_on_disconnect(request, beginning)
        return JSONResponse(shown_session(began.session), headers=self._fields.set(began.cookie))

    async def show(self, request: Request) -> Response:
        """GET /session: 200 for anonymous callers too"""
        current = await self._browser.current(self._cookie(request))
        return JSONResponse(_SIGNED_OUT if current is None else shown_session(current))

    async def confirm(self, request: Request) -> Response:
        """POST /session/confirm: a new cookie for a cookie, new tokens for a token"""
        _, claims = signed_in(request)
        proof = accept(PasswordProof, await json_body(request), self._browser.settings)
        if claims.kind != "session":
            confirming = self._accounts.confirm(claims, proof.password, origin_of(request))
            return tokens(await cancel_on_disconnect(request, confirming), 200)
        confirmation = self._browser.confirm(claims, self._cookie(request), proof.password, origin_of(request))
        began = await cancel_on_disconnect(request, confirmation)
        return JSONResponse(shown_session(began.session), headers=self._fields.set(began.cookie))

    async def end(self, request: Request) -> Response:
        """DELETE /session"""
        await self._browser.end(self._cookie(request), origin_of(request))
        return Response(status_code=204, headers=self._fields.clear())

    def _cookie(self, request: Request) -> bytes | None:
        browsers = self._policy().browsers
        return None if browsers is None else sent_to_own_host(admission_of(request).request, browsers)


def browser_endpoints(
    browser: BrowserSessions, accounts: Accounts, policy: Callable[[], Policy]
) -> dict[str, Endpoint]:
    """The handlers by endpoint name."""
    endpoints = BrowserEndpoints(browser, accounts, policy)
    handlers: dict[str, Endpoint] = {
        "accounts.session.begin": endpoints.begin,
        "accounts.session.show": endpoints.show,
        "accounts.session.confirm": endpoints.confirm,
        "accounts.session.end": endpoints.end,
    }
    return {name: translate_storage_errors(handler) for name, handler in handlers.items()}
