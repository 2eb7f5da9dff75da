"""The session cookie in responses: its fields, the session behind it, and the first session of a new account."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.accounts.browser_sessions import BrowserSessions, CurrentSession, SessionCookie
from gateway.accounts.emails import EmailAddress
from gateway.accounts.passwords import Password
from gateway.accounts.serialize import own_account, rfc3339
from gateway.api.body import admission_of, origin_of
from gateway.errors import FieldError, Refusal
from gateway.gate.session_cookies import own_cookies, require_own_page
from gateway.policy.policy import Policy
from gateway.settings.model import Settings
from gateway.wire.credential_fields import set_cookie


class CookieFields:
    """Makes the fields that set the session cookie and take it away."""

    def __init__(self, settings: Settings) -> None:
        own = own_cookies(settings)
        assert own is not None and settings.sessions is not None, "sessions are configured"
        self._own = own
        self._same_site = settings.sessions.same_site

    def set(self, cookie: SessionCookie) -> dict[str, str]:
        return {"set-cookie": self._line(cookie.value, cookie.max_age)}

    def clear(self) -> dict[str, str]:
        # Pages that the browser has cached belong to the user who signs out.
        return {"set-cookie": self._line("", 0), "clear-site-data": '"cache"'}

    def _line(self, value: str, max_age: int | None) -> str:
        return set_cookie(self._own, value, same_site=self._same_site, max_age=max_age)


def shown_session(session: CurrentSession) -> dict[str, Any]:
    """A session as shown to its user."""
    at = session.authentication
    return {
        "signed_in": True,
        "user": own_account(session.user),
        "id": session.id,
        "authenticated_at": rfc3339(datetime.fromtimestamp(at.time, UTC)),
        "expires_at": rfc3339(session.expires_at),
        "idle_until": None if session.idle_until is None else rfc3339(session.idle_until),
        "acr": at.acr,
        "amr": list(at.amr),
        "methods": list(session.methods),
    }


class FirstSessions:
    """Begins the browser session of an account that was just created, for bodies with `"session": "cookie"`."""

    def __init__(self, browser: BrowserSessions | None, policy: Callable[[], Policy]) -> None:
        self._browser = browser
        self._policy = policy

    def require_own_page(self, request: Request) -> None:
        """Raise `cross_site` unless the request comes from an own page, and `invalid_fields` without sessions."""
        browsers = self._policy().browsers
        if self._browser is None or browsers is None:
            raise Refusal("invalid_fields", fields=[FieldError("session", "is not offered here")])
        require_own_page(admission_of(request).request, browsers)

    async def begin(self, request: Request, email: EmailAddress, password: Password | None) -> Response:
        """Sign in to the new account."""
        assert self._browser is not None, "require_own_page comes first"
        began = await self._browser.begin(email, password, remember=False, origin=origin_of(request))
        fields = CookieFields(self._browser.settings).set(began.cookie)
        return JSONResponse(shown_session(began.session), 201, headers=fields)
