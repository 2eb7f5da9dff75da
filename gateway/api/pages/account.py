"""The account page and the pages that change an account."""

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from gateway.accounts.api_keys import ApiKeyService
from gateway.accounts.browser_sessions import BrowserSessions
from gateway.accounts.commands import KeyRequest, PasswordChange
from gateway.accounts.inputs import accept
from gateway.accounts.service import Accounts, SessionService
from gateway.accounts.store import ActiveSession
from gateway.api.body import cancel_on_disconnect, cookie_of, origin_of
from gateway.api.pages.links import LinkServices
from gateway.api.pages.site import Visit
from gateway.api.pages.views import AccountView, CreatedKeyView, KeyRow, KeyView, PasswordView, SessionRow
from gateway.api.session_cookie import CookieFields
from gateway.errors import Refusal
from gateway.identity.api_keys import ApiKey

_DAY: Final = 86_400
_LIFETIMES: Final = (30, 90, 365)  # In days.
_DONE: Final[Mapping[str, str]] = {
    "email": "done_email",
    "invitation": "done_invitation",
    "key": "done_key",
    "link": "done_link",
    "others": "done_others",
    "password": "done_password",
    "session": "done_session",
    "verified": "sign_in.email_verified",
}

# The first match counts: most browsers name others too.
_BROWSERS: Final = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Version/", "Safari"),
)
_SYSTEMS: Final = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)
_LONGEST: Final = 40  # Characters of a name that is shown as it is.


class AccountPages:
    """One method per page and method. Changes of the ways to sign in need a fresh session."""

    def __init__(
        self,
        browser: BrowserSessions,
        accounts: Accounts,
        sessions: SessionService,
        keys: ApiKeyService,
        links: LinkServices | None,
    ) -> None:
        self._browser = browser
        self._accounts = accounts
        self._sessions = sessions
        self._keys = keys
        self._links = links
        self._cookies = CookieFields(browser.settings)

    async def account(self, visit: Visit) -> Response:
        principal, claims = visit.signed_in()
        origin = origin_of(visit.request)
        sessions = await self._sessions.list(claims, origin)
        keys = await self._keys.list(claims, origin)
        view = AccountView(
            email=visit.email,
            email_verified=principal.email_verified,
            has_mail=self._links is not None,
            has_password=principal.has_password,
            sessions=tuple(_session_row(session, current=claims.session) for session in sessions),
            keys=tuple(_key_row(key) for key in keys),
        )
        return visit.show("account", view, visit.notice("account", done=_DONE))

    async def submit_account(self, visit: Visit) -> Response:
        principal, claims = visit.signed_in()
        values, origin = await visit.form(), origin_of(visit.request)
        match values.get("action"):
            case "verify" if self._links is not None:
                await self._links.verification.resend(principal, claims, origin)
                done = "link"
            case "end-session":
                await self._sessions.end(claims, values.get("id", ""), origin)
                done = "session"
            case "end-others":
                for session in await self._sessions.list(claims, origin):
                    if session.id != claims.session:
                        await self._sessions.end(claims, session.id, origin)
                done = "others"
            case "delete-key":
                await self._keys.delete(claims, values.get("id", ""), origin)
                done = "key"
            case _:
                raise Refusal("bad_request", "unknown action")
        return visit.redirect(visit.url("account", done=done))

    async def password(self, visit: Visit) -> Response:
        return visit.show("password", self._password_view(visit))

    async def submit_password(self, visit: Visit) -> Response:
        principal, claims = visit.signed_in()
        values = await visit.form()
        fields: dict[str, object] = {"new_password": values.get("new_password", "")}
        fields["end_api_keys"] = "end_api_keys" in values
        if principal.has_password:
            fields["current_password"] = values.get("current_password", "")
        try:
            change = accept(PasswordChange, fields, visit.site.settings)
            following = await self._browser.next_cookie(claims, cookie_of(visit.request))
            changing = self._accounts.change_password(
                claims,
                change.current_password,
                change.new_password,
                origin=origin_of(visit.request),
                end_api_keys=change.end_api_keys,
                renewal=None if following is None else following.renewal,
            )
            await cancel_on_disconnect(visit.request, changing)
        except Refusal as refusal:
            if refusal.code == "reauthentication_required":
                raise
            code = "wrong_password" if refusal.code == "invalid_credentials" else ""
            view = self._password_view(visit)
            return visit.refuse(refusal, "password", view, values, focus="current_password", code=code)
        headers = {} if following is None else self._cookies.set(following.cookie)
        return visit.redirect(visit.url("account", done="password"), headers)

    async def key(self, visit: Visit) -> Response:
        _, claims = visit.signed_in()
        self._keys.require_fresh(claims)
        return visit.show("key", self._key_view())

    async def submit_key(self, visit: Visit) -> Response:
        """The page with the new key is the response itself: the key must not stand in an address."""
        principal, claims = visit.signed_in()
        values = await visit.form()
        try:
            fields = {"name": values.get("name", ""), "expires_in": _seconds(values.get("expires", ""))}
            key_request = accept(KeyRequest, fields, visit.site.settings)
            made = await self._keys.create(principal, claims, key_request, origin_of(visit.request))
        except Refusal as refusal:
            if refusal.code == "reauthentication_required":
                raise
            return visit.refuse(refusal, "key", self._key_view(), values, focus="name")
        heading = visit.texts["pages"]["key"]["created"]
        return visit.show("key_created", CreatedKeyView(made.key.name, made.text), heading=heading, status=201)

    def _password_view(self, visit: Visit) -> PasswordView:
        principal, _ = visit.signed_in()
        least = visit.site.settings.accounts.password.min_length
        return PasswordView(visit.email, has_password=principal.has_password, min_length=least)

    def _key_view(self) -> KeyView:
        """The lifetimes to choose from. Without a maximum, keys can live without an end."""
        longest = self._keys.settings.accounts.api_keys.max_ttl
        if longest is None:
            return KeyView((*_LIFETIMES, 0))
        most = max(1, int(longest // _DAY))
        return KeyView(tuple(dict.fromkeys(min(days, most) for days in _LIFETIMES)))


def _seconds(days: str) -> int | None:
    """The lifetime of a key in seconds, None for no end. Raises `invalid_fields` through the check of the number."""
    count = int(days) if days.isascii() and days.isdecimal() and len(days) < 6 else -1
    return None if count == 0 else count * _DAY


def _session_row(session: ActiveSession, *, current: str) -> SessionRow:
    return SessionRow(
        id=session.id,
        name=browser_name(session.user_agent or ""),
        is_browser=session.kind == "browser",
        is_current=session.id == current,
        began=session.created_at,
        used=session.used_at,
        address=session.address or "",
    )


def _key_row(key: ApiKey) -> KeyRow:
    return KeyRow(key.id, key.name, tuple(sorted(key.roles)), key.expires_at, key.last_used_at)


def browser_name(user_agent: str) -> str:
    """The browser and its system in words, because users recognise no User-Agent; or the first product of another
    program (`curl/8.5.0`). Empty without any."""
    if not user_agent.startswith("Mozilla/"):
        return user_agent.partition(" ")[0][:_LONGEST]
    names = (next((name for mark, name in known if mark in user_agent), "") for known in (_BROWSERS, _SYSTEMS))
    return ", ".join(filter(None, names))
