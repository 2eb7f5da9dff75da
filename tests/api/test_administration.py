"""The administration API in the complete application, on both databases."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.accounts.administration import Administration
from gateway.accounts.store import AuditPlace
from gateway.api.cursors import audit_cursor, user_cursor
from gateway.storage.database import Database
from tests.accounts.application import PASSWORD, application, bearer, fields, problem
from tests.accounts.harness import make_harness, make_settings
from tests.support.databases import Clock

ROLES = {"root": ["admin"], "admin": ["user"], "editor": ["user"], "user": []}
UNKNOWN_ID = "5d0f8d6e-0000-4000-8000-000000000000"
EARLY = Clock().instant.replace(year=2020)


@dataclass
class AdminClient:
    """The application, and a client signed in as its administrator."""

    client: httpx.AsyncClient
    administration: Administration
    admin_id: str
    signed_in: dict[str, str]

    async def get(self, path: str, **query: Any) -> httpx.Response:
        return await self.client.get(f"/auth{path}", params=query, headers=self.signed_in)

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return await self.client.request(method, f"/auth{path}", json=body, headers=self.signed_in | headers)

    async def made(self, name: str, *roles: str) -> str:
        """Create an account and return its id."""
        record = await self.administration.create(f"{name}@example.com", PASSWORD, roles or None)
        return record.id

    async def login(self, name: str) -> dict[str, Any]:
        body = {"email": f"{name}@example.com", "password": PASSWORD}
        for _ in range(20):  # on a busy machine a response of the database can be late
            answer = await self.client.post("/auth/login", json=body)
            if answer.status_code != 503:
                break
        assert answer.status_code == 200, answer.text
        tokens: dict[str, Any] = answer.json()
        return tokens

    async def trail(self, **query: Any) -> list[tuple[str, str, str]]:
        """Action, actor and subject of the records of one page, newest first."""
        answer = await self.get("/audit", **query)
        assert answer.status_code == 200, answer.text
        return [(record["action"], record["actor"], record["subject"]) for record in answer.json()["records"]]


@pytest.fixture
async def admin(database: Database, prepared_url: str, clock: Clock, tmp_path: Path) -> AsyncIterator[AdminClient]:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(application(tmp_path, prepared_url, roles=ROLES))
        clock.now = 1_700_000_000.0  # in the past, so that changes by the application are newer than prepared ones
        harness = make_harness(database, clock, make_settings(roles=ROLES))
        stack.callback(harness.close)
        made = await harness.administration.create("root@example.com", PASSWORD, ["root"])
        admin = AdminClient(client, harness.administration, made.id, {})
        admin.signed_in = bearer(await admin.login("root"))
        yield admin


# ---- access


OPERATIONS = [
    ("GET", "/users"),
    ("POST", "/users"),
    ("GET", f"/users/{UNKNOWN_ID}"),
    ("PATCH", f"/users/{UNKNOWN_ID}"),
    ("DELETE", f"/users/{UNKNOWN_ID}"),
    ("POST", f"/users/{UNKNOWN_ID}/revoke"),
    ("GET", "/audit"),
]


async def test_only_administrators_are_served(admin: AdminClient) -> None:
    await admin.made("ann")
    plain = bearer(await admin.login("ann"))
    for method, path in OPERATIONS:
        assert problem(await admin.send(method, path, **plain)) == (403, "forbidden")
        assert problem(await admin.client.request(method, f"/auth{path}")) == (401, "token_missing")


async def test_there_is_no_way_to_write_the_trail(admin: AdminClient) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert problem(await admin.send(method, "/audit", {})) == (405, "method_not_allowed")
        assert problem(await admin.send(method, "/audit/1", {})) == (404, "no_route")


# ---- one account


async def test_an_account_is_made_shown_changed_and_deleted(admin: AdminClient) -> None:
    body = {"email": " Ann@Example.com ", "password": PASSWORD, "roles": ["editor"]}
    made = await admin.send("POST", "/users", body)
    assert made.status_code == 201, made.text
    ann = made.json()
    assert ann == {
        "id": ann["id"],
        "email": "Ann@Example.com",
        "is_active": True,
        "roles": ["editor"],
        "created_at": ann["created_at"],
    }
    assert made.headers["location"] == f"/auth/users/{ann['id']}"
    path = f"/users/{ann['id']}"
    assert (await admin.get(path)).json() == ann
    changed = await admin.send("PATCH", path, {"roles": ["user"], "is_active": False})
    assert changed.json() == ann | {"roles": ["user"], "is_active": False}
    assert (await admin.send("PATCH", path, {})).json() == changed.json()
    assert (await admin.send("DELETE", path)).status_code == 204
    assert problem(await admin.get(path)) == (404, "not_found")


async def test_without_roles_an_account_gets_the_default_ones(admin: AdminClient) -> None:
    made = await admin.send("POST", "/users", {"email": "ann@example.com", "password": PASSWORD})
    assert made.json()["roles"] == ["user"]
    assert problem(await admin.send("POST", "/users", {"email": "ANN@example.com", "password": PASSWORD})) == (
        400,
        "email_taken",
    )


BAD_CHANGES = [
    ({"email": "x@example.com"}, {"email": "is not a field of this request"}),
    ({"password": "another one"}, {"password": "is not a field of this request"}),
    ({"id": UNKNOWN_ID, "version": 7}, dict.fromkeys(("id", "version"), "is not a field of this request")),
    ({"is_active": "no"}, {"is_active": "must be true or false"}),
    ({"is_active": None}, {"is_active": "must be true or false"}),
    ({"is_active": 0}, {"is_active": "must be true or false"}),
    ({"roles": "admin"}, {"roles": "must be a list of role names"}),
    ({"roles": {"admin": True}}, {"roles": "must be a list of role names"}),
    ({"roles": None}, {"roles": "must be a list of role names"}),
    ({"roles": ["user"] * 101}, {"roles": "must be at most 100 role names"}),
    ({"roles": ["chief"]}, {"roles": "'chief' is not a declared role (known: admin, editor, root, user)"}),
    ({"roles": [7], "is_active": False}, {"roles": "must be a string"}),
]


async def test_a_change_that_cannot_be_is_refused_whole(admin: AdminClient) -> None:
    ann = await admin.made("ann", "editor")
    before = (await admin.get(f"/users/{ann}")).json()
    for body, expected in BAD_CHANGES:
        assert fields(await admin.send("PATCH", f"/users/{ann}", body)) == expected, body
    assert (await admin.get(f"/users/{ann}")).json() == before


async def test_an_unknown_user_is_not_found(admin: AdminClient) -> None:
    """Addresses are never accepted as ids, because paths appear in logs."""
    for who in (UNKNOWN_ID, "x", "root@example.com", "root%40example.com", "x" * 300, "%E2%82%AC"):
        for method, path, body in [
            ("GET", f"/users/{who}", None),
            ("PATCH", f"/users/{who}", {"is_active": False}),
            ("DELETE", f"/users/{who}", None),
            ("POST", f"/users/{who}/revoke", None),
        ]:
            assert problem(await admin.send(method, path, body)) == (404, "not_found"), (method, path)


async def test_a_change_takes_effect_at_once(admin: AdminClient) -> None:
    ann = await admin.made("ann")
    tokens = bearer(await admin.login("ann"))

    async def seen() -> int:
        return (await admin.client.get("/auth/users", headers=tokens)).status_code

    assert await seen() == 403
    for change, expected in [
        ({"roles": ["admin"]}, 200),
        ({"is_active": False}, 401),
        ({"is_active": True}, 200),
        ({"roles": []}, 403),
    ]:
        assert (await admin.send("PATCH", f"/users/{ann}", change)).status_code == 200
        assert await seen() == expected
    assert (await admin.send("POST", f"/users/{ann}/revoke")).status_code == 204
    assert await seen() == 401
    again = bearer(await admin.login("ann"))
    assert (await admin.send("DELETE", f"/users/{ann}")).status_code == 204
    assert (await admin.client.get("/auth/me", headers=again)).status_code == 401


# ---- lists


async def test_users_are_listed_page_by_page_during_changes(admin: AdminClient) -> None:
    names = [f"u{number:02d}" for number in range(10)]
    ids = {name: await admin.made(name) for name in names}
    first = (await admin.get("/users", limit=4, query="u")).json()
    assert [user["email"] for user in first["users"]] == [f"{name}@example.com" for name in names[:4]]
    await admin.made("u005")  # before the current position
    await admin.send("DELETE", f"/users/{ids['u03']}")  # the current position itself
    await admin.made("u045")  # after it: @ sorts after digits
    seen, cursor = [], first["next_cursor"]
    while cursor is not None:
        page = (await admin.get("/users", limit=3, query="u", cursor=cursor)).json()
        seen += [user["email"].partition("@")[0] for user in page["users"]]
        cursor = page["next_cursor"]
    assert seen == ["u045", "u04", *names[5:]]


async def test_users_are_searched_by_beginning_domain_role_and_activity(admin: AdminClient) -> None:
    ann = await admin.made("ann", "editor")
    await admin.administration.create("annika@elsewhere.org", PASSWORD)
    await admin.send("PATCH", f"/users/{ann}", {"is_active": False})

    async def found(**query: Any) -> list[str]:
        answer = await admin.get("/users", **query)
        assert answer.status_code == 200, answer.text
        return [user["email"] for user in answer.json()["users"]]

    emails = ["ann@example.com", "annika@elsewhere.org", "root@example.com"]
    assert await found() == emails
    assert await found(query="ANN") == emails[:2]
    assert await found(query="@elsewhere") == ["annika@elsewhere.org"]
    assert await found(query="@e") == ["annika@elsewhere.org", "ann@example.com", "root@example.com"]
    assert await found(query="example") == []
    assert await found(role="editor") == ["ann@example.com"]
    assert await found(active="false") == ["ann@example.com"]
    assert await found(active="true", query="a") == ["annika@elsewhere.org"]


BAD_QUERIES = [
    ("/users", {"limit": "0"}, "limit"),
    ("/users", {"limit": "201"}, "limit"),
    ("/users", {"limit": "٣"}, "limit"),
    ("/users", {"limit": ""}, "limit"),
    ("/users", {"limit": "-1"}, "limit"),
    ("/users", {"active": "yes"}, "active"),
    ("/users", {"active": "True"}, "active"),
    ("/users", {"query": "a\0"}, "query"),
    ("/users", {"query": "x" * 257}, "query"),
    ("/users", {"offset": "7"}, "offset"),
    ("/users", {"cursor": ""}, "cursor"),
    ("/users", {"cursor": "!"}, "cursor"),
    ("/users", {"cursor": "x" * 5000}, "cursor"),
    ("/users", {"cursor": user_cursor("a@b") + "="}, "cursor"),
    ("/users", {"cursor": user_cursor("a@b\0")}, "cursor"),
    ("/users", {"cursor": "dff_"}, "cursor"),
    ("/users", {"cursor": audit_cursor(AuditPlace(EARLY, 7))}, "cursor"),
    ("/audit", {"cursor": user_cursor("a@b")}, "cursor"),
    ("/audit", {"cursor": user_cursor("a@b")[:-1]}, "cursor"),
    ("/audit", {"limit": "x"}, "limit"),
    ("/audit", {"since": "yesterday"}, "since"),
    ("/audit", {"since": "2026-13-01T00:00:00Z"}, "since"),
    ("/audit", {"until": "2026-01-01"}, "until"),
    ("/audit", {"until": "0001-01-01T00:00:00+23:00"}, "until"),
    ("/audit", {"subject": "\x7f"}, "subject"),
    ("/audit", {"id": "1"}, "id"),
]


async def test_a_query_that_cannot_be_is_refused(admin: AdminClient) -> None:
    for path, query, field in BAD_QUERIES:
        assert list(fields(await admin.get(path, **query))) == [field], query
    for text in ("limit=1&limit=2", "limit", "query=%ff", "&", "=&="):
        answer = await admin.client.get(f"/auth/users?{text}", headers=admin.signed_in)
        assert problem(answer)[0] in (400, 422), text


# ---- the audit trail


async def test_the_trail_names_actor_action_time_and_address(admin: AdminClient) -> None:
    ann = await admin.made("ann")
    headers = {"X-Request-Id": "request-9"}
    await admin.send("PATCH", f"/users/{ann}", {"is_active": False, "roles": ["editor"]}, **headers)
    records = (await admin.get("/audit", subject=ann)).json()["records"]
    assert [record["action"] for record in records] == ["user.roles_set", "user.disabled", "user.created"]
    assert records[1] == {
        "id": records[1]["id"],
        "at": records[1]["at"],
        "action": "user.disabled",
        "actor": admin.admin_id,
        "subject": ann,
        "address": "192.0.2.7",
        "request_id": "request-9",
        "before": {"is_active": True},
        "after": {"is_active": False},
    }
    assert (records[0]["before"], records[0]["after"]) == ({"roles": ["user"]}, {"roles": ["editor"]})
    assert records[2]["actor"] == "command-line"


async def test_every_change_writes_one_record_and_a_request_without_effect_none(admin: AdminClient) -> None:
    made = await admin.send("POST", "/users", {"email": "ann@example.com", "password": PASSWORD})
    ann = made.json()["id"]
    steps: list[tuple[str, str, Any, str | None]] = [
        ("PATCH", "", {"is_active": True, "roles": ["user"]}, None),
        ("PATCH", "", {"is_active": False}, "user.disabled"),
        ("PATCH", "", {"is_active": True}, "user.enabled"),
        ("PATCH", "", {"roles": ["editor"]}, "user.roles_set"),
        ("POST", "/revoke", None, None),  # no session to end
        ("DELETE", "", None, "user.deleted"),
        ("DELETE", "", None, None),
    ]
    expected = [("user.created", admin.admin_id, ann)]
    for method, path, body, action in steps:
        await admin.send(method, f"/users/{ann}{path}", body)
        if action is not None:
            expected.insert(0, (action, admin.admin_id, ann))
        assert await admin.trail(subject=ann) == expected


async def test_ending_the_sessions_of_a_user_is_a_change(admin: AdminClient) -> None:
    ann = await admin.made("ann")
    await admin.login("ann")
    await admin.send("POST", f"/users/{ann}/revoke")
    assert (await admin.trail(subject=ann))[0] == ("sessions.ended", admin.admin_id, ann)


async def test_a_refused_change_leaves_no_record(admin: AdminClient) -> None:
    before = await admin.trail()
    for method, body in [("DELETE", None), ("PATCH", {"is_active": False}), ("PATCH", {"roles": ["user"]})]:
        answer = await admin.send(method, f"/users/{admin.admin_id}", body)
        assert problem(answer) == (409, "last_admin")
    assert await admin.trail() == before


async def test_the_trail_is_read_page_by_page_from_the_newest_on(admin: AdminClient) -> None:
    made = [await admin.made(f"user{number}") for number in range(7)]
    first = (await admin.get("/audit", limit=3, action="user.created")).json()
    await admin.made("newer")
    seen, cursor = [record["subject"] for record in first["records"]], first["next_cursor"]
    while cursor is not None:
        page = (await admin.get("/audit", limit=3, action="user.created", cursor=cursor)).json()
        seen += [record["subject"] for record in page["records"]]
        cursor = page["next_cursor"]
    assert seen == [*reversed(made), admin.admin_id]


async def test_the_trail_can_be_narrowed(admin: AdminClient) -> None:
    ann = await admin.made("ann")
    await admin.send("PATCH", f"/users/{ann}", {"roles": ["editor"]})
    created, changed = ("user.created", "command-line", ann), ("user.roles_set", admin.admin_id, ann)
    assert await admin.trail(subject=ann, actor=admin.admin_id) == [changed]
    assert await admin.trail(subject=ann, action="user.created") == [created]
    assert await admin.trail(actor="nobody") == []
    moment = "2023-11-14T22:13:20Z"  # the clock of the prepared records
    assert await admin.trail(subject=ann, since=moment) == [changed, created]
    assert await admin.trail(subject=ann, until=moment) == []
    assert await admin.trail(subject=ann, until="2024-01-01T00:00:00Z") == [created]
    assert await admin.trail(subject=ann, since="2020-01-01T00:00:00.5+02:00", until="2020-01-01t23:59:60z") == []


# ---- the last administrator

Attempt = Callable[[AdminClient, str], Awaitable[httpx.Response]]
TAKING_AWAY: dict[str, Attempt] = {
    "disabled": lambda admin, who: admin.send("PATCH", f"/users/{who}", {"is_active": False}),
    "demoted": lambda admin, who: admin.send("PATCH", f"/users/{who}", {"roles": ["user"]}),
    "deleted": lambda admin, who: admin.send("DELETE", f"/users/{who}"),
}


async def test_of_administrators_removed_at_the_same_time_one_remains(admin: AdminClient) -> None:
    """Each in a different way, by requests admitted before the first of them took effect."""
    admins = [admin.admin_id, *[await admin.made(f"admin{number}", "admin") for number in range(5)]]
    ways = [*TAKING_AWAY.values(), *TAKING_AWAY.values()]
    answers = await asyncio.gather(*(way(admin, who) for way, who in zip(ways, admins, strict=True)))
    refused = [problem(answer) for answer in answers if answer.status_code >= 400]
    assert set(refused) <= {(409, "last_admin"), (401, "user_inactive"), (403, "forbidden")}
    assert await admin.administration.has_admin()
