"""`gateway check`, `gateway db` and `gateway schema`: output for people and for programs."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import ROOT, Outcome, run_here

GOOD = """\
upstreams:
  web: http://127.0.0.1:9000
  other: http://127.0.0.1:9001
routes:
  - path: /** # gateway: allow own-paths-hide, open-registration
    upstream: web
  - path: /other/**
    upstream: other
"""
POLICY = "6df2d7d30ea5"
DANGEROUS = GOOD + "accounts: {password: {bcrypt_rounds: 4}}\n"
BROKEN = DANGEROUS.replace("upstream: web", "upstream: wbe\n    auth: maybe", 1)


def check(folder: Path, text: str, *options: str) -> Outcome:
    (folder / "g.yaml").write_text(text)
    return run_here("check", "--config", "g.yaml", *options, folder=folder)


def report(folder: Path, text: str, *options: str) -> dict[str, Any]:
    answer = json.loads(check(folder, text, "--json", *options).out)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.parametrize(
    ("text", "code", "strict"),
    [(GOOD, 0, 0), (DANGEROUS, 0, 1), (BROKEN, 2, 2)],
    ids=["good", "dangerous", "broken"],
)
def test_the_exit_code_is_the_answer(tmp_path: Path, text: str, code: int, strict: int) -> None:
    assert check(tmp_path, text).code == code
    assert check(tmp_path, text, "--strict").code == strict
    assert check(tmp_path, text, "--json", "--strict").code == strict


def test_a_good_file_is_counted(tmp_path: Path) -> None:
    assert check(tmp_path, GOOD) == (0, f"g.yaml: fine, 2 routes, 2 upstreams, policy {POLICY}\n", "")


def test_warnings_are_shown_with_their_place(tmp_path: Path) -> None:
    outcome = check(tmp_path, DANGEROUS)
    warning, summary = outcome.out.splitlines()
    assert warning.startswith("g.yaml:9:38: accounts.password.bcrypt_rounds: ")
    assert warning.endswith(" (warning: few-bcrypt-rounds)")
    assert summary == f"g.yaml: fine, 2 routes, 2 upstreams, policy {POLICY}, 1 warning"
    assert outcome.err == ""


def test_problems_and_warnings_are_shown_together(tmp_path: Path) -> None:
    *lines, summary = check(tmp_path, BROKEN).out.splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "routes[0].upstream",
        "routes[0].auth",
        "accounts.password.bcrypt_rounds",
    ]
    assert summary == "g.yaml: 2 problems, 1 warning"


def test_problems_of_routes_and_of_keys_are_shown_together(tmp_path: Path) -> None:
    pem = "-----BEGIN PRIVATE KEY-----\\nMC4=\\n-----END PRIVATE KEY-----"
    keys = f'tokens: {{keys: [{{kid: k1, algorithm: ES256, private_key: "{pem}"}}]}}\n'
    text = GOOD + "  - {path: /**, upstream: web}\n" + keys
    found = [problem["key"] for problem in report(tmp_path, text)["problems"]]
    assert "tokens.keys[0].private_key" in found
    assert any(key.startswith("routes[") for key in found)


def test_a_program_reads_the_same(tmp_path: Path) -> None:
    fine = report(tmp_path, GOOD)
    assert fine == {
        "file": "g.yaml",
        "fine": True,
        "routes": 2,
        "upstreams": 2,
        "policy": POLICY,
        "problems": [],
        "warnings": [],
    }
    broken = report(tmp_path, BROKEN)
    assert (broken["fine"], broken["routes"], broken["upstreams"]) == (False, None, None)
    assert [problem["severity"] for problem in broken["problems"]] == ["error", "error"]
    (warning,) = broken["warnings"]
    assert warning == {
        "file": "g.yaml",
        "line": 10,
        "column": 38,
        "key": "accounts.password.bcrypt_rounds",
        "message": warning["message"],
        "severity": "warning",
        "code": "few-bcrypt-rounds",
    }
    assert report(tmp_path, DANGEROUS)["fine"] is True
    assert report(tmp_path, DANGEROUS, "--strict")["fine"] is False


def test_checking_makes_nothing(tmp_path: Path) -> None:
    check(tmp_path, GOOD)
    assert [path.name for path in tmp_path.iterdir()] == ["g.yaml"]


@pytest.mark.parametrize("name", ["gateway.yaml", "demo.yaml"])
def test_the_configurations_that_are_shipped_are_fine_even_strictly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert check(tmp_path, (ROOT / "config" / name).read_text(), "--strict").code == 0


def test_upgrading_a_database_twice_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(GOOD)
    first = run_here("db", "upgrade", "--config", "g.yaml", folder=tmp_path)
    second = run_here("db", "upgrade", "--config", "g.yaml", folder=tmp_path)
    assert (first.code, second.code) == (0, 0)
    assert first.out.startswith("The database was upgraded to schema ")
    assert second.out.startswith("The database was already at schema ")


def test_the_schema_is_one_json_document(tmp_path: Path) -> None:
    outcome = run_here("schema", folder=tmp_path)
    schema = json.loads(outcome.out)
    assert (outcome.code, schema["type"]) == (0, "object")
    assert {"server", "routes", "upstreams"} <= schema["properties"].keys()


MISPLACED = GOOD + 'storage:\n  database: "sqlite:///{}"\n'


@pytest.mark.parametrize("command", ["check", "serve"])
def test_the_missing_folder_of_a_database_is_named_with_its_place(tmp_path: Path, command: str) -> None:
    (tmp_path / "g.yaml").write_text(MISPLACED.format("data/gateway.db"))
    outcome = run_here(command, "--config", "g.yaml", folder=tmp_path)
    folder = tmp_path / "data"
    message = "g.yaml:10:13: storage.database: is in a folder that does not exist, found 'sqlite:///data/gateway.db' "
    message += f"(mkdir -p {folder}, or another path)"
    assert outcome.code == 2
    assert message in outcome.out + outcome.err
    folder.mkdir()
    assert run_here("check", "--config", "g.yaml", folder=tmp_path).code == 0


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert (
        "storage.database: is below a file, found 'sqlite:///data/g.db'"
        in check(tmp_path, MISPLACED.format("data/g.db")).out
    )


def _folder(path: Path) -> None:
    path.mkdir()


def _text(path: Path) -> None:
    path.write_text("accounts of another program, longer than a header\n")


def _link_to_nowhere(path: Path) -> None:
    path.symlink_to("gone/g.db")


UNUSABLE = {
    "a folder": (_folder, "is a folder, found 'sqlite:///data' (sqlite:///data/gateway.db)"),
    "a pipe": (os.mkfifo, "is not a regular file, found 'sqlite:///data' (another path)"),
    "a text": (_text, "is a file that is not an SQLite database, found 'sqlite:///data' (another path)"),
    "a link to nowhere": (_link_to_nowhere, "is in a folder that does not exist, found 'sqlite:///data' (mkdir -p "),
}


@pytest.mark.parametrize(("make", "wrong"), UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_path_that_cannot_be_a_database_is_a_problem(
    tmp_path: Path, command: str, make: Callable[[Path], None], wrong: str
) -> None:
    make(tmp_path / "data")
    (tmp_path / "g.yaml").write_text(MISPLACED.format("data"))
    outcome = run_here(command, "--config", "g.yaml", folder=tmp_path)
    assert outcome.code == 2
    assert f"g.yaml:10:13: storage.database: {wrong}" in outcome.out + outcome.err


def test_a_command_names_the_missing_folder_behind_a_link(tmp_path: Path) -> None:
    _link_to_nowhere(tmp_path / "data")
    (tmp_path / "g.yaml").write_text(MISPLACED.format("data"))
    outcome = run_here("db", "upgrade", "--config", "g.yaml", folder=tmp_path)
    assert f"the folder of {tmp_path / 'gone/g.db'} does not exist (mkdir -p {tmp_path / 'gone'}," in outcome.err


@pytest.mark.parametrize("option", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
def test_a_missing_certificate_of_the_database_is_named(tmp_path: Path, option: str) -> None:
    key = 'tokens: {keys: [{kid: k1, algorithm: HS256, secret: "${KEY:-12345678901234567890123456789012}"}]}\n'
    address = f"postgresql://u@127.0.0.1:1/d?sslmode=require&{option}=db.pem"
    problem = f"storage.database: has the option '{option}' with a file that does not exist, found 'db.pem'"
    configuration = f"{GOOD}{key}storage: {{database: '{address}'}}\n"
    assert problem in check(tmp_path, configuration).out
    (tmp_path / "db.pem").touch()
    assert problem not in check(tmp_path, configuration).out


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_missing_certificate_of_redis_is_named(tmp_path: Path, option: str) -> None:
    problem = f"storage.redis: has the option '{option}' with a file that does not exist, found 'redis.pem'"
    configuration = f"{GOOD}storage: {{redis: 'rediss://127.0.0.1:1?{option}=redis.pem'}}\n"
    assert problem in check(tmp_path, configuration).out
    (tmp_path / "redis.pem").touch()
    assert check(tmp_path, configuration).code == 0


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:", "sqlite:///g.db"])
def test_a_database_without_a_folder_of_its_own_needs_none(tmp_path: Path, address: str) -> None:
    assert check(tmp_path, GOOD + f'storage: {{database: "{address}"}}\n').code == 0


def test_commands_on_accounts_name_the_missing_folder_too(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(MISPLACED.format("data/gateway.db"))
    outcome = run_here("db", "upgrade", "--config", "g.yaml", folder=tmp_path)
    assert outcome.code == 2
    assert f"storage.database: the folder of {tmp_path / 'data/gateway.db'} does not exist (mkdir -p" in outcome.err
