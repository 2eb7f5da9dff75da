"""`gateway users audit` and `gateway db prune-audit`: the audit trail on the command line."""

import json
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import Outcome, run_here
from tests.cli.users.test_command import folder, made, users

__all__ = ["folder"]

DAY = 86_400


def trail(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    outcome = users(folder, "audit", "--json", *arguments)
    assert outcome.code == 0, outcome
    records: list[dict[str, Any]] = json.loads(outcome.out)
    return records


def prune(folder: Path, *arguments: str) -> Outcome:
    return run_here("db", "prune-audit", *arguments, folder=folder, stdin="")


def test_it_is_read_from_the_newest_on_and_can_be_narrowed(folder: Path) -> None:
    ada, bob = made(folder, "ada@example.com", "admin"), made(folder, "bob@example.com")
    users(folder, "disable", "bob@example.com")
    users(folder, "delete", "bob@example.com", "--yes")

    def entries(*arguments: str) -> list[tuple[str, str]]:
        return [(record["action"], record["subject"]) for record in trail(folder, *arguments)]

    everything = [
        ("user.deleted", bob["id"]),
        ("user.disabled", bob["id"]),
        ("user.created", bob["id"]),
        ("user.created", ada["id"]),
    ]
    assert entries() == everything
    assert entries("--limit", "1") == everything[:1]
    assert entries("ada@example.com") == everything[3:]
    assert entries(bob["id"]) == everything[:3], "a deleted account is named by its id"
    assert entries("--action", "user.created") == everything[2:]
    assert entries("--actor", "command-line", "--since", "1h") == everything
    assert entries("--actor", "ada@example.com") == []
    assert trail(folder)[1] == {
        "id": 3,
        "at": trail(folder)[1]["at"],
        "action": "user.disabled",
        "actor": "command-line",
        "subject": bob["id"],
        "address": "",
        "request_id": "",
        "before": {"is_active": True},
        "after": {"is_active": False},
    }


def test_a_person_reads_a_table(folder: Path) -> None:
    made(folder, "ada@example.com", "admin")
    users(folder, "set-roles", "ada@example.com", "admin", "editor")
    heading, newest, *_ = users(folder, "audit").out.splitlines()
    assert heading.split() == ["AT", "(UTC)", "ACTION", "SUBJECT", "ACTOR", "FROM", "CHANGE"]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  user\.roles_set ", newest)
    assert newest.endswith('{"roles": ["admin"]} -> {"roles": ["admin", "editor"]}')


def test_more_records_than_are_read_at_a_time_come_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        made(folder, f"user{number}@example.com")
    assert len(trail(folder, "--limit", "4")) == 4
    monkeypatch.setattr("gateway.cli.users.audit.PAGE", 2)
    assert [record["id"] for record in trail(folder)] == [5, 4, 3, 2, 1]
    assert [record["id"] for record in trail(folder, "--limit", "3")] == [5, 4, 3]


def test_old_records_are_deleted_and_that_is_recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.storage.audit.BATCH", 2)
    for number in range(6):
        made(folder, f"user{number}@example.com")
    with sqlite3.connect(folder / "gateway.db") as database:
        age = "UPDATE audit SET at = ? WHERE id = ?"
        database.executemany(
            age, [((time.time() - days * DAY) * 1e6, id_) for id_, days in enumerate((500, 401, 399), 1)]
        )
    outcome = prune(folder, "--older-than", "400d")
    assert (outcome.code, outcome.out) == (0, "Deleted 2 audit records older than 400d.\n")
    pruned, *left = trail(folder)
    assert (pruned["action"], pruned["actor"], pruned["subject"]) == ("audit.pruned", "command-line", "audit")
    assert pruned["after"]["records"] == 2
    assert sorted(record["id"] for record in left) == [3, 4, 5, 6]
    assert prune(folder, "--older-than", "400d").out == "Deleted 0 audit records older than 400d.\n"
    assert len(trail(folder)) == 5, "what deletes nothing is no change"


@pytest.mark.parametrize(
    ("period", "message"), [("29d", "30d or more"), ("400", "not a duration"), ("0s", "30d or more")]
)
def test_young_records_are_never_deleted(folder: Path, period: str, message: str) -> None:
    made(folder, "ada@example.com")
    outcome = prune(folder, "--older-than", period)
    assert outcome.code == 2 and message in outcome.err
    assert len(trail(folder)) == 1


def test_how_long_is_never_assumed(folder: Path) -> None:
    assert prune(folder).code == 2
