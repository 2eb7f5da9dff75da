"""Mail tests run on both databases, with a real SMTP server."""

import pytest

from gateway.storage.database import Database
from tests.mail.mailing import Mailing, make_mailing
from tests.support.databases import Clock, clock, database, prepared_url, shared_postgres_url
from tests.support.smtp import SmtpServer

__all__ = ["clock", "database", "prepared_url", "shared_postgres_url"]


@pytest.fixture
def mailing(database: Database, clock: Clock, smtp_server: SmtpServer) -> Mailing:
    return make_mailing(database, clock, smtp_server.address)
