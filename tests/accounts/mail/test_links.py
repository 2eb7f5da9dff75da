"""Links over HTTP: resets, verification, changes of address and invitations; the known holes of other products."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from gateway.identity.user import COMMAND_LINE, ClientInfo
from gateway.storage.database import Database
from gateway.storage.sign_in_places import place_of
from gateway.storage.tables import outbox
from gateway.storage.users import Users
from tests.accounts.application import problem
from tests.accounts.mail.application import NEW, OWN_PAGE, PASSWORD, Client, mail_application
from tests.support.smtp import SmtpServer

ANN, BOB = "ann@example.com", "bob@example.com"
SENT = (202, b'{"status":"mail_sent"}')


def shown(answer: httpx.Response) -> tuple[int, bytes]:
    return answer.status_code, answer.content


async def reset(client: Client, token: str, password: str = NEW) -> httpx.Response:
    return await client.post("/password/reset", {"token": token, "new_password": password})


@pytest.fixture
async def admin(client: Client, database: Database) -> str:
    """The access token of an administrator."""
    await client.register("admin@example.com")
    users = Users(database)
    record = await users.by_email("admin@example.com")
    assert record is not None
    await users.change(record.id, roles=frozenset({"admin"}), by=COMMAND_LINE, admin_roles=("admin",))
    answer = await client.login("admin@example.com")
    return str(answer.json()["access_token"])


# ---- resets


async def test_a_reset_ends_every_session_and_the_link_works_once(client: Client) -> None:
    access = await client.register()
    token = await client.reset_token()
    assert (await reset(client, token)).status_code == 204
    assert (await client.me(access)).status_code == 401
    assert problem(await client.login()) == (401, "invalid_credentials")
    assert (await client.login(password=NEW)).status_code == 200
    assert problem(await reset(client, token)) == (400, "link_invalid")
    notice = await client.mail(ANN, count=2)
    assert notice.message["Subject"] == "Your account at Example is yours alone"


async def test_a_weak_new_password_leaves_the_link_good(client: Client) -> None:
    await client.register()
    token = await client.reset_token()
    assert problem(await reset(client, token, "short")) == (422, "invalid_fields")
    assert problem(await reset(client, token, "password")) == (422, "invalid_fields")
    assert (await reset(client, token)).status_code == 204


@pytest.mark.parametrize("host", ["Host", "X-Forwarded-Host", "Forwarded"])
async def test_CVE_2026_124020_a_link_begins_with_the_public_url_for_any_host_of_the_request(
    client: Client, host: str
) -> None:
    """Also CVE-2026-86055, CVE-2026-26747, CVE-2025-70948, GHSA-fqh6-6h6c-366m and CVE-2026-58202."""
    await client.register()
    forged = {"Forwarded": "host=evil.example"}.get(host, "evil.example")
    answer = await client.http.post("/auth/password/forgot", json={"email": ANN}, headers={host: forged})
    assert answer.status_code in (202, 421)
    if answer.status_code == 202:
        mail = await client.mail(ANN)
        assert mail.link.startswith("https://app.example.com/account/reset?token=")
        assert "evil" not in mail.message.as_string()


async def test_CVE_2026_124020_a_scanner_that_opens_a_link_uses_nothing(client: Client) -> None:
    await client.register()
    await client.reset_token()
    link = httpx.URL((await client.mail(ANN)).link)
    for _ in range(10):
        await client.http.get(link)
        await client.http.head(link)
    assert (await reset(client, link.params["token"])).status_code == 204


async def test_CVE_2026_26273_no_response_contains_a_token(client: Client) -> None:
    access = await client.register()
    answers = [
        await client.post("/password/forgot", {"email": ANN}),
        await client.post("/verify/resend", token=access),
        await client.post("/email", {"email": "new@example.com"}, token=access),
    ]
    for answer in answers:
        assert shown(answer) == SENT
        assert "gwl_" not in repr(dict(answer.headers)) and "set-cookie" not in answer.headers
    token = await client.token(ANN)
    used = await reset(client, token)
    assert token not in used.text and token not in repr(dict(used.headers))


async def test_CVE_2026_130717_older_links_are_void_after_a_change_of_the_password(client: Client) -> None:
    """Also parse-server 5104: of two links, the newer voids the older, and a change voids both."""
    access = await client.register()
    first = await client.reset_token()
    second = await client.reset_token(count=2)
    assert problem(await reset(client, first)) == (400, "link_invalid")
    changed = await client.post("/password", {"current_password": PASSWORD, "new_password": NEW}, token=access)
    assert changed.status_code == 204
    assert problem(await reset(client, second)) == (400, "link_invalid")


async def test_CVE_2026_130717_every_link_is_void_after_a_change_of_the_address(client: Client) -> None:
    access = await client.register()
    token = await client.reset_token()
    await client.post("/email", {"email": "new@example.com"}, token=access)
    change = (await client.mail("new@example.com")).token
    assert (await client.post("/verify", {"token": change})).status_code == 204
    assert problem(await reset(client, token)) == (400, "link_invalid")
    assert (await client.login("new@example.com")).status_code == 200
    assert problem(await client.login()) == (401, "invalid_credentials")
    for address in (ANN, "new@example.com"):
        subjects = [one.message["Subject"] for one in client.server.received if one.recipient == address]
        await client.mail(address, count=2)
        assert subjects


async def test_a_disabled_account_has_no_valid_link_and_gets_none(
    client: Client, database: Database, admin: str
) -> None:
    await client.register()
    token = await client.reset_token()
    users = Users(database)
    record = await users.by_email(ANN)
    assert record is not None
    for is_active in (False, True):
        await users.change(record.id, is_active=is_active, by=COMMAND_LINE, admin_roles=("admin",))
        assert problem(await reset(client, token)) == (400, "link_invalid")
    await users.change(record.id, is_active=False, by=COMMAND_LINE, admin_roles=("admin",))
    assert shown(await client.post("/password/forgot", {"email": ANN})) == SENT
    await client.reset_token("admin@example.com")  # the sender has passed the request of the disabled account
    assert len([one for one in client.server.received if one.recipient == ANN]) == 1


async def test_CVE_2026_21622_an_expired_link_is_invalid(
    database: Database, prepared_url: str, smtp_server: SmtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = {"password": {"bcrypt_rounds": 4, "reset_ttl": "1s"}, "registration_limit": None, "pages": {}}
    async with mail_application(tmp_path, prepared_url, smtp_server, monkeypatch, accounts=accounts) as client:
        await client.register()
        token = await client.reset_token()
        await asyncio.sleep(1.05)
        assert problem(await reset(client, token)) == (400, "link_invalid")


async def test_CVE_2026_115933_no_kind_of_credential_stands_for_another(client: Client, admin: str) -> None:
    """Every token, cookie, key and link at every place for another kind."""
    registered = await client.post("/register", {"email": ANN, "password": PASSWORD})
    access, refresh = registered.json()["access_token"], registered.json()["refresh_token"]
    session = await client.post("/session", {"email": ANN, "password": PASSWORD}, **OWN_PAGE)
    cookie = re.search(r"=(gws_\w+)", session.headers["set-cookie"])
    assert cookie is not None
    key = await client.post("/api-keys", {"name": "ci"}, token=access)
    await client.post("/verify/resend", token=access)
    verify = await client.token(ANN)
    await client.post("/email", {"email": "new@example.com"}, token=access)
    email = await client.token("new@example.com")
    made = await client.post("/invitations", {"email": BOB, "roles": ["user"], "deliver": False}, token=admin)
    invitation = httpx.URL(made.json()["link"]).params["token"]
    reset_link = await client.reset_token(count=2)
    presented = {
        "access": access,
        "refresh": refresh,
        "cookie": cookie[1],
        "key": key.json()["key"],
        "verify": verify,
        "email": email,
        "invitation": invitation,
        "reset": reset_link,
    }

    async def refused(place: str, value: str) -> bool:
        match place:
            case "bearer":
                answer = await client.me(value)
            case "cookie":
                cookies = {"Cookie": f"__Host-Http-session={value}"}
                answer = await client.http.get("/auth/me", headers=cookies)
            case "refresh":
                answer = await client.post("/refresh", {"refresh_token": value})
            case "verify":
                answer = await client.post("/verify", {"token": value, "password": PASSWORD})
            case "reset":
                answer = await reset(client, value)
            case _:
                answer = await client.post("/invitations/accept", {"token": value, "password": PASSWORD})
        return answer.status_code in (400, 401)

    fits = {
        ("bearer", "access"),
        ("bearer", "key"),
        ("cookie", "cookie"),
        ("refresh", "refresh"),
        ("verify", "verify"),
        ("verify", "email"),
        ("reset", "reset"),
        ("invitation", "invitation"),
    }
    for place in ("bearer", "cookie", "refresh", "verify", "reset", "invitation"):
        for name, value in presented.items():
            if (place, name) not in fits:
                assert await refused(place, value), f"{name} at {place}"


async def test_GHSA_99hm_86h7_gr3g_cookie_and_token_of_another_browser_end_with_the_password(client: Client) -> None:
    """Also CVE-2026-81826."""
    access = await client.register()
    other = (await client.login()).json()["access_token"]
    session = await client.post("/session", {"email": ANN, "password": PASSWORD}, **OWN_PAGE)
    cookie = session.headers["set-cookie"].partition(";")[0]
    client.http.cookies.clear()
    assert (await client.http.get("/auth/me", headers={"Cookie": cookie})).status_code == 200
    changed = await client.post("/password", {"current_password": PASSWORD, "new_password": NEW}, token=access)
    assert changed.status_code == 204
    assert (await client.me(other)).status_code == 401
    assert (await client.http.get("/auth/me", headers={"Cookie": cookie})).status_code == 401
    assert (await client.me(access)).status_code == 200
    assert (await reset(client, await client.reset_token(), PASSWORD)).status_code == 204
    assert (await client.me(access)).status_code == 401


@pytest.mark.parametrize(
    "address", ["ann\r\n@example.com", "a\0nn@example.com", '"ann b"@example.com', "ann@exa\nmple.com"]
)
async def test_GHSA_g7hc_96xr_gvvx_no_address_speaks_smtp(client: Client, address: str) -> None:
    """Also GHSA-v3q9-hj7j-63hq and CVE-2015-8476."""
    access = await client.register()
    for path in ("/password/forgot", "/email"):
        answer = await client.post(path, {"email": address}, token=access)
        assert problem(answer) == (422, "invalid_fields")
    assert client.server.received == []


# ---- verification


async def test_registration_with_required_verification_creates_the_account_by_the_link(
    database: Database, prepared_url: str, smtp_server: SmtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with required(prepared_url, smtp_server, tmp_path, monkeypatch) as client:
        answer = await client.post("/register", {"email": ANN, "password": PASSWORD})
        assert answer.json()["errors"] == [{"field": "password", "message": "is chosen once the address is verified"}]
        assert shown(await client.post("/register", {"email": ANN})) == SENT
        token = (await client.mail(ANN)).token
        assert problem(await client.post("/verify", {"token": token})) == (422, "invalid_fields")
        assert problem(await client.post("/verify", {"token": token, "password": "short"})) == (422, "invalid_fields")
        created = await client.post("/verify", {"token": token, "password": PASSWORD})
        assert created.status_code == 201
        assert (await client.me(created.json()["access_token"])).json()["email_verified"] is True
        assert problem(await client.post("/verify", {"token": token, "password": PASSWORD})) == (400, "link_invalid")
        assert shown(await client.post("/register", {"email": ANN})) == SENT
        again = await client.mail(ANN, count=2)
        assert again.message["Subject"] == "Your account at Example"
        assert (await reset(client, again.token)).status_code == 204


async def test_a_first_registration_can_begin_a_browser_session_from_an_own_page_only(
    database: Database, prepared_url: str, smtp_server: SmtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with required(prepared_url, smtp_server, tmp_path, monkeypatch) as client:
        await client.post("/register", {"email": ANN})
        body = {"token": (await client.mail(ANN)).token, "password": PASSWORD, "session": "cookie"}
        assert problem(await client.post("/verify", body)) == (403, "cross_site")
        answer = await client.post("/verify", body, **OWN_PAGE)
        assert answer.status_code == 201 and answer.json()["signed_in"] is True
        assert "__Host-Http-session=gws_" in answer.headers["set-cookie"]
        assert "access_token" not in answer.json()


async def test_an_unverified_account_cannot_sign_in_where_verification_is_required(
    database: Database, prepared_url: str, smtp_server: SmtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mail_application(tmp_path, prepared_url, smtp_server, monkeypatch) as client:
        await client.register()
    async with required(prepared_url, smtp_server, tmp_path, monkeypatch) as client:
        assert problem(await client.login(password="wrong password")) == (401, "invalid_credentials")
        assert problem(await client.login()) == (403, "email_unverified")
        session = await client.post("/session", {"email": ANN, "password": PASSWORD}, **OWN_PAGE)
        assert problem(session) == (403, "email_unverified")
        body = {"token": await client.token(ANN, count=2), "password": PASSWORD}
        assert (await client.post("/verify", body)).status_code == 204
        assert (await client.login()).status_code == 200


def required(url: str, server: SmtpServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    accounts = {
        "email": {"verification": "required"},
        "password": {"bcrypt_rounds": 4},
        "registration_limit": None,
        "pages": {"name": "Example"},
    }
    return mail_application(folder, url, server, monkeypatch, accounts=accounts)


async def test_a_link_verifies_the_address_with_a_session_or_with_the_password(client: Client) -> None:
    access = await client.register()
    other = await client.register(BOB)
    assert shown(await client.post("/verify/resend", token=access)) == SENT
    token = (await client.mail(ANN)).token
    assert problem(await client.post("/verify", {"token": token})) == (422, "invalid_fields")
    assert problem(await client.post("/verify", {"token": token}, token=other)) == (422, "invalid_fields")
    wrong = await client.post("/verify", {"token": token, "password": "wrong password"})
    assert problem(wrong) == (401, "invalid_credentials")
    assert (await client.me(access)).json()["email_verified"] is False
    assert (await client.post("/verify", {"token": token}, token=access)).status_code == 204
    assert (await client.me(access)).json()["email_verified"] is True
    await client.post("/verify/resend", token=other)
    token = (await client.mail(BOB)).token
    assert (await client.post("/verify", {"token": token, "password": PASSWORD})).status_code == 204


async def test_CVE_2026_53516_the_owner_of_the_mailbox_takes_a_registered_account_over(client: Client) -> None:
    """Pre-hijacking: an attacker registered the address, and added a session and an API key."""
    access = await client.register()
    key = (await client.post("/api-keys", {"name": "back door"}, token=access)).json()
    await client.post("/verify/resend", token=access)
    body = {"token": await client.token(ANN), "new_password": NEW}
    assert (await client.post("/verify", body)).status_code == 204
    assert problem(await client.login()) == (401, "invalid_credentials")
    assert (await client.me(access)).status_code == 401
    assert (await client.me(key["key"])).status_code == 401
    assert (await client.login(password=NEW)).json()["access_token"]
    notice = await client.mail(ANN, count=3)
    assert notice.message["Subject"] == "Your account at Example is yours alone"


async def test_CVE_2026_103526_responses_do_not_distinguish_known_from_unknown_addresses(client: Client) -> None:
    access = await client.register()
    await client.register(BOB)
    for path in ("/password/forgot", "/email"):
        known = await client.post(path, {"email": BOB}, token=access)
        unknown = await client.post(path, {"email": "nobody@example.com"}, token=access)
        assert shown(known) == shown(unknown) == SENT
        headers = [{k: v for k, v in a.headers.items() if k not in ("date", "x-request-id")} for a in (known, unknown)]
        assert headers[0] == headers[1]
    notice = await client.mail(BOB, count=2)
    subjects = {one.message["Subject"] for one in client.server.received if one.recipient == BOB}
    assert "Your e-mail address at Example" in subjects, notice


async def test_mail_limits_change_no_response(
    database: Database, prepared_url: str, smtp_server: SmtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = {"limits": {"per_recipient": 2, "per_address": 4, "per": "1h"}}
    async with mail_application(tmp_path, prepared_url, smtp_server, monkeypatch, mail=mail) as client:
        await client.register()
        await client.register(BOB)
        for _ in range(4):
            assert shown(await client.post("/password/forgot", {"email": ANN})) == SENT
        await client.mail(ANN, count=2)
        assert shown(await client.post("/password/forgot", {"email": BOB})) == SENT
        await asyncio.sleep(0.3)
        recipients = [one.recipient for one in smtp_server.received]
        assert recipients.count(ANN) == 2 and recipients.count(BOB) <= 1


async def test_registrations_beyond_the_mail_limits_make_accounts_without_a_mail(
    database: Database, prepared_url: str, smtp_server: SmtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registration is open to strangers: without a limit they could mail any number of addresses."""
    accounts = {
        "email": {"verification": "optional"},
        "password": {"bcrypt_rounds": 4},
        "registration_limit": None,
        "pages": {},
    }
    mail = {"limits": {"per_recipient": 5, "per_address": 2, "per": "1h"}}
    async with mail_application(
        tmp_path, prepared_url, smtp_server, monkeypatch, accounts=accounts, mail=mail
    ) as client:
        for number in range(4):
            await client.register(f"new{number}@example.com")
        await client.mail("new1@example.com")
        query = select(outbox.c.recipient)
        written = await database.read(lambda connection: connection.execute(query).scalars().all())
        assert sorted(written) == ["new0@example.com", "new1@example.com"]


