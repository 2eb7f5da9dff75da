"""Accounts that an attacker prepared before the owner of the mailbox came, and uses of invitations."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.accounts.links import INVITING, VERIFYING, Link, link_digest
from gateway.accounts.store import NewUser
from gateway.errors import Refusal, StorageUnavailable
from gateway.identity.user import COMMAND_LINE, Actor, UserRecord
from gateway.storage.database import COMMAND, Database
from gateway.storage.links import Links
from gateway.storage.outbox import Outbox
from gateway.storage.users import Users
from tests.accounts.application import problem
from tests.accounts.mail.application import NEW, OWN_PAGE, PASSWORD, Client, mail_application
from tests.accounts.mail.mailing import ADMIN_ROLES, Mailing, address, make_mailing
from tests.support.databases import Clock, new_user
from tests.support.smtp import SmtpServer

ANN, BOB, EVE = "ann@example.com", "bob@example.com", "eve@evil.example"


class Prepared:
    """The credentials and pending links of an attacker after the registration of an address of another person."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.bearers: dict[str, str] = {}
        self.cookies: dict[str, str] = {}
        self.refresh = self.change = self.verify = ""

    async def prepare(self) -> "Prepared":
        """Collect every kind of credential, and links that are pending."""
        client = self.client
        registered = (await client.post("/register", {"email": ANN, "password": PASSWORD})).json()
        access = registered["access_token"]
        self.refresh = registered["refresh_token"]
        for name in ("before", "now"):
            path = "/session" if name == "before" else "/session/confirm"
            cookie = {"Cookie": self.cookies["before"]} if name == "now" else {}
            body = {"password": PASSWORD} | ({"email": ANN} if name == "before" else {})
            answer = await client.post(path, body, **OWN_PAGE, **cookie)
            assert answer.status_code == 200, answer.text
            found = re.match(r"[^;]+", answer.headers["set-cookie"])
            assert found is not None
            self.cookies[name] = found[0]
            client.http.cookies.clear()
        key = await client.post("/api-keys", {"name": "back door"}, token=access)
        self.bearers = {"access": access, "key": key.json()["key"]}
        await client.post("/email", {"email": EVE}, token=access)
        self.change = await client.token(EVE)
        await client.post("/verify/resend", token=access)
        self.verify = await client.token(ANN)
        return self

    async def assert_useless(self) -> None:
        """Nothing of it opens the account any more."""
        client = self.client
        for name, value in self.bearers.items():
            assert (await client.me(value)).status_code == 401, name
        for name, value in self.cookies.items():
            answer = await client.http.get("/auth/me", headers={"Cookie": value})
            assert answer.status_code == 401, name
        assert (await client.post("/refresh", {"refresh_token": self.refresh})).status_code == 401
        assert problem(await client.login()) == (401, "invalid_credentials")
        assert problem(await client.post("/verify", {"token": self.change})) == (400, "link_invalid")
        answer = await client.post("/email", {"email": EVE}, token=self.bearers["access"])
        assert answer.status_code == 401
        body = {"current_password": PASSWORD, "new_password": "yet another password"}
        assert (await client.post("/password", body, token=self.bearers["access"])).status_code == 401
        used = await client.post("/verify", {"token": self.verify, "password": PASSWORD})
        assert problem(used) == (400, "link_invalid")


@pytest.mark.parametrize("way", ["reset", "verify"])
async def test_CVE_2026_53516_nothing_of_an_attacker_survives_the_proof_of_the_mailbox(
    client: Client, way: str
) -> None:
    """Classic-federated, unexpired session, trojan identifier and unexpired change of the address."""
    prepared = await Prepared(client).prepare()
    if way == "reset":
        body = {"token": await client.reset_token(count=2), "new_password": NEW}
        assert (await client.post("/password/reset", body)).status_code == 204
    else:
        body = {"token": prepared.verify, "new_password": NEW}
        assert (await client.post("/verify", body)).status_code == 204
    await prepared.assert_useless()
    tokens = (await client.login(password=NEW)).json()
    me = (await client.me(tokens["access_token"])).json()
    assert (me["email"], me["email_verified"]) == (ANN, True)
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert (await client.http.get("/auth/api-keys", headers=headers)).json()["api_keys"] == []
    assert len((await client.http.get("/auth/sessions", headers=headers)).json()["sessions"]) == 1


