"""The complete application over a database, with helpers for requests and responses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from gateway.app import create_app
from gateway.policy.loader import load_configuration

PASSWORD = "correct horse battery"
ANN = {"email": "ann@example.com", "password": PASSWORD}


@asynccontextmanager
async def application(
    folder: Path, database_url: str, *, roles: dict[str, list[str]] | None = None, **accounts: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """The application over this database, and a client that calls it without a socket."""
    content = {
        "storage": {"database": database_url},
        "accounts": {"password": {"bcrypt_rounds": 4}, "registration_limit": None} | accounts,
        "tokens": {"keys": [{"kid": "k1", "algorithm": "HS256", "secret": "0123456789abcdef" * 2}]},
        "roles": roles,
        "upstreams": {"web": "http://127.0.0.1:9"},
        "routes": [{"path": "/api/**", "upstream": "web"}],
        "observability": {"access_log": "off"},
    }
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(content))
    app = create_app(load_configuration(file, {}))
    transport = httpx.ASGITransport(app, client=("192.0.2.7", 4711))
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://g") as client:
        yield client


def bearer(tokens: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['access_token']}"}


async def register(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await client.post("/auth/register", json=ANN | changes)
    assert answer.status_code == 201, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


def problem(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error response, whose format is checked."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert body["status"] == answer.status_code
    return answer.status_code, body["code"]


def fields(answer: httpx.Response) -> dict[str, str]:
    """The message of each field in a 422."""
    assert problem(answer) == (422, "invalid_fields"), answer.text
    return {error["field"]: error["message"] for error in answer.json()["errors"]}