# ---- invitations


async def test_an_invitation_creates_a_verified_account_with_its_roles(client: Client, admin: str) -> None:
    made = await client.post("/invitations", {"email": BOB, "roles": ["editor"], "deliver": True}, token=admin)
    assert made.status_code == 201 and "link" not in made.json()
    mail = await client.mail(BOB)
    assert mail.link.startswith("https://app.example.com/account/invitation?token=")
    expires_at = datetime.fromisoformat(made.json()["expires_at"])
    assert expires_at - datetime.now(UTC) > timedelta(days=6), "an invitation lives longer than its mail waits"
    for part in (mail.text, mail.html):
        assert f"The link works once, until {expires_at.day} {expires_at:%B %Y}, {expires_at:%H:%M} UTC." in part
    listed = (await client.http.get("/auth/invitations", headers={"Authorization": f"Bearer {admin}"})).json()
    assert [one["email"] for one in listed["invitations"]] == [BOB] and "gwl_" not in str(listed)
    answer = await client.post("/invitations/accept", {"token": mail.token, "password": PASSWORD})
    assert answer.status_code == 201
    me = (await client.me(answer.json()["access_token"])).json()
    assert (me["email"], me["roles"], me["email_verified"]) == (BOB, ["editor"], True)
    again = await client.post("/invitations/accept", {"token": mail.token, "password": PASSWORD})
    assert problem(again) == (400, "link_invalid")