async def test_an_attacker_who_moves_an_account_to_the_address_of_a_victim_loses_it_by_a_reset(client: Client) -> None:
    """The victim confirms the change of the attacker, whose account then has the verified address of the victim."""
    access = await client.register(EVE)
    await client.post("/email", {"email": ANN}, token=access)
    assert (await client.post("/verify", {"token": await client.token(ANN)})).status_code == 204
    body = {"token": await client.reset_token(count=2), "new_password": NEW}
    assert (await client.post("/password/reset", body)).status_code == 204
    assert (await client.me(access)).status_code == 401
    assert problem(await client.login()) == (401, "invalid_credentials")
    assert (await client.login(password=NEW)).status_code == 200


# ---- invitations


@pytest.fixture
async def other(mailing: Mailing, prepared_url: str, clock: Clock) -> AsyncIterator[Mailing]:
    """A second replica, with its own connections."""
    database = Database.open(prepared_url, limits=COMMAND)
    yield make_mailing(database, clock)
    await database.close()


async def invited(mailing: Mailing, by: Actor = COMMAND_LINE) -> Link:
    made = await mailing.links.invite(address(BOB), frozenset({"editor"}), lifetime=600, deliver=False, by=by)
    assert made is not None
    digest = link_digest(made[1])
    assert digest is not None
    link = await mailing.links.find(digest, INVITING)
    assert link is not None
    return link


def accepting(replica: Mailing, link: Link, number: int) -> Any:
    user = NewUser(f"user-{number}", BOB, BOB, f"hash-{number}", frozenset({"editor"}), email_verified=True)
    return replica.links.register(link, user, by=Actor(user.id), admin_roles=ADMIN_ROLES, session=None)


async def test_an_invitation_many_times_at_once_makes_one_account(mailing: Mailing, other: Mailing) -> None:
    link = await invited(mailing)
    attempts = [accepting(replica, link, 2 * n + m) for n in range(50) for m, replica in enumerate((mailing, other))]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    made = [each for each in results if isinstance(each, UserRecord)]
    assert len(made) == 1
    assert {type(each) for each in results} <= {UserRecord, type(None), StorageUnavailable}
    assert (await mailing.users.by_email(BOB)) is not None
    assert await mailing.links.find(link.digest, INVITING) is None


async def test_an_invitation_and_a_registration_at_once_make_one_account(mailing: Mailing, other: Mailing) -> None:
    link = await invited(mailing)
    squatter = new_user(BOB)
    results = await asyncio.gather(
        accepting(mailing, link, 1), other.users.create(squatter, by=Actor(squatter.id)), return_exceptions=True
    )
    by_link, by_registration = results
    assert sum(isinstance(each, UserRecord) for each in results) == 1
    if isinstance(by_registration, UserRecord):
        assert isinstance(by_link, Refusal) and by_link.code == "account_exists"
        assert await mailing.links.find(link.digest, INVITING) is not None, "its owner can still use it"


async def test_an_invitation_adds_roles_once(mailing: Mailing, other: Mailing) -> None:
    link, user = await invited(mailing), await mailing.account(BOB)
    joining = [
        replica.links.join(link, user.id, frozenset({"editor"}), by=Actor(user.id), admin_roles=ADMIN_ROLES)
        for replica in (mailing, other) * 10
    ]
    results = await asyncio.gather(*joining, return_exceptions=True)
    assert sum(isinstance(each, UserRecord) for each in results) == 1
    record = await mailing.users.by_email(BOB)
    assert record is not None and record.roles == {"user", "editor"}


async def test_an_invitation_outlives_a_registration_by_link(mailing: Mailing, smtp_server: SmtpServer) -> None:
    """The account that the address got in the meantime can still take the roles."""
    invitation = await invited(mailing)
    await mailing.ask("asked-register", BOB)
    await mailing.drain()
    digest = link_digest(smtp_server.mail_to(BOB).token)
    assert digest is not None
    link = await mailing.links.find(digest, VERIFYING)
    assert link is not None
    assert await accepting(mailing, link, 1)
    roles = frozenset({"editor"})
    assert await mailing.links.join(invitation, "user-1", roles, by=Actor("user-1"), admin_roles=ADMIN_ROLES)


