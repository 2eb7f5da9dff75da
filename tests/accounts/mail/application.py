"""The complete application with mail, sessions and pages, over a database and a real SMTP server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.app import create_app
from gateway.policy.loader import load_configuration
from tests.accounts.application import bearer
from tests.support.smtp import Received, SmtpServer

PUBLIC = "https://app.example.com"
PASSWORD = "correct horse battery"
NEW = "another long password"
KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
OWN_PAGE = {"Sec-Fetch-Site": "same-origin", "Origin": PUBLIC}


class Client:
    """One replica, called without a socket. Every request has `fields` beside its own."""

    def __init__(self, http: httpx.AsyncClient, server: SmtpServer) -> None:
        self.http = http
        self.server = server

    async def post(self, path: str, body: Any = None, *, token: str | None = None, **fields: str) -> httpx.Response:
        """POST a JSON body to an endpoint below `accounts.prefix`."""
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return await self.http.post(f"/auth{path}", json=body, headers=headers)

    async def mail(self, recipient: str, *, count: int = 1) -> Received:
        """The newest of at least `count` mails to an address."""
        return await self.server.mail_within(recipient, count=count)

    async def token(self, recipient: str, *, count: int = 1) -> str:
        """The token of the newest of at least `count` mails with a link to an address."""
        return (await self.server.mail_within(recipient, count=count, with_link=True)).token

    async def register(self, email: str = "ann@example.com", password: str = PASSWORD) -> str:
        """Register, and return the access token."""
        answer = await self.post("/register", {"email": email, "password": password})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["access_token"])

    async def login(self, email: str = "ann@example.com", password: str = PASSWORD) -> httpx.Response:
        return await self.post("/login", {"email": email, "password": password})

    async def reset_token(self, email: str = "ann@example.com", *, count: int = 1) -> str:
        """Ask for a link that resets the password, and return its token."""
        answer = await self.post("/password/forgot", {"email": email})
        assert answer.status_code == 202
        return await self.token(email, count=count)

    async def me(self, token: str) -> httpx.Response:
        return await self.http.get("/auth/me", headers=bearer({"access_token": token}))


@asynccontextmanager
async def mail_application(
    folder: Path,
    database_url: str,
    server: SmtpServer,
    monkeypatch: pytest.MonkeyPatch,
    *,
    every: float = 0.03,
    **sections: Any,
) -> AsyncIterator[Client]:
    """One replica, whose sender polls `every` so many seconds. `sections` extend those of the configuration."""
    monkeypatch.setattr("gateway.accounts.mail.sender.EVERY", every)
    content: dict[str, Any] = {
        "server": {"public_url": PUBLIC},
        "storage": {"database": database_url, "encryption_keys": [{"id": "e1", "key": KEY}]},
        "sessions": {},
        "accounts": {"password": {"bcrypt_rounds": 4}, "registration_limit": None, "pages": {"name": "Example"}},
        "mail": {
            "from": "Example <no-reply@example.com>",
            "smtp": server.address,
            "limits": {"per_recipient": 1000, "per_address": 100_000},
        },
        "tokens": {"keys": [{"kid": "k1", "algorithm": "HS256", "secret": "0123456789abcdef" * 2}]},
        "upstreams": {"web": "http://127.0.0.1:9"},
        "routes": [{"path": "/api/**", "upstream": "web"}],
        "observability": {"access_log": "off"},
    }
    for name, values in sections.items():
        content[name] = {**content.get(name, {}), **values} if isinstance(values, dict) else values
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(content))
    app = create_app(load_configuration(file, {}))
    transport = httpx.ASGITransport(app, client=("192.0.2.7", 4711))
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url=PUBLIC) as http:
        yield Client(http, server)