async def test_a_newer_or_withdrawn_invitation_voids_the_link(client: Client, admin: str) -> None:
    body = {"email": BOB, "roles": ["user"], "deliver": False}
    first, second = [(await client.post("/invitations", body, token=admin)).json() for _ in range(2)]
    for made in (first, second):
        made["token"] = httpx.URL(made["link"]).params["token"]
    accepted = await client.post("/invitations/accept", {"token": first["token"], "password": PASSWORD})
    assert problem(accepted) == (400, "link_invalid")
    headers = {"Authorization": f"Bearer {admin}"}
    assert (await client.http.delete(f"/auth/invitations/{second['id']}", headers=headers)).status_code == 204
    assert (await client.http.delete(f"/auth/invitations/{second['id']}", headers=headers)).status_code == 404
    accepted = await client.post("/invitations/accept", {"token": second["token"], "password": PASSWORD})
    assert problem(accepted) == (400, "link_invalid")


async def test_CVE_2026_53514_an_account_of_the_address_needs_the_link_too(client: Client, admin: str) -> None:
    """Also CVE-2026-137584 and CVE-2026-105639: an unverified account of the address gains nothing by itself."""
    body = {"email": BOB, "roles": ["editor"], "deliver": True}
    assert (await client.post("/invitations", body, token=admin)).status_code == 201
    token = (await client.mail(BOB)).token
    squatter = await client.register(BOB)
    for guess in ("", "gwl_" + "0" * 38, squatter):
        answer = await client.post("/invitations/accept", {"token": guess}, token=squatter)
        assert problem(answer) == (400, "link_invalid")
    assert "gwl_" not in (await client.me(squatter)).text
    assert problem(await client.post("/invitations/accept", {"token": token, "password": NEW})) == (
        409,
        "account_exists",
    )
    assert (await client.post("/invitations/accept", {"token": token}, token=squatter)).status_code == 204
    assert (await client.me(squatter)).status_code == 401, "the account was unverified: its sessions end"
    assert problem(await client.login(BOB)) == (401, "invalid_credentials")


