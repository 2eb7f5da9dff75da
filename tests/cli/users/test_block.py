"""`gateway users block`, `unblock` and `blocked`: subjects of external issuers."""

import json
from pathlib import Path

import pytest

from tests.cli.running import Outcome, one_plain_line, run_here

CONFIGURATION = """\
storage: {database: "sqlite:///gateway.db"}
tokens: {external: [{issuer: "https://idp/", audience: api, name: idp}]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/gateway.yaml").write_text(CONFIGURATION)
    assert run_here("db", "upgrade", folder=tmp_path).code == 0
    return tmp_path


def users(folder: Path, *arguments: str) -> Outcome:
    return run_here("users", *arguments, folder=folder)


def test_a_subject_is_blocked_listed_and_let_in_again(folder: Path) -> None:
    blocked = users(folder, "block", "idp|auth0|b o b", "--reason", "left us")
    assert (blocked.code, blocked.out) == (0, "Blocked idp|auth0|b o b.\n")
    assert "within 1m (cache.user_ttl)" in blocked.err
    listed = users(folder, "blocked")
    assert listed.code == 0 and "idp|auth0|b o b" in listed.out and "left us" in listed.out
    assert "command-line" in listed.out
    (found,) = json.loads(users(folder, "blocked", "--json").out)
    assert found == {
        "subject": "idp|auth0|b o b",
        "since": found["since"],
        "by": "command-line",
        "reason": "left us",
    }
    assert users(folder, "unblock", "idp|auth0|b o b").out == "Unblocked idp|auth0|b o b.\n"
    assert json.loads(users(folder, "blocked", "--json").out) == []


def test_the_json_contains_the_number_of_deleted_records(folder: Path) -> None:
    assert json.loads(users(folder, "block", "idp|bob", "--json").out) == {"subject": "idp|bob", "is_blocked": True}
    assert json.loads(users(folder, "unblock", "idp|bob", "--json").out) == {"subject": "idp|bob", "is_blocked": False}


def test_blocking_twice_succeeds_and_unblocking_an_unblocked_subject_fails(folder: Path) -> None:
    assert users(folder, "block", "idp|bob").code == users(folder, "block", "idp|bob").code == 0
    assert users(folder, "unblock", "idp|bob").code == 0
    again = users(folder, "unblock", "idp|bob")
    assert again.code == 1 and "not blocked" in one_plain_line(again.err)


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("bob", "NAME|SUB with the name of an issuer in tokens.external (idp)"),
        ("other|bob", "(idp)"),
        ("IDP|bob", "(idp)"),
        ("|bob", "(idp)"),
        ("", "(idp)"),
        ("idp|", "SUB of 1 to 255"),
        ("idp|b\nob", "SUB of 1 to 255"),
        ("idp|" + "b" * 256, "SUB of 1 to 255"),
        ("ann@example.com", "(idp)"),
    ],
)
def test_a_text_that_is_no_subject_of_an_issuer_is_refused(folder: Path, subject: str, message: str) -> None:
    outcome = users(folder, "block", subject)
    assert outcome.code == 1 and message in one_plain_line(outcome.err)
    assert json.loads(users(folder, "blocked", "--json").out) == []


def test_a_reason_is_one_line(folder: Path) -> None:
    outcome = users(folder, "block", "idp|bob", "--reason", "a\nb")
    assert outcome.code == 1 and "one line" in one_plain_line(outcome.err)


def test_a_blocked_subject_can_be_unblocked_after_its_issuer_left_the_configuration(folder: Path) -> None:
    assert users(folder, "block", "idp|bob").code == 0
    (folder / "config/gateway.yaml").write_text('storage: {database: "sqlite:///gateway.db"}\n')
    assert users(folder, "unblock", "idp|bob").code == 0
    refused = users(folder, "block", "idp|bob")
    assert refused.code == 1 and "(none)" in refused.err
