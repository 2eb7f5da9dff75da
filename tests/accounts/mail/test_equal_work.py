"""The work for known and unknown addresses is the same until the response: statements, commits and bytes.

Wall time depends on the machine. The statements and commits that a request causes do not, and a look-up, a second write
or another answer shows in them.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest
from sqlalchemy import Engine, event

from gateway.identity.user import COMMAND_LINE
from gateway.storage.database import Database
from gateway.storage.users import Users
from tests.accounts.mail.application import OWN_PAGE, PASSWORD, Client, mail_application
from tests.support.databases import new_user
from tests.support.smtp import SmtpServer

ANN = "ann@example.com"
# Of equal length, because the size of a row is a part of its work: an active, a disabled and an unverified account.
KNOWN = ("bob@example.com", "dis@example.com", "unv@example.com")
UNKNOWN = "nob@example.com"


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Every statement and commit of this process, with the sizes of its values."""
    found: list[str] = []

    def statement(_: Any, __: Any, text: str, values: Any, *___: Any) -> None:
        found.append(f"{text} {_sizes(values)}")

    def commit(_: Any) -> None:
        found.append("COMMIT")

    event.listen(Engine, "before_cursor_execute", statement)
    event.listen(Engine, "commit", commit)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", statement)
        event.remove(Engine, "commit", commit)


def _sizes(values: Any) -> list[int]:
    each = values.values() if isinstance(values, dict) else values
    return [len(value) if isinstance(value, str | bytes) else 0 for value in each]


Work = tuple[list[str], int, bytes, list[tuple[str, str]]]


async def work_of(ask: Callable[[], Awaitable[httpx.Response]]) -> Work:
    """The work of one request. The shortest of several records has no statement of a periodic task in it. The first use
    of a statement prepares it, so a request comes before them."""
    works: list[Work] = []
    await ask()
    for _ in range(3):
        with recorded() as statements:
            answer = await ask()
        fields = [(name, value) for name, value in answer.headers.items() if name not in ("date", "x-request-id")]
        content = re.sub(rb'"request_id": "\w+"', b"", answer.content)
        works.append((statements, answer.status_code, content, fields))
    return min(works, key=lambda work: len(work[0]))


@pytest.fixture
async def quiet(
    database: Database, prepared_url: str, smtp_server: SmtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Client]:
    """An application with accounts of every state, whose sender does not work during the test."""
    accounts = {
        "email": {"verification": "required"},
        "password": {"bcrypt_rounds": 4},
        "lockout": {"failures": 1000, "per_address_failures": 1000},
        "registration_limit": None,
        "pages": {"name": "Example"},
    }
    users = Users(database)
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    for email in (ANN, *KNOWN):
        user = replace(new_user(email, password_hash=hashed), email_verified=not email.startswith("unv"))
        record = await users.create(user, by=COMMAND_LINE)
        if email.startswith("dis"):
            await users.change(record.id, is_active=False, by=COMMAND_LINE, admin_roles=("admin",))
    application = mail_application(tmp_path, prepared_url, smtp_server, monkeypatch, every=600, accounts=accounts)
    async with application as client:
        yield client


@pytest.mark.parametrize("path", ["/register", "/password/forgot", "/email", "/login", "/session"])
async def test_CVE_2026_103526_known_and_unknown_addresses_cause_the_same_work(quiet: Client, path: str) -> None:
    access = (await quiet.login(ANN)).json()["access_token"]
    password = {"password": "wrong " + PASSWORD} if path in ("/login", "/session") else {}

    def asking(email: str) -> Callable[[], Awaitable[httpx.Response]]:
        return partial(quiet.post, path, {"email": email, **password}, token=access, **OWN_PAGE)

    works = {email: await work_of(asking(email)) for email in (*KNOWN, UNKNOWN)}
    for email in KNOWN:
        assert works[email] == works[UNKNOWN], email
    statements, status, _, _ = works[UNKNOWN]
    assert (status, "COMMIT" in statements) == ((401, False) if password else (202, True))


async def test_a_link_to_a_verified_and_to_an_unverified_address_causes_the_same_work(
    client: Client, database: Database
) -> None:
    users, works = Users(database), []
    for email in ("ann@example.com", "bob@example.com"):
        access = await client.register(email)
        if email.startswith("ann"):
            record = await users.by_email(email)
            assert record is not None
            await users.verify_email(record.id, by=COMMAND_LINE)
        await client.me(access)  # the record is cached
        answer = await client.post("/verify/resend", token=access)
        fields = {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id")}
        works.append((answer.status_code, answer.content, fields))
    assert works[0] == works[1] and works[0][0] == 202