@pytest.mark.parametrize("role", [" owner", "owner ", "ow\0ner", "", "ow\nner", " "])
async def test_CVE_2026_134318_a_role_is_stored_as_it_is_checked(client: Client, admin: str, role: str) -> None:
    body = {"email": BOB, "roles": [role], "deliver": False}
    assert problem(await client.post("/invitations", body, token=admin)) == (422, "invalid_fields")


async def test_AuthProxy_2_6_an_invitation_of_a_former_administrator_is_invalid(
    client: Client, admin: str, database: Database
) -> None:
    made = await client.post("/invitations", {"email": BOB, "roles": ["user"], "deliver": False}, token=admin)
    token = httpx.URL(made.json()["link"]).params["token"]
    await client.register("chief@example.com")
    users = Users(database)
    for email, roles in (("chief@example.com", {"admin"}), ("admin@example.com", {"user"})):
        record = await users.by_email(email)
        assert record is not None
        await users.change(record.id, roles=frozenset(roles), by=COMMAND_LINE, admin_roles=("admin",))
    answer = await client.post("/invitations/accept", {"token": token, "password": PASSWORD})
    assert problem(answer) == (400, "link_invalid")


async def test_only_administrators_invite(client: Client) -> None:
    access = await client.register()
    body = {"email": BOB, "roles": ["admin"], "deliver": False}
    assert problem(await client.post("/invitations", body, token=access)) == (403, "forbidden")


