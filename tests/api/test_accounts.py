"""The endpoints for the own account in the complete application, on both databases."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from gateway.storage import schema
from gateway.storage.database import Database
from gateway.storage.tables import audit, metadata, sessions
from tests.accounts.application import ANN, PASSWORD, application, bearer, fields, problem, register


def _json(body: dict[str, Any]) -> bytes:
    """As ASCII JSON, which can contain lone surrogates."""
    return json.dumps(body).encode()


# ---- register


async def test_registering_answers_with_tokens(client: httpx.AsyncClient) -> None:
    answer = await client.post("/auth/register", json=ANN)
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    tokens = answer.json()
    assert set(tokens) == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 900)


async def test_a_taken_address_is_reported(client: httpx.AsyncClient) -> None:
    await register(client)
    answer = await client.post("/auth/register", json=ANN | {"email": " ANN@Example.com "})
    assert problem(answer) == (400, "email_taken")
    assert answer.json()["detail"] == "Email already registered"


async def test_all_problems_of_all_fields_come_at_once(client: httpx.AsyncClient) -> None:
    answer = await client.post("/auth/register", json={"email": "ann", "password": "ñ" * 37, "roles": ["admin"]})
    assert fields(answer) == {
        "email": "must be a plain e-mail address, like name@example.com",
        "password": "must be at most 72 bytes long in UTF-8, this is 74 bytes",
        "roles": "is not a field of this request",
    }
    assert fields(await client.post("/auth/register", json={})) == {"email": "is required", "password": "is required"}
    wrong_types = await client.post("/auth/register", json={"email": 7, "password": None})
    assert fields(wrong_types) == {"email": "must be a string", "password": "must be a string"}


async def test_no_value_comes_back(client: httpx.AsyncClient) -> None:
    body = {"email": "se<cr>et", "password": "hidden", "x": "unseen"}
    answer = await client.post("/auth/register", json=body)
    assert len(fields(answer)) == 3
    assert not any(value in answer.text for value in body.values())


async def test_thousands_of_unknown_fields_make_no_long_answer(client: httpx.AsyncClient) -> None:
    answer = await client.post("/auth/register", json={"x" * 5000: 1} | {f"field{number}": 1 for number in range(3000)})
    assert len(fields(answer)) == 20 and len(answer.content) < 4000


async def test_registration_can_be_closed(tmp_path: Path) -> None:
    async with application(tmp_path, "sqlite://", registration="closed") as client:
        for body in (ANN, {}):
            assert problem(await client.post("/auth/register", json=body)) == (403, "registration_closed")


async def test_fifty_registrations_of_one_address_at_once_make_one_account(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(client.post("/auth/register", json=ANN) for _ in range(50)))
    assert sorted(answer.status_code for answer in answers) == [201] + [400] * 49
    assert {problem(answer) for answer in answers if answer.status_code == 400} == {(400, "email_taken")}


# ---- login


async def test_logging_in_with_json_and_with_a_form(client: httpx.AsyncClient) -> None:
    await register(client)
    oauth = {"grant_type": "password", "scope": "", "client_id": "x", "client_secret": "y"}
    answers = [
        await client.post("/auth/login", json=ANN | {"email": "ANN@example.com"}),
        await client.post("/auth/login", data={"username": "ann@example.com", "password": PASSWORD}),
        await client.post("/auth/login", data=oauth | {"username": "ann@example.com", "password": PASSWORD}),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert set(answer.json()) == {"access_token", "token_type", "expires_in", "refresh_token"}


@pytest.mark.parametrize("password", ["not this one", "", "x" * 73, "nul\0", "\ud800"])
@pytest.mark.parametrize("email", ["ann@example.com", "nobody@example.com"])
async def test_all_wrong_credentials_get_the_same_response(
    client: httpx.AsyncClient, email: str, password: str
) -> None:
    await register(client)
    body = _json({"email": email, "password": password})
    answer = await client.post("/auth/login", content=body, headers={"Content-Type": "application/json"})
    assert problem(answer) == (401, "invalid_credentials")
    assert answer.headers["www-authenticate"] == "Bearer"
    members = answer.json()
    assert (members.pop("request_id"), members) and members == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "Invalid email or password",
        "code": "invalid_credentials",
    }


async def test_a_form_names_its_own_fields(client: httpx.AsyncClient) -> None:
    answer = await client.post("/auth/login", data={"email": "ann@example.com", "remember": "1"})
    unknown = "is not a field of this request"
    assert fields(answer) == {
        "username": "is required",
        "password": "is required",
        "email": unknown,
        "remember": unknown,
    }
    assert set(fields(await client.post("/auth/login", json={"username": "a", "email": "b@c"}))) == {
        "username",
        "email",
        "password",
    }


async def test_the_kind_of_body_matters(client: httpx.AsyncClient) -> None:
    body = _json(ANN)
    for kind, status in (("text/plain", 415), ("multipart/form-data; boundary=x", 415), ("application/xml", 415)):
        answer = await client.post("/auth/login", content=body, headers={"Content-Type": kind})
        assert problem(answer) == (status, "unsupported_media_type")
    form = {"email": "ann@example.com", "password": PASSWORD}
    assert problem(await client.post("/auth/register", data=form))[0] == 415
    headers = {"Content-Type": "application/json"}
    assert problem(await client.post("/auth/login", content=b"{", headers=headers)) == (400, "bad_request")
    large = b'{"email": "' + b"x" * 70_000 + b'"}'
    assert problem(await client.post("/auth/login", content=large, headers=headers)) == (413, "body_too_large")


# ---- refresh


async def test_refreshing_rotates(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    answer = await client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert answer.status_code == 200
    assert set(answer.json()) == set(tokens)
    again = await client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert again.json()["refresh_token"] == answer.json()["refresh_token"] != tokens["refresh_token"]


@pytest.mark.parametrize("token", ["", "x", "gwr_" + "A" * 64, "\ud800"])
async def test_an_invalid_refresh_token_is_refused(client: httpx.AsyncClient, token: str) -> None:
    body, headers = _json({"refresh_token": token}), {"Content-Type": "application/json"}
    answer = await client.post("/auth/refresh", content=body, headers=headers)
    assert problem(answer) == (401, "refresh_invalid")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_an_access_token_is_no_refresh_token_and_the_other_way_round(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    answer = await client.post("/auth/refresh", json={"refresh_token": tokens["access_token"]})
    assert problem(answer) == (401, "refresh_invalid")
    answer = await client.get("/auth/me", headers={"Authorization": f"Bearer {tokens['refresh_token']}"})
    assert problem(answer) == (401, "token_invalid")


# ---- logout


async def test_logging_out_takes_effect_at_once(client: httpx.AsyncClient) -> None:
    here, there = await register(client), (await client.post("/auth/login", json=ANN)).json()
    answer = await client.post("/auth/logout", headers=bearer(here))
    assert (answer.status_code, answer.content) == (204, b"")
    assert problem(await client.get("/auth/me", headers=bearer(here))) == (401, "token_revoked")
    assert (await client.get("/auth/me", headers=bearer(there))).status_code == 200
    assert problem(await client.post("/auth/logout", headers=bearer(here))) == (401, "token_revoked")
    refresh = {"refresh_token": here["refresh_token"]}
    assert problem(await client.post("/auth/refresh", json=refresh)) == (401, "refresh_invalid")


async def test_logging_out_everywhere_takes_effect_at_once(client: httpx.AsyncClient) -> None:
    here, there = await register(client), (await client.post("/auth/login", json=ANN)).json()
    assert (await client.post("/auth/logout-all", headers=bearer(here))).status_code == 204
    for tokens in (here, there):
        assert problem(await client.get("/auth/me", headers=bearer(tokens))) == (401, "token_revoked")


async def test_one_must_be_signed_in(client: httpx.AsyncClient) -> None:
    for method, path in (
        ("POST", "/auth/logout"),
        ("POST", "/auth/logout-all"),
        ("GET", "/auth/me"),
        ("POST", "/auth/password"),
    ):
        assert problem(await client.request(method, path)) == (401, "token_missing")


# ---- me


async def test_me_is_the_callers_account(client: httpx.AsyncClient) -> None:
    tokens = await register(client, email="Ann@Example.com")
    answer = await client.get("/auth/me", headers=bearer(tokens))
    assert answer.status_code == 200
    me = answer.json()
    own = {"email_verified", "has_password", "second_factors"}
    assert set(me) == {"id", "email", "is_active", "roles", "created_at"} | own
    assert (me["email_verified"], me["has_password"], me["second_factors"]) == (False, True, [])
    assert (me["email"], me["is_active"], me["roles"]) == ("Ann@Example.com", True, ["user"])
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", me["id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", me["created_at"])
    age = datetime.now(UTC) - datetime.fromisoformat(me["created_at"])
    assert timedelta(seconds=-1) < age < timedelta(seconds=30)


# ---- password


async def test_changing_a_password_needs_the_current_one(client: httpx.AsyncClient) -> None:
    here, there = await register(client), (await client.post("/auth/login", json=ANN)).json()
    body = {"current_password": PASSWORD, "new_password": "a new password"}
    answer = await client.post("/auth/password", json=body, headers=bearer(here))
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await client.get("/auth/me", headers=bearer(here))).status_code == 200
    assert problem(await client.get("/auth/me", headers=bearer(there))) == (401, "token_revoked")
    assert problem(await client.post("/auth/login", json=ANN)) == (401, "invalid_credentials")
    assert (await client.post("/auth/login", json=ANN | {"password": "a new password"})).status_code == 200


async def test_a_wrong_current_password_is_no_wrong_token(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    body = {"current_password": "wrong", "new_password": "a new password"}
    answer = await client.post("/auth/password", json=body, headers=bearer(tokens))
    assert problem(answer) == (401, "invalid_credentials")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["detail"] == "The current password is not correct"


async def test_a_new_password_must_keep_the_rules(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    body = {"current_password": PASSWORD, "new_password": "short"}
    answer = await client.post("/auth/password", json=body, headers=bearer(tokens))
    assert fields(answer) == {"new_password": "must be at least 8 characters long"}


# ---- outages


async def test_a_database_that_fails_is_503_and_cached_users_are_served(tmp_path: Path) -> None:
    async with application(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}") as client:
        tokens = await register(client)
        assert (await client.get("/auth/me", headers=bearer(tokens))).status_code == 200
        database = Database.open(f"sqlite:///{tmp_path / 'gateway.db'}")
        await database.write(metadata.drop_all)
        await database.close()
        for path, body in (
            ("register", ANN | {"email": "b@example.com"}),
            ("login", ANN),
            ("refresh", {"refresh_token": tokens["refresh_token"]}),
        ):
            answer = await client.post(f"/auth/{path}", json=body)
            assert problem(answer) == (503, "storage_unavailable")
            assert "no such table" not in answer.text
        assert (await client.get("/auth/me", headers=bearer(tokens))).status_code == 200


async def test_where_a_request_came_from_is_written_down(client: httpx.AsyncClient, database: Database) -> None:
    headers = {"User-Agent": "browser/1\x7f" + "x" * 500, "X-Request-Id": "abc-123"}
    assert (await client.post("/auth/register", json=ANN, headers=headers)).status_code == 201
    row = await database.read(lambda c: c.execute(select(audit.c.address, audit.c.request_id)).one())
    assert tuple(row) == ("192.0.2.7", "abc-123")
    row = await database.read(lambda c: c.execute(select(sessions.c.address, sessions.c.user_agent)).one())
    assert row[0] == "192.0.2.7" and row[1].startswith("browser/1xxx") and len(row[1]) <= 256
    assert await schema.is_current(database)
