"""The response fields of the session cookie."""

from gateway.accounts.browser_sessions import SessionCookie
from gateway.gate.session_cookies import own_cookies
from gateway.settings.model import Settings
from gateway.wire.cookies import set_cookie


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