# ---- sign-ins


async def signed_in(client: Client, browser: str) -> None:
    answer = await client.post("/session", {"email": ANN, "password": PASSWORD}, **OWN_PAGE, User_Agent=browser)
    assert answer.status_code == 200
    client.http.cookies.clear()


async def test_a_sign_in_from_a_new_browser_is_mailed_once_and_the_first_never(client: Client) -> None:
    firefox, chrome = "Mozilla/5.0 (X11) Firefox/143.0", "Mozilla/5.0 (X11) AppleWebKit/537 Chrome/140.0 Safari/537"
    await client.register()
    for browser in (firefox, firefox.replace("143", "144"), chrome, chrome, firefox):
        await signed_in(client, browser)
    mail = await client.mail(ANN)
    assert mail.message["Subject"] == "New sign-in to Example"
    assert "(192.0.2.7)" in mail.text and "Chrome" not in mail.text
    await client.reset_token()  # the sender has passed every notice
    subjects = [one.message["Subject"] for one in client.server.received]
    assert subjects.count("New sign-in to Example") == 1


async def test_notices_of_new_places_can_be_turned_off(
    database: Database, prepared_url: str, smtp_server: SmtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = {"notices": "changes"}
    async with mail_application(tmp_path, prepared_url, smtp_server, monkeypatch, mail=mail) as client:
        await client.register()
        for browser in ("Firefox/143", "Chrome/140"):
            await signed_in(client, browser)
        await client.reset_token()
        assert len(smtp_server.received) == 1


@pytest.mark.parametrize(
    ("address", "network"),
    [("192.0.2.7", "192.0.2.0/24"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"), ("", ""), ("unix", "")],
)
def test_a_place_is_a_network_and_a_family_of_browsers(address: str, network: str) -> None:
    assert place_of(ClientInfo(address, "Mozilla/5.0 Chrome/140.0 Safari/537 Edg/140.0")) == (network, "Edg")
