"""API keys in the complete application, on both databases: created, shown once, used as bearer, and deleted."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from sqlalchemy import select, update

from gateway.identity.api_keys import MAX_KEYS, new_key
from gateway.identity.user import COMMAND_LINE
from gateway.storage.database import Database
from gateway.storage.tables import api_keys, audit, metadata, sessions
from gateway.storage.users import Users
from tests.accounts.application import ANN, PASSWORD, application, bearer, fields, problem, register

NEW = {"name": "ci"}
YEAR = timedelta(days=365)
MADE = {"id", "name", "roles", "created_at", "expires_at", "last_used_at", "key"}
Answer = dict[str, Any]


def with_key(made: Answer | str) -> dict[str, str]:
    return {"Authorization": f"Bearer {made if isinstance(made, str) else made['key']}"}


async def make(client: httpx.AsyncClient, tokens: Answer, **asked: Any) -> Answer:
    answer = await client.post("/auth/api-keys", json=NEW | asked, headers=bearer(tokens))
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    made: Answer = answer.json()
    return made


async def listed(client: httpx.AsyncClient, tokens: Answer) -> list[Answer]:
    answer = await client.get("/auth/api-keys", headers=bearer(tokens))
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"api_keys"}
    found: list[Answer] = answer.json()["api_keys"]
    return found


async def register_admin(client: httpx.AsyncClient, url: str) -> Answer:
    """Register an account and make it an administrator before its first request."""
    tokens = await register(client, email="admin@example.com")
    database = Database.open(url)
    users = Users(database)
    record = await users.by_email("admin@example.com")
    assert record is not None
    await users.change(record.id, roles=frozenset(("admin",)), by=COMMAND_LINE, admin_roles=())
    await database.close()
    return tokens


# ---- creating and listing


async def test_a_key_is_shown_once_and_has_the_rights_of_its_owner(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    made = await make(client, tokens)
    assert set(made) == MADE
    assert re.fullmatch(r"gwk_[0-9A-Za-z]{38}", made["key"])
    assert (made["name"], made["roles"], made["last_used_at"]) == ("ci", ["user"], None)
    assert lifetime(made) == YEAR
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made["created_at"])
    (shown,) = await listed(client, tokens)
    assert shown == {name: value for name, value in made.items() if name != "key"}
    me = await client.get("/auth/me", headers=with_key(made))
    assert me.status_code == 200
    assert me.json() == (await client.get("/auth/me", headers=bearer(tokens))).json()


async def test_a_key_expires_at_the_requested_time(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    made = await make(client, tokens, expires_in=3600)
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    brief = await make(client, tokens, expires_in=1)
    assert (await client.get("/auth/me", headers=with_key(brief))).status_code == 200
    await asyncio.sleep(1.1)
    assert problem(await client.get("/auth/me", headers=with_key(brief))) == (401, "token_expired")
    assert [key["id"] for key in await listed(client, tokens)] == [made["id"]]


async def test_the_last_use_of_a_key_is_recorded_a_moment_later(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    made = await make(client, tokens)
    assert (await client.get("/auth/me", headers=with_key(made))).status_code == 200
    for _ in range(60):
        (shown,) = await listed(client, tokens)
        if shown["last_used_at"] is not None:
            break
        await asyncio.sleep(0.1)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(shown["last_used_at"])) < timedelta(seconds=30)


WRONG_LIFETIMES: list[Any] = [0, -1, 31_536_001, 1.5, True, "3600", [], 1e300]


@pytest.mark.parametrize(
    ("asked", "problems"),
    [
        ({"name": None}, {"name": "must be a string"}),
        ({"name": ""}, {"name": "must be 1 to 100 printable characters"}),
        ({"name": " \t "}, {"name": "must be 1 to 100 printable characters"}),
        ({"name": "x" * 101}, {"name": "must be 1 to 100 printable characters"}),
        ({"name": "nul\0"}, {"name": "must be 1 to 100 printable characters"}),
        ({"name": 7}, {"name": "must be a string"}),
        ({"name": "x", "roles": "user"}, {"roles": "must be a list of role names"}),
        ({"name": "x", "roles": ["admin"]}, {"roles": "must be roles that you have yourself (user)"}),
        ({"name": "x", "roles": ["user", "admin"]}, {"roles": "must be roles that you have yourself (user)"}),
        ({"name": "x", "roles": None}, {"roles": "must be a list of role names"}),
        *(
            (
                {"name": "x", "expires_in": wrong},
                {"expires_in": "must be a whole number of seconds from 1 to 31536000"},
            )
            for wrong in WRONG_LIFETIMES
        ),
    ],
)
async def test_the_limits_of_a_key(tmp_path: Path, asked: Answer, problems: dict[str, str]) -> None:
    async with application(tmp_path, "sqlite://") as client:
        tokens = await register(client)
        answer = await client.post("/auth/api-keys", json=NEW | asked, headers=bearer(tokens))
        assert fields(answer) == problems
        assert await listed(client, tokens) == []


async def test_values_at_the_limits(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    cases: list[dict[str, Any]] = [
        {"name": " x "},
        {"name": "é" * 100, "roles": [], "expires_in": 31_536_000},
        {"name": "x", "roles": ["user"], "expires_in": None},
        {"name": "x", "expires_in": 60.0},
    ]
    for asked in cases:
        made = await make(client, tokens, **asked)
        assert made["name"] == asked["name"].strip()


async def test_there_is_an_end_to_the_keys_of_one_account(client: httpx.AsyncClient) -> None:
    tokens, other = await register(client), await register(client, email="bob@example.com")
    for _ in range(MAX_KEYS // 5):
        await asyncio.gather(*(make(client, tokens) for _ in range(5)))
    answer = await client.post("/auth/api-keys", json=NEW, headers=bearer(tokens))
    assert problem(answer) == (409, "too_many_api_keys")
    assert len(await listed(client, tokens)) == MAX_KEYS
    assert await make(client, other)


# ---- a token is not enough long after the sign-in


def lifetime(made: Answer) -> timedelta:
    """Rounded to seconds, because the two timestamps come from different clocks."""
    life = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    return timedelta(seconds=round(life.total_seconds()))


def aged(tokens: Answer, seconds: float | None) -> Answer:
    """The same tokens, as if the user had signed in so long ago; None: as if the token were of version 0.1."""
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    for name in ("acr", "amr", "auth_time"):
        del claims[name]
    if seconds is not None:
        claims["auth_time"] = claims["iat"] - seconds
    token = jwt.encode(claims, "0123456789abcdef" * 2, "HS256", {"kid": "k1", "typ": "at+jwt"})
    return tokens | {"access_token": token}


@pytest.mark.parametrize(
    ("seconds", "status"), [(0, 201), (500, 201), (700, 401), (10_000_000, 401), (None, 401)], ids=str
)
async def test_a_stolen_token_makes_no_key_long_after_the_sign_in(
    client: httpx.AsyncClient, seconds: float | None, status: int
) -> None:
    """A stolen token is valid for minutes; a key would be valid for a year (ASVS 7.5.1, 7.5.3)."""
    tokens = aged(await register(client), seconds)
    answer = await client.post("/auth/api-keys", json=NEW, headers=bearer(tokens))
    assert answer.status_code == status, answer.text
    assert (await client.get("/auth/me", headers=bearer(tokens))).status_code == 200, "the token is as good as before"
    if status == 401:
        assert problem(answer) == (401, "reauthentication_required")
        assert (answer.json()["max_age"], answer.json()["acr_values"]) == (600, "aal1")
        # RFC 9470 3
        assert answer.headers["www-authenticate"] == (
            'Bearer error="insufficient_user_authentication", error_description="Confirm that it is you", '
            'acr_values="aal1", max_age="600"'
        )
        assert await listed(client, tokens) == []


async def test_a_refreshed_token_keeps_the_time_of_the_sign_in(client: httpx.AsyncClient, database: Database) -> None:
    tokens = await register(client)
    earlier = datetime.now(UTC) - timedelta(seconds=700)
    await database.write(lambda c: c.execute(update(sessions).values(authenticated_at=earlier)) and None)
    again = (await client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})).json()
    claims = jwt.decode(again["access_token"], options={"verify_signature": False})
    assert (claims["auth_time"], claims["acr"], claims["amr"]) == (int(earlier.timestamp()), "aal1", ["pwd"])
    answer = await client.post("/auth/api-keys", json=NEW, headers=bearer(again))
    assert problem(answer) == (401, "reauthentication_required")
    fresh = (await client.post("/auth/login", json=ANN)).json()
    assert await make(client, fresh)


async def test_the_password_is_no_field_of_a_new_key_any_more(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    body = NEW | {"current_password": PASSWORD}
    answer = await client.post("/auth/api-keys", json=body, headers=bearer(tokens))
    assert list(fields(answer)) == ["current_password"]


# ---- lifetime


@pytest.mark.parametrize(
    ("longest", "asked", "expected"),
    [
        ("365d", {}, YEAR),
        ("365d", {"expires_in": None}, YEAR),
        ("365d", {"expires_in": 60}, timedelta(minutes=1)),
        ("30d", {}, timedelta(days=30)),
        ("30d", {"expires_in": 2_592_000}, timedelta(days=30)),
        ("3650d", {"expires_in": 315_360_000}, timedelta(days=3650)),
        (None, {"expires_in": 315_360_000}, timedelta(days=3650)),
        (None, {"expires_in": None}, None),
        (None, {}, None),
    ],
)
async def test_a_key_lives_as_long_as_the_administrator_lets_it(
    tmp_path: Path, longest: str | None, asked: Answer, expected: timedelta | None
) -> None:
    async with application(tmp_path, "sqlite://", api_keys={"max_ttl": longest}) as client:
        made = await make(client, await register(client), **asked)
        assert (None if made["expires_at"] is None else lifetime(made)) == expected


@pytest.mark.parametrize(("longest", "seconds"), [("30d", 2_592_000), ("1h", 3_600), (None, 315_360_000)])
async def test_a_longer_life_is_refused_with_the_longest_one(tmp_path: Path, longest: str | None, seconds: int) -> None:
    async with application(tmp_path, "sqlite://", api_keys={"max_ttl": longest}) as client:
        body = NEW | {"expires_in": seconds + 1}
        answer = await client.post("/auth/api-keys", json=body, headers=bearer(await register(client)))
        assert fields(answer) == {"expires_in": f"must be a whole number of seconds from 1 to {seconds}"}


# ---- permissions


async def test_a_key_may_no_more_than_it_was_given_and_no_more_than_its_owner(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    async with application(tmp_path, url) as client:
        tokens = await register_admin(client, url)
        narrow = await make(client, tokens, roles=["admin"])
        none = await make(client, tokens, roles=[])
        full = await make(client, tokens)
        assert [key["roles"] for key in (narrow, none, full)] == [["admin"], [], ["admin"]]
        for key, status in ((narrow, 200), (full, 200), (none, 403)):
            assert (await client.get("/auth/users", headers=with_key(key))).status_code == status


# ---- operations that a key cannot perform

ASKS_FOR_A_SESSION = [
    ("GET", "/auth/sessions", None),
    ("DELETE", "/auth/sessions/x", None),
    ("GET", "/auth/api-keys", None),
    ("POST", "/auth/api-keys", NEW),
    ("POST", "/auth/api-keys", {}),
    ("DELETE", "/auth/api-keys/x", None),
    ("POST", "/auth/logout", None),
    ("POST", "/auth/logout-all", None),
    ("POST", "/auth/password", {"current_password": PASSWORD, "new_password": "another good one"}),
]


async def test_a_key_changes_nothing_of_its_owner_s_account(client: httpx.AsyncClient) -> None:
    """A stolen key must not allow its holder to keep access, or to lock out the owner."""
    tokens = await register(client)
    made = await make(client, tokens)
    (session,) = (await client.get("/auth/sessions", headers=bearer(tokens))).json()["sessions"]
    own = [("DELETE", f"/auth/sessions/{session['id']}", None), ("DELETE", f"/auth/api-keys/{made['id']}", None)]
    for method, path, body in (*ASKS_FOR_A_SESSION, *own):
        answer = await client.request(method, path, json=body, headers=with_key(made))
        assert problem(answer) == (403, "forbidden"), (method, path)
    assert (await client.get("/auth/me", headers=bearer(tokens))).status_code == 200
    assert (await client.post("/auth/login", json=ANN)).status_code == 200
    assert len(await listed(client, tokens)) == 1


# ---- deletion


async def test_a_deleted_key_is_refused_at_once(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    gone, kept = [await make(client, tokens) for _ in range(2)]
    for key in (gone, kept):
        assert (await client.get("/auth/me", headers=with_key(key))).status_code == 200
    answer = await client.delete(f"/auth/api-keys/{gone['id']}", headers=bearer(tokens))
    assert (answer.status_code, answer.content) == (204, b"")
    for _ in range(2):
        assert problem(await client.get("/auth/me", headers=with_key(gone))) == (401, "token_revoked")
    assert (await client.get("/auth/me", headers=with_key(kept))).status_code == 200
    assert (await client.get("/auth/me", headers=bearer(tokens))).status_code == 200
    assert [key["id"] for key in await listed(client, tokens)] == [kept["id"]]
    again = await client.delete(f"/auth/api-keys/{gone['id']}", headers=bearer(tokens))
    assert problem(again) == (404, "not_found")


async def test_a_user_neither_sees_nor_deletes_the_keys_of_another(client: httpx.AsyncClient) -> None:
    ann, bob = await register(client), await register(client, email="bob@example.com")
    made = await make(client, ann)
    assert await listed(client, bob) == []
    for id_ in (made["id"], "A" * 22, "A" * 5000, "%27", "a.b"):
        answer = await client.delete(f"/auth/api-keys/{id_}", headers=bearer(bob))
        assert problem(answer) == (404, "not_found")
    (session,) = (await client.get("/auth/sessions", headers=bearer(ann))).json()["sessions"]
    for path in (f"/auth/api-keys/{session['id']}", f"/auth/sessions/{made['id']}"):
        answer = await client.delete(path, headers=bearer(ann))
        assert problem(answer) == (404, "not_found"), "a key is no session, nor the other way round"
    assert (await client.get("/auth/me", headers=with_key(made))).status_code == 200


async def test_machines_go_on_when_a_person_logs_out_or_changes_the_password(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    made = await make(client, tokens)
    body = {"current_password": PASSWORD, "new_password": "another good one"}
    assert (await client.post("/auth/password", json=body, headers=bearer(tokens))).status_code == 204
    assert (await client.post("/auth/logout-all", headers=bearer(tokens))).status_code == 204
    assert problem(await client.get("/auth/me", headers=bearer(tokens))) == (401, "token_revoked")
    assert (await client.get("/auth/me", headers=with_key(made))).status_code == 200


async def test_an_administrator_takes_everything_away(tmp_path: Path) -> None:
    """Revoking ends sessions and keys; disabling suspends both."""
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    async with application(tmp_path, url) as client:
        admin, ann = await register_admin(client, url), await register(client)
        made = await make(client, ann)
        me = (await client.get("/auth/me", headers=with_key(made))).json()
        place = f"/auth/users/{me['id']}"
        for active, expected in ((False, (401, "user_inactive")), (True, None)):
            change = await client.patch(place, json={"is_active": active}, headers=bearer(admin))
            assert change.status_code == 200
            answer = await client.get("/auth/me", headers=with_key(made))
            assert (answer.status_code == 200) if expected is None else (problem(answer) == expected)
        assert (await client.post(f"{place}/revoke", headers=bearer(admin))).status_code == 204
        assert problem(await client.get("/auth/me", headers=with_key(made))) == (401, "token_revoked")
        again = (await client.post("/auth/login", json=ANN)).json()
        assert await listed(client, again) == []
        made = await make(client, again)
        assert (await client.patch(place, json={"roles": []}, headers=bearer(admin))).status_code == 200
        assert (await client.get("/auth/me", headers=with_key(made))).json()["roles"] == []
        assert (await client.delete(place, headers=bearer(admin))).status_code == 204
        assert problem(await client.get("/auth/me", headers=with_key(made))) == (401, "user_inactive")


# ---- invalid keys


async def test_every_kind_of_credential_is_good_for_its_own_use_only(client: httpx.AsyncClient) -> None:
    tokens = await register(client)
    made = await make(client, tokens)
    key: str = made["key"]
    for token in (key, key.replace("gwk_", "gwr_")):
        answer = await client.post("/auth/refresh", json={"refresh_token": token})
        assert problem(answer) == (401, "refresh_invalid")
    assert problem(await client.post("/auth/login", json=ANN | {"password": key}))[0] == 401
    refresh: str = tokens["refresh_token"]
    wrong = {
        "a refresh token": refresh,
        "a refresh token with the prefix of keys": refresh.replace("gwr_", "gwk_"),
        "cut off": key[:-1],
        "longer": key + "A",
        "upper case": key.upper(),
        "lower case": key.lower(),
        "the scheme in it": f"Bearer {key}",
        "a guessed key": new_key(),
        "its id": made["id"],
        "with the id": f"gwk_{made['id']}",
        "as a part of a token": f"{key}.{key}.{key}",
    }
    for what, credential in wrong.items():
        answer = await client.get("/auth/me", headers=with_key(credential))
        assert problem(answer) == (401, "token_invalid"), what
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert credential not in answer.text
    assert (await client.get("/auth/me", headers=with_key(key))).status_code == 200


async def test_nothing_of_a_key_is_in_the_database_but_its_digest(
    client: httpx.AsyncClient, database: Database
) -> None:
    tokens = await register(client)
    key = (await make(client, tokens))["key"]
    await client.get("/auth/me", headers=with_key(key))
    found = await database.read(
        lambda connection: repr([connection.execute(select(table)).all() for table in (api_keys, audit)])
    )
    assert key[4:36] not in found and key not in found


async def test_a_database_that_is_out_keeps_out_the_keys_it_was_not_asked_about(tmp_path: Path) -> None:
    """A key used within `cache.user_ttl` continues to work, like its owner's token."""
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    async with application(tmp_path, url) as client:
        tokens = await register(client)
        used, unused = [await make(client, tokens) for _ in range(2)]
        assert (await client.get("/auth/me", headers=with_key(used))).status_code == 200
        database = Database.open(url)
        await database.write(metadata.drop_all)
        await database.close()
        assert problem(await client.get("/auth/me", headers=with_key(unused))) == (503, "storage_unavailable")
        assert problem(await client.post("/auth/api-keys", json=NEW, headers=bearer(tokens)))[0] == 503
        assert (await client.get("/auth/me", headers=with_key(used))).status_code == 200
