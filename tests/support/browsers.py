"""A browser as a client sees it from the wire: it keeps one cookie, and says which page causes a request."""

import json
from typing import Any

from tests.support.processes import PASSWORD, Gateway
from tests.support.raw import Answer
from tests.support.wording import request

HOST = "gateway.test"
ORIGIN = f"https://{HOST}"  # `server.public_url` of the tests; a proxy that ends TLS would stand in front
COOKIE = "__Host-Http-session"
OWN_PAGE = "Sec-Fetch-Site: same-origin"
SETTINGS: dict[str, dict[str, Any]] = {"server": {"public_url": ORIGIN}, "sessions": {"remember": "30d"}}


class Browser:
    """One browser. `cookie` is the value of its session cookie, None without one."""

    def __init__(self, gateway: Gateway, cookie: str | None = None) -> None:
        self.gateway = gateway
        self.cookie = cookie

    @property
    def line(self) -> str:
        """The Cookie field."""
        assert self.cookie is not None, "not signed in"
        return f"Cookie: {COOKIE}={self.cookie}"

    def at(self, gateway: Gateway) -> "Browser":
        """The same cookie at another replica."""
        return Browser(gateway, self.cookie)

    def ask(self, method: str, path: str, *fields: str, body: dict[str, Any] | None = None) -> Answer:
        """Send a request with the cookie, and keep the cookie that the response sets."""
        lines = [*((self.line,) if self.cookie else ()), *fields]
        content = None
        if body is not None:
            lines.append("Content-Type: application/json")
            content = json.dumps(body).encode()
        answer = self.gateway.ask(request(path, method=method, fields=lines, body=content), method=method)
        for value in answer.values("set-cookie"):
            name, _, rest = value.decode().partition("=")
            if name == COOKIE:
                self.cookie = rest.partition(";")[0] or None
        return answer

    def get(self, path: str, *fields: str) -> Answer:
        return self.ask("GET", path, *fields)

    def post(self, path: str, body: dict[str, Any], *fields: str) -> Answer:
        """Send a form of an own page."""
        return self.ask("POST", path, OWN_PAGE, *fields, body=body)

    def sign_in(self, email: str, password: str = PASSWORD, **more: Any) -> Answer:
        answer = self.post("/auth/session", {"email": email, "password": password, **more})
        assert answer.status == 200, answer.body
        return answer

    def sign_out(self) -> Answer:
        return self.ask("DELETE", "/auth/session", OWN_PAGE)

    def session(self) -> dict[str, Any]:
        """The answer of GET /session."""
        answer = self.get("/auth/session")
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json()
        return found