async def changed_author(mailing: Mailing, author: UserRecord, change: str, clock: Clock) -> None:
    match change:
        case "disabled":
            await mailing.users.change(author.id, is_active=False, by=COMMAND_LINE, admin_roles=ADMIN_ROLES)
        case "demoted":
            await mailing.users.change(author.id, roles=frozenset({"user"}), by=COMMAND_LINE, admin_roles=ADMIN_ROLES)
        case "deleted":
            await mailing.users.delete(author.id, by=COMMAND_LINE, admin_roles=ADMIN_ROLES)
        case "expired":
            clock.now += 600


@pytest.mark.parametrize("change", ["disabled", "demoted", "deleted", "expired"])
@pytest.mark.parametrize("has_account", [False, True])
async def test_AuthProxy_2_6_an_invitation_is_judged_when_it_is_used(
    mailing: Mailing, clock: Clock, change: str, has_account: bool
) -> None:
    """The change comes after the link was found: between the page and its button, or during the request."""
    author = await mailing.account("admin@example.com", "admin")
    await mailing.account("chief@example.com", "admin")
    link = await invited(mailing, Actor(author.id))
    user = await mailing.account(BOB) if has_account else None
    await changed_author(mailing, author, change, clock)
    if user is None:
        assert await accepting(mailing, link, 1) is None
        assert await mailing.users.by_email(BOB) is None
    else:
        roles = frozenset({"editor"})
        joined = await mailing.links.join(link, user.id, roles, by=Actor(user.id), admin_roles=ADMIN_ROLES)
        assert joined is None
        record = await mailing.users.by_email(BOB)
        assert record is not None and record.roles == {"user"}


async def invitation_of(client: Client, database: Database, *roles: str) -> str:
    """The token of an invitation by an administrator."""
    await client.register("admin@example.com")
    users = Users(database)
    record = await users.by_email("admin@example.com")
    assert record is not None
    await users.change(record.id, roles=frozenset({"admin"}), by=COMMAND_LINE, admin_roles=ADMIN_ROLES)
    admin = (await client.login("admin@example.com")).json()["access_token"]
    made = await client.post("/invitations", {"email": BOB, "roles": roles, "deliver": False}, token=admin)
    return httpx.URL(made.json()["link"]).params["token"]


async def test_a_role_that_is_not_declared_any_more_makes_an_invitation_invalid(
    database: Database, prepared_url: str, smtp_server: SmtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def roles(*names: str) -> Any:
        declared: dict[str, list[str]] = {name: [] for name in ("admin", "user", *names)}
        return mail_application(tmp_path, prepared_url, smtp_server, monkeypatch, roles=declared)

    async with roles("editor") as client:
        token = await invitation_of(client, database, "editor")
    async with roles() as client:
        answer = await client.post("/invitations/accept", {"token": token, "password": PASSWORD})
        assert problem(answer) == (400, "link_invalid")
    async with roles("editor") as client:
        answer = await client.post("/invitations/accept", {"token": token, "password": PASSWORD})
        assert answer.status_code == 201


async def test_an_invitation_by_a_subject_of_a_former_issuer_is_invalid(
    database: Database, prepared_url: str, smtp_server: SmtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The roles of its author are in tokens that the gateway does not accept any more."""
    keys = [{"kid": "k1", "algorithm": "HS256", "secret": "0123456789abcdef" * 2}]
    corp = {"name": "corp", "issuer": "https://id.example", "audience": "api", "jwks_url": "http://127.0.0.1:9/jwks"}
    links = Links(database, Outbox(database, None), keys_known_for=60)
    for external, expected in (([], 400), ([corp], 201)):
        made = await links.invite(address(BOB), frozenset({"editor"}), lifetime=600, deliver=False, by=Actor("corp|7"))
        assert made is not None
        tokens = {"keys": keys, "external": external}
        async with mail_application(tmp_path, prepared_url, smtp_server, monkeypatch, tokens=tokens) as client:
            answer = await client.post("/invitations/accept", {"token": made[1], "password": PASSWORD})
            assert answer.status_code == expected, answer.text
