"""Mail tests run on both databases, with a real SMTP server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.storage.database import Database
from tests.accounts.mail.application import Client, mail_application
from tests.accounts.mail.mailing import Mailing, make_mailing
from tests.support.databases import Clock, clock, database, prepared_url, shared_postgres_url, sqlite_template
from tests.support.smtp import SmtpServer

__all__ = ["clock", "database", "prepared_url", "shared_postgres_url", "sqlite_template"]


@pytest.fixture
def mailing(database: Database, clock: Clock, smtp_server: SmtpServer) -> Mailing:
    return make_mailing(database, clock, smtp_server.address)


@pytest.fixture
async def client(
    database: Database, prepared_url: str, smtp_server: SmtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Client]:
    """The application over the database of the fixture `database`."""
    async with mail_application(tmp_path, prepared_url, smtp_server, monkeypatch) as made:
        yield made
