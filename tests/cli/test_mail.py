"""`gateway mail` and the commands for links: `gateway users invite|reset|verify|set-email`."""

import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.running import Outcome, run_here
from tests.support.smtp import SmtpServer

ANN = "ann@example.com"
PASSWORD = "correct horse battery\n"


@pytest.fixture
def folder(tmp_path: Path, smtp_server: SmtpServer) -> Path:
    content = {
        "server": {"public_url": "https://app.example.com"},
        "storage": {"database": "sqlite:///gateway.db"},
        "sessions": {},
        "accounts": {"password": {"bcrypt_rounds": 4}, "pages": {"name": "Example"}},
        "mail": {"from": "Example <no-reply@example.com>", "smtp": smtp_server.address},
    }
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "gateway.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def gateway(folder: Path, *words: str, stdin: str = "") -> Outcome:
    return run_here(*words, folder=folder, stdin=stdin)


def created(folder: Path, email: str = ANN) -> None:
    outcome = gateway(folder, "users", "create", email, "--password-stdin", stdin=PASSWORD)
    assert outcome.code == 0, outcome


def test_a_test_mail_is_sent_and_the_conversation_printed(folder: Path, smtp_server: SmtpServer) -> None:
    outcome = gateway(folder, "mail", "test", ANN)
    assert outcome.code == 0, outcome
    assert f"connecting to localhost:{smtp_server.port}" in outcome.out
    assert "RCPT TO:<ann@example.com>" in outcome.out and "Sent a mail to ann@example.com." in outcome.out
    (received,) = smtp_server.received
    assert received.message["Subject"] == "Test of the mail of Example"


def test_a_refused_test_mail_fails_with_the_words_of_the_server(folder: Path, smtp_server: SmtpServer) -> None:
    smtp_server.answers[ANN] = "550 no such user here"
    outcome = gateway(folder, "mail", "test", ANN)
    assert (outcome.code, "550 no such user here" in outcome.err) == (1, True)


def test_the_queue_shows_waiting_mails_and_retry_makes_them_due(folder: Path) -> None:
    created(folder)
    assert gateway(folder, "users", "reset", ANN).code == 0
    listed = gateway(folder, "mail", "queue")
    assert re.search(r"^reset +ann@example\.com +\d+s +0 +now", listed.out, re.MULTILINE), listed.out
    with sqlite3.connect(folder / "gateway.db") as database:
        database.execute("UPDATE outbox SET due_at = due_at + 600000000, attempts = 3, reason = '451 later'")
    assert re.search(r"3 +in 10m +451 later", gateway(folder, "mail", "queue").out)
    retried = gateway(folder, "mail", "queue", "--retry")
    assert "1 mails are due now" in retried.err and re.search(r"3 +now", retried.out)


def test_a_printed_reset_link_is_not_mailed(folder: Path) -> None:
    created(folder)
    outcome = gateway(folder, "users", "reset", ANN, "--print-link")
    assert re.fullmatch(r"https://app\.example\.com/account/reset\?token=gwl_\w{38}\n", outcome.out)
    assert "reset" not in gateway(folder, "mail", "queue").out
    assert "gwl_" not in gateway(folder, "users", "audit", "--json").out


def test_an_invitation_is_mailed_or_printed(folder: Path) -> None:
    created(folder)
    mailed = gateway(folder, "users", "invite", "bob@example.com", "--role", "user", "--ttl", "2d")
    assert mailed.code == 0 and "Invited bob@example.com (roles: user) until" in mailed.out
    printed = gateway(folder, "users", "invite", "eve@example.com", "--print-link")
    assert "/account/invitation?token=gwl_" in printed.out
    taken = gateway(folder, "users", "invite", ANN)
    assert (taken.code, "exists already" in taken.err) == (1, True)
    too_long = gateway(folder, "users", "invite", "bob@example.com", "--ttl", "60d")
    assert (too_long.code, "expires_in" in too_long.err) == (1, True)


def test_an_address_is_verified_and_changed(folder: Path) -> None:
    created(folder)
    assert "ann@example.com is verified" in gateway(folder, "users", "verify", ANN).out
    changed = gateway(folder, "users", "set-email", ANN, "new@example.com")
    assert "new@example.com, unverified" in changed.out
    records = json.loads(gateway(folder, "users", "audit", "--json").out)
    assert [record["action"] for record in records[:2]] == ["email.changed", "email.verified"]
    assert gateway(folder, "users", "show", ANN).code == 1
    queue = gateway(folder, "mail", "queue").out
    assert queue.count("address-changed") == 2


def test_without_mail_the_commands_report_the_missing_settings(folder: Path) -> None:
    created(folder)
    file = folder / "config" / "gateway.yaml"
    content = yaml.safe_load(file.read_text())
    del content["mail"]
    file.write_text(yaml.safe_dump(content))
    assert "no section 'mail'" in gateway(folder, "mail", "queue").err
    assert "--print-link" in gateway(folder, "users", "reset", ANN).err
    assert gateway(folder, "users", "reset", ANN, "--print-link").code == 0


def test_a_gateway_without_mail_and_pages_imports_none_of_their_libraries(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump({"storage": {"database": f"sqlite:///{tmp_path}/gateway.db"}}))
    program = (
        "import asyncio, sys; from pathlib import Path; from gateway.app import create_app;"
        "from gateway.policy.loader import load_configuration\n"
        "async def run():\n"
        f"    app = create_app(load_configuration(Path({str(file)!r}), {{}}))\n"
        "    async with app.router.lifespan_context(app): pass\n"
        "asyncio.run(run())\n"
        "names = {'aiosmtplib', 'jinja2', 'gateway.server.mail'}\n"
        "names |= {'gateway.accounts.mail.sender', 'gateway.accounts.texts.catalogue'}\n"
        "print(sorted(names & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "[]", ran.stderr
