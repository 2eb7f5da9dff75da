"""The policy tools report the same results for built-in endpoints as the running gateway."""

import json
from pathlib import Path

import pytest

from tests.cli.running import Outcome, run_here

OPEN = "accounts: {registration: open}\nobservability: {metrics: true}\nroutes: []\n"
CLOSED = OPEN.replace("open", "closed").replace("true", "false")


def run(folder: Path, text: str, *arguments: str) -> Outcome:
    (folder / "g.yaml").write_text(text)
    return run_here(*arguments, "--config", "g.yaml", folder=folder)


@pytest.mark.parametrize(
    ("request_line", "decision"),
    [
        ("POST http://localhost/auth/register", "refused 403 registration_closed: Registration is closed"),
        ("GET http://localhost/_gateway/metrics", "refused 404 no_route: "),
    ],
)
@pytest.mark.parametrize("caller", [["--anonymous"], ["--role", "admin"]])
def test_explain_shows_that_an_endpoint_refuses_every_caller(
    tmp_path: Path, request_line: str, decision: str, caller: list[str]
) -> None:
    outcome = run(tmp_path, CLOSED, "explain", *request_line.split(), *caller)
    assert outcome.code == 1
    assert decision in outcome.out
    assert run(tmp_path, OPEN, "explain", *request_line.split(), *caller).code == 0


@pytest.mark.parametrize(
    ("path", "condition"),
    [
        ("/_gateway/metrics", "an address in observability.operations_allow"),
        ("/_gateway/verify", "a peer in server.trusted_proxies"),
        ("/_gateway/console", "an administrator, by its own sign-in"),
    ],
)
def test_explain_names_the_check_that_an_endpoint_makes_itself(tmp_path: Path, path: str, condition: str) -> None:
    outcome = run(tmp_path, OPEN, "explain", "GET", f"http://localhost{path}", "--anonymous")
    assert f"asks        {condition}" in outcome.out
    assert "no user is looked up" not in outcome.out


def test_the_matrix_shows_no_access_to_closed_registration(tmp_path: Path) -> None:
    rows = json.loads(run(tmp_path, CLOSED, "matrix", "--own", "--format", "json").out)["routes"]
    cells = {row["name"]: row for row in rows}
    assert cells["accounts.register"]["access"]["anonymous"]["access"] == "no"
    assert "operations.metrics" not in cells
    rows = json.loads(run(tmp_path, OPEN, "matrix", "--own", "--format", "json").out)["routes"]
    assert {row["name"]: row for row in rows}["accounts.register"]["access"]["anonymous"]["access"] == "yes"


def test_a_policy_test_meets_closed_registration(tmp_path: Path) -> None:
    (tmp_path / "tests.yaml").write_text(
        "- {name: closed, as: anonymous, deny: ['POST /auth/register -> 403', 'GET /_gateway/metrics -> 404']}\n"
    )
    assert run(tmp_path, CLOSED, "test", "tests.yaml").code == 0
    assert run(tmp_path, OPEN, "test", "tests.yaml").code == 1


def test_opening_registration_opens_something(tmp_path: Path) -> None:
    (tmp_path / "open.yaml").write_text(OPEN)
    (tmp_path / "closed.yaml").write_text(CLOSED)
    opened = run_here("diff", "closed.yaml", "open.yaml", folder=tmp_path)
    assert opened.code == 1
    assert "opens   POST /auth/register" in opened.out and "opens   GET /_gateway/metrics" in opened.out
    closed = run_here("diff", "open.yaml", "closed.yaml", folder=tmp_path)
    assert closed.code == 0
    assert "closes  POST /auth/register" in closed.out


@pytest.mark.parametrize(
    ("code", "status", "text", "changes"),
    [
        ("registration_closed", 403, CLOSED, 0),
        ("registration_closed", 403, OPEN, 1),
        ("", 201, OPEN, 0),
        ("", 201, CLOSED, 1),
    ],
)
def test_replay_compares_closed_registration(tmp_path: Path, code: str, status: int, text: str, changes: int) -> None:
    line = {
        "request_id": "r",
        "host": "h",
        "method": "POST",
        "path": "/auth/register",
        "route": "accounts.register",
        "code": code,
        "status": status,
        "user": "",
        "roles": [],
    }
    (tmp_path / "access.log").write_text(json.dumps(line) + "\n")
    outcome = run(tmp_path, text, "replay", "access.log")
    assert outcome.out.splitlines()[-1] == f"{changes} of 1 requests would change"
