"""Own sessions in the complete application, on both databases: listed, and ended from another session."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.accounts.application import ANN, PASSWORD, bearer, problem, register


async def login(client: httpx.AsyncClient, **headers: str) -> dict[str, Any]:
    answer = await client.post("/auth/login", json=ANN, headers=headers)
    assert answer.status_code == 200
    tokens: dict[str, Any] = answer.json()
    return tokens


async def listed(client: httpx.AsyncClient, tokens: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await client.get("/auth/sessions", headers=bearer(tokens))
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert set(answer.json()) == {"sessions"}
    sessions: list[dict[str, Any]] = answer.json()["sessions"]
    return sessions


async def end(client: httpx.AsyncClient, tokens: dict[str, Any], session_id: str) -> httpx.Response:
    return await client.delete(f"/auth/sessions/{session_id}", headers=bearer(tokens))


async def test_where_one_is_signed_in_and_since_when(client: httpx.AsyncClient) -> None:
    first = await register(client)
    second = await login(client, **{"User-Agent": "phone/2"})
    here, there = await listed(client, second)
    assert (here["user_agent"], here["address"]) == ("phone/2", "192.0.2.7")
    assert [here["is_current"], there["is_current"]] == [True, False]
    assert [one["is_current"] for one in await listed(client, first)] == [False, True]
    times = {"created_at", "last_used_at", "expires_at"}
    assert set(here) == {"id", "kind", "address", "user_agent", "is_current"} | times
    assert here["kind"] == "token"
    for name in ("created_at", "last_used_at", "expires_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", here[name])
    left = datetime.fromisoformat(here["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=14) - timedelta(minutes=1) < left <= timedelta(days=14)


async def test_a_refresh_is_a_use_and_makes_no_other_session(client: httpx.AsyncClient) -> None:
    first = await register(client)
    second = await login(client)
    before = {one["id"]: one for one in await listed(client, second)}
    body = {"refresh_token": first["refresh_token"]}
    renewed = (await client.post("/auth/refresh", json=body, headers={"User-Agent": "later"})).json()
    after = await listed(client, renewed)
    assert {one["id"] for one in after} == set(before)
    used = after[0]
    assert used["is_current"] and used["user_agent"] == "later"
    assert used["last_used_at"] > before[used["id"]]["last_used_at"]
    assert used["created_at"] == before[used["id"]]["created_at"]


async def test_ending_a_session_takes_effect_at_once_and_on_no_other(client: httpx.AsyncClient) -> None:
    stolen, here = await register(client), await login(client)
    (id_,) = [one["id"] for one in await listed(client, here) if not one["is_current"]]
    answer = await end(client, here, id_)
    assert (answer.status_code, answer.content) == (204, b"")
    assert problem(await client.get("/auth/me", headers=bearer(stolen))) == (401, "token_revoked")
    refresh = {"refresh_token": stolen["refresh_token"]}
    assert problem(await client.post("/auth/refresh", json=refresh)) == (401, "refresh_invalid")
    assert [one["is_current"] for one in await listed(client, here)] == [True]
    assert problem(await end(client, here, id_)) == (404, "not_found")


async def test_ending_the_session_one_uses_is_logging_out(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    (session,) = await listed(client, tokens)
    assert (await end(client, tokens, session["id"])).status_code == 204
    assert problem(await client.get("/auth/me", headers=bearer(tokens))) == (401, "token_revoked")


async def test_a_user_neither_sees_nor_ends_the_sessions_of_another(client: httpx.AsyncClient) -> None:
    ann, bob = await register(client), await register(client, email="bob@example.com")
    (of_ann,) = await listed(client, ann)
    (of_bob,) = await listed(client, bob)
    assert of_ann["id"] != of_bob["id"]
    unknown = await end(client, bob, "A" * 22)
    of_another = await end(client, bob, of_ann["id"])
    assert problem(of_another) == problem(unknown) == (404, "not_found")
    assert of_another.json()["detail"] == unknown.json()["detail"], "the answer does not tell whether it exists"
    assert (await client.get("/auth/me", headers=bearer(ann))).status_code == 200


async def test_a_text_that_cannot_be_an_id_is_not_found(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    for id_ in ("A" * 65, "A" * 5000, "%27", "%C3%A9", "a.b", "a:b", "-"):
        assert problem(await end(client, tokens, id_)) == (404, "not_found"), id_


async def test_a_changed_password_leaves_one_session(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    for _ in range(3):
        await login(client)
    assert len(await listed(client, tokens)) == 4
    body = {"current_password": PASSWORD, "new_password": "a new password"}
    assert (await client.post("/auth/password", json=body, headers=bearer(tokens))).status_code == 204
    assert [one["is_current"] for one in await listed(client, tokens)] == [True]


@pytest.mark.parametrize(("method", "path"), [("GET", "/auth/sessions"), ("DELETE", "/auth/sessions/x")])
async def test_one_must_be_signed_in(client: httpx.AsyncClient, method: str, path: str) -> None:
    assert problem(await client.request(method, path)) == (401, "token_missing")


async def test_other_methods_are_not_served(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    for method, path, allowed in (("POST", "/auth/sessions", "GET, HEAD"), ("GET", "/auth/sessions/x", "DELETE")):
        answer = await client.request(method, path, headers=bearer(tokens))
        assert problem(answer) == (405, "method_not_allowed")
        assert answer.headers["allow"] == allowed
