"""Who looks at the console. Browsers send no bearer, so a sign-in here is kept in a cookie, which opens nothing else.

- The cookie goes to this path only, is hidden from scripts, and no page of another site can have it sent
  (RFC 6265bis: Path, HttpOnly, SameSite=Strict). It holds an access token, so it ends with that, and at once where the
  account is disabled, loses its role, or the session is ended.
- Nothing but the console looks at it: at every other path a cookie is no credential.
- A form that another site sends is refused, or somebody could be signed in as somebody else.
"""

from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from gateway.accounts.bodies import LoginForm
from gateway.accounts.declaring import accept
from gateway.accounts.requests import origin_of, unless_left
from gateway.accounts.service import Accounts
from gateway.errors import Refusal
from gateway.identity.directory import Directory
from gateway.identity.principals import Principal
from gateway.identity.records import Claims
from gateway.identity.tokens import Tokens
from gateway.policy.decide import authorize
from gateway.policy.patterns import parse_pattern
from gateway.policy.route import Requirement, Route
from gateway.settings.model import Settings

_COOKIE: Final = "gateway_console"


class SigningIn:
    """Tells administrators from others. `path` is that of the console."""

    def __init__(
        self, path: str, accounts: Accounts, *, tokens: Tokens, directory: Directory, settings: Settings
    ) -> None:
        self._path = path
        self._accounts = accounts
        self._tokens = tokens
        self._directory = directory
        self._settings = settings
        administrators = Requirement(any=frozenset({settings.accounts.admin_role}))
        self._rule = Route(name="console", shape=parse_pattern(path), methods=None, requirement=administrators)

    async def administrator(self, request: Request) -> tuple[Principal, Claims] | None:
        """Who is signed in here; None: nobody, or nobody who may. Raises StorageUnavailable."""
        token = _cookie(request)
        return None if token is None else await self._of(token)

    async def sign_in(self, request: Request, form: dict[str, str]) -> str:
        """The cookie of whoever gives the right password. Raises Refusal as a login does, and `forbidden` for who is no
        administrator."""
        login = accept(LoginForm, form, self._settings)
        working = self._accounts.login(login.username, login.password, origin_of(request))
        tokens = await unless_left(request, working)
        who = await self._of(tokens.access_token)
        if who is None:
            claims = self._tokens.verify(tokens.access_token.encode("ascii"))
            await self._accounts.logout(claims, origin_of(request))
            raise Refusal("forbidden", detail="This page is for administrators")
        return self._cookie(request, tokens.access_token, tokens.expires_in)

    async def sign_out(self, request: Request) -> str:
        """End the session; the cookie that takes the place of the one that was."""
        who = await self.administrator(request)
        if who is not None:
            await self._accounts.logout(who[1], origin_of(request))
        return self._cookie(request, "", 0)

    async def _of(self, token: str) -> tuple[Principal, Claims] | None:
        try:
            claims = self._tokens.verify(token.encode("ascii"))
        except (Refusal, UnicodeEncodeError):
            return None
        principal = await self._directory.principal(claims.subject)
        if principal is None or self._directory.check(principal, claims) is not None:
            return None
        return None if authorize(self._rule, (), principal) is not None else (principal, claims)

    def _cookie(self, request: Request, value: str, seconds: int) -> str:
        secure = request.url.scheme == "https" or (self._settings.server.public_url or "").startswith("https:")
        return (
            f"{_COOKIE}={value}; Path={self._path}; Max-Age={seconds}; HttpOnly; SameSite=Strict"
            f"{'; Secure' if secure else ''}"
        )


def refuse_other_sites(request: Request) -> None:
    """Raise Refusal for a form that another site's page sends: browsers say whose it is (Fetch Metadata, RFC 6454)."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        raise Refusal("origin_not_allowed", "a form of another site")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Refusal("origin_not_allowed", "a form of another origin")


def _cookie(request: Request) -> str | None:
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(_COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value
