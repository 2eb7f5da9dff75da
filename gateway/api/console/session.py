"""Sign-in to the console. Browsers do not send bearer tokens, so a cookie carries the sign-in. It authenticates only to
the console.

- The cookie is sent to this path only, is hidden from scripts, and is not sent with requests that another site starts
  (RFC 6265bis: Path, HttpOnly, SameSite=Strict). Its token expires like an access token. It is void at once when the
  account is disabled, loses its role, or its session ends.
- Browsers also send the cookie to all paths below this path and to every port of the host, where upstreams can listen.
  So its token is no access token: it has a type and an audience that only the console accepts. The console accepts
  nothing else, neither access tokens nor API keys.
- A form sent by another site is refused. Otherwise that site could sign a visitor in to an account of its choice.
"""

import re
from collections.abc import Callable
from typing import Final

from starlette.requests import Request

from gateway.accounts.commands import LoginForm
from gateway.accounts.inputs import accept
from gateway.accounts.service import Accounts
from gateway.api.body import admission_of, cancel_on_disconnect, origin_of
from gateway.errors import Refusal
from gateway.identity.access_token import Tokens
from gateway.identity.directory import Directory
from gateway.identity.principal import Principal
from gateway.identity.user import Claims
from gateway.policy.decide import authorize
from gateway.policy.patterns import parse_pattern
from gateway.policy.route import Requirement, Route
from gateway.settings.model import Settings

_COOKIE: Final = "gateway_console"
_cookie_values: Final = re.compile(rf"(?:^|;)[ \t]*+{_COOKIE}[ \t]*+=([^;]*)").findall
_TYPE: Final = "console+jwt"


class SigningIn:
    """Recognises administrators. `path` is that of the console, `settings` returns those in force."""

    def __init__(
        self,
        path: str,
        accounts: Accounts,
        *,
        admin_role: str,
        tokens: Tokens,
        directory: Directory,
        settings: Callable[[], Settings],
    ) -> None:
        self._path = path
        self._accounts = accounts
        self._tokens = tokens
        self._directory = directory
        self._settings = settings
        administrators = Requirement(any=frozenset({admin_role}))
        self._rule = Route(name="console", shape=parse_pattern(path), methods=None, requirement=administrators)

    async def administrator(self, request: Request) -> tuple[Principal, Claims] | None:
        """Return the signed-in administrator, or None. Raises StorageUnavailable."""
        token = _cookie(request)
        try:
            claims = self._tokens.verify_scoped_token(_TYPE, (token or "").encode("ascii"), audience=self._path)
        except (Refusal, UnicodeEncodeError):
            return None
        return await self._of(claims)

    async def sign_in(self, request: Request, form: dict[str, str]) -> str:
        """Check the password and return the cookie. Raises Refusal as a login does, and `forbidden` for an account that
        is no administrator."""
        login = accept(LoginForm, form, self._settings())
        working = self._accounts.login(login.username, login.password, origin_of(request))
        tokens = await cancel_on_disconnect(request, working)
        claims = self._tokens.verify(tokens.access_token.encode("ascii"))
        if await self._of(claims) is None:
            await self._accounts.logout(claims, origin_of(request))
            raise Refusal("forbidden", detail="This page is for administrators")
        return self._cookie(
            request, self._tokens.issue_scoped_token(_TYPE, claims, audience=self._path), tokens.expires_in
        )

    async def sign_out(self, request: Request) -> str:
        """End the session, and return the cookie that replaces the old one."""
        who = await self.administrator(request)
        if who is not None:
            await self._accounts.logout(who[1], origin_of(request))
        return self._cookie(request, "", 0)

    async def _of(self, claims: Claims) -> tuple[Principal, Claims] | None:
        principal = await self._directory.principal(claims.subject)
        if principal is None or self._directory.check(principal, claims) is not None:
            return None
        return None if authorize(self._rule, (), principal) is not None else (principal, claims)

    def _cookie(self, request: Request, value: str, seconds: int) -> str:
        server = self._settings().server
        # `public_url` is the address of `port`. `operations_port` has no TLS, where browsers drop a `Secure` cookie.
        public = "" if server.operations_port is not None else server.public_url or ""
        secure = _is_https(request) or public.startswith("https:")
        return (
            f"{_COOKIE}={value}; Path={self._path}; Max-Age={seconds}; HttpOnly; SameSite=Strict"
            f"{'; Secure' if secure else ''}"
        )


def refuse_other_sites(request: Request) -> None:
    """Raise Refusal for a form that another site sends. Browsers state the origin (Fetch Metadata, RFC 6454)."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        raise Refusal("origin_not_allowed", "a form of another site")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise Refusal("origin_not_allowed", "a form of another origin")


def _is_https(request: Request) -> bool:
    """Return whether the browser uses TLS, to the gateway or to the first of the proxies in front.

    A browser states its own scheme in Origin, also behind a proxy that is not trusted.
    """
    if request.headers.get("origin", "").startswith("https:"):
        return True
    head = admission_of(request).request
    scheme = head.fields.forwarded_proto if head.peer.trusted else None
    return request.url.scheme == "https" or (scheme or b"").partition(b",")[0].strip().lower() == b"https"


def _cookie(request: Request) -> str | None:
    """Return the value of the cookie (RFC 6265 5.4); None if it is missing or repeated.

    Do not use http.cookies: up to Python 3.11.9 it takes seconds for a header field of backslashes (CVE-2024-7592).
    """
    values = [value for line in request.headers.getlist("cookie") for value in _cookie_values(line)]
    return values[0].strip(" \t") if len(values) == 1 else None
