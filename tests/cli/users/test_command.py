"""`gateway users`: accounts managed directly in the database."""

import contextlib
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from bench.stores.valkey import ValkeyServer
from tests.cli.running import Outcome, one_plain_line, run_here, typed

CONFIGURATION = """\
storage: {database: "sqlite:///gateway.db"}
accounts: {password: {bcrypt_rounds: 4}}
roles: {admin: [editor], editor: [user], user: []}
upstreams: {web: http://127.0.0.1:9000}
routes: [{path: /**, upstream: web}]
"""
PASSWORD = "correct horse"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a configuration at the default path, without a database."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/gateway.yaml").write_text(CONFIGURATION)
    return tmp_path


def users(folder: Path, *arguments: str, stdin: str = PASSWORD + "\n") -> Outcome:
    return run_here("users", *arguments, folder=folder, stdin=stdin)


def made(folder: Path, email: str, *roles: str) -> dict[str, Any]:
    """Create an account and return the output of the command."""
    options = [word for role in roles for word in ("--role", role)]
    outcome = users(folder, "create", email, *options, "--password-stdin", "--json")
    assert (outcome.code, outcome.err) == (0, ""), outcome
    record = json.loads(outcome.out)
    assert isinstance(record, dict)
    return record


def shown(folder: Path, email: str) -> dict[str, Any]:
    record = json.loads(users(folder, "show", email, "--json").out)
    assert isinstance(record, dict)
    return record


def stored(folder: Path, query: str, *parameters: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "gateway.db") as database:
        return database.execute(query, parameters).fetchall()


def test_the_first_account_can_be_made_before_the_gateway_ever_ran(folder: Path) -> None:
    record = made(folder, " Ada@Example.com ", "admin")
    assert record == {
        "id": record["id"],
        "email": "Ada@Example.com",
        "is_active": True,
        "roles": ["admin"],
        "created_at": record["created_at"],
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["created_at"])
    assert shown(folder, "ada@example.COM") == record


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["show", "ada@example.com"],
        ["disable", "ada@example.com"],
        ["audit"],
        ["blocked"],
        ["block", "idp|bob"],
    ],
)
def test_a_command_in_the_wrong_folder_makes_no_database(folder: Path, arguments: list[str]) -> None:
    outcome = users(folder, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"the database file {folder / 'gateway.db'} does not exist" in one_plain_line(outcome.err)
    assert not (folder / "gateway.db").exists()


@pytest.mark.parametrize("tables", ["", "CREATE TABLE notes (text)"], ids=["empty", "of another application"])
@pytest.mark.parametrize("arguments", [["list"], ["show", "ada@example.com"], ["audit"]])
def test_a_command_that_reads_leaves_a_foreign_file_alone(folder: Path, arguments: list[str], tables: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / "gateway.db")) as database:
        database.executescript(tables)
    outcome = users(folder, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "storage.database has no tables yet; run: gateway db upgrade" in outcome.err
    with contextlib.closing(sqlite3.connect(folder / "gateway.db")) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master")]
    assert names == (["notes"] if tables else [])


def test_a_foreign_table_of_versions_is_named(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "gateway.db")) as database:
        database.executescript("CREATE TABLE gateway_schema (version)")
    outcome = users(folder, "list")
    assert outcome.code == 2
    assert "has a table 'gateway_schema' that the gateway did not make" in outcome.err


def test_every_command_names_the_database_that_it_used(folder: Path) -> None:
    made(folder, "ada@example.com")
    for arguments in (["list"], ["show", "ada@example.com", "--json"], ["disable", "ada@example.com"], ["audit"]):
        assert users(folder, *arguments).database == str(folder / "gateway.db")


def test_without_roles_an_account_gets_the_default_ones(folder: Path) -> None:
    assert made(folder, "ada@example.com")["roles"] == ["user"]


def test_the_text_contains_the_change(folder: Path) -> None:
    outcome = users(folder, "create", "ada@example.com", "--role", "editor", "--role", "user", "--password-stdin")
    assert re.fullmatch(r"Created ada@example\.com \(active, roles: editor, user, id [0-9a-f-]{36}\)\.\n", outcome.out)
    lines = users(folder, "show", "ada@example.com").out.splitlines()
    assert [line.split()[0] for line in lines] == ["email", "id", "state", "roles", "created"]


def test_an_account_may_be_named_by_its_id_and_revoked(folder: Path) -> None:
    record = made(folder, "ada@example.com", "admin")
    assert shown(folder, record["id"]) == record
    outcome = users(folder, "revoke", record["id"])
    assert outcome.code == 0 and outcome.out.startswith("Ended every session and API key of ada@example.com (active")
    unknown = users(folder, "revoke", "nobody")
    assert (unknown.code, unknown.out) == (1, "") and "No account has this id" in unknown.err


def test_an_address_registered_by_another_user_is_no_first_administrator(folder: Path) -> None:
    made(folder, "ada@example.com")
    outcome = users(folder, "create", "Ada@example.com", "--role", "admin", "--password-stdin")
    assert outcome.code == 1 and "take it over with 'gateway users set-password'" in outcome.err
    assert shown(folder, "ada@example.com")["roles"] == ["user"]


def test_the_list_is_in_the_order_of_addresses_and_can_be_narrowed(folder: Path) -> None:
    for email, roles in [("cleo@example.com", []), ("ada@example.com", ["admin"]), ("bob@other.com", ["user"])]:
        made(folder, email, *roles)
    users(folder, "disable", "cleo@example.com")

    def listed(*options: str) -> list[str]:
        return [record["email"] for record in json.loads(users(folder, "list", "--json", *options).out)]

    assert listed() == ["ada@example.com", "bob@other.com", "cleo@example.com"]
    assert listed("--query", "@EXAMPLE") == ["ada@example.com", "cleo@example.com"]
    assert listed("--query", "ADA") == ["ada@example.com"]
    assert listed("--role", "user") == ["bob@other.com", "cleo@example.com"]
    assert listed("--active") == ["ada@example.com", "bob@other.com"]
    assert listed("--disabled") == ["cleo@example.com"]
    assert listed("--query", "nobody") == []
    heading, *lines = users(folder, "list").out.splitlines()
    assert heading.split() == ["EMAIL", "ID", "STATE", "ROLES", "CREATED", "(UTC)"]
    assert [line.split()[2] for line in lines] == ["active", "active", "disabled"]


def test_the_list_is_whole_however_many_there_are(folder: Path) -> None:
    made(folder, "template@example.com")
    columns = [name for _, name, *_ in stored(folder, "PRAGMA table_info(users)")]
    own = {"id": "'id-' || n", "email": "'u' || n || '@example.com'", "canonical": "'u' || n || '@example.com'"}
    copied = ", ".join(own.get(column, column) for column in columns)
    with sqlite3.connect(folder / "gateway.db") as database:
        database.execute(
            "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1100) "
            f"INSERT INTO users ({', '.join(columns)}) SELECT {copied} FROM users, numbers"
        )
    emails = [record["email"] for record in json.loads(users(folder, "list", "--json").out)]
    assert len(emails) == len(set(emails)) == 1101


def test_disabling_and_enabling(folder: Path) -> None:
    made(folder, "ada@example.com")
    assert users(folder, "disable", "ADA@example.com").out.startswith("Disabled ada@example.com (disabled,")
    assert shown(folder, "ada@example.com")["is_active"] is False
    assert users(folder, "enable", "ada@example.com").out.startswith("Enabled ada@example.com (active,")
    assert shown(folder, "ada@example.com")["is_active"] is True


def test_roles_are_replaced_as_a_whole(folder: Path) -> None:
    made(folder, "ada@example.com", "user")
    outcome = users(folder, "set-roles", "ada@example.com", "editor", "admin", "--json")
    assert json.loads(outcome.out)["roles"] == ["admin", "editor"]
    assert shown(folder, "ada@example.com")["roles"] == ["admin", "editor"]


def test_a_deleted_account_is_gone(folder: Path) -> None:
    made(folder, "ada@example.com")
    assert users(folder, "delete", "ada@example.com").out.startswith("Deleted ada@example.com")
    assert users(folder, "show", "ada@example.com").code == 1
    assert made(folder, "ada@example.com")["roles"] == ["user"]


def test_every_change_leaves_an_audit_record_of_the_command_line(folder: Path) -> None:
    made(folder, "ada@example.com")
    users(folder, "set-password", "ada@example.com", "--password-stdin", stdin="another horse\n")
    users(folder, "disable", "ada@example.com")
    users(folder, "delete", "ada@example.com")
    columns = [name for _, name, *_ in stored(folder, "PRAGMA table_info(audit)")]
    assert "actor" in columns
    assert [actor for (actor,) in stored(folder, "SELECT actor FROM audit")] == ["command-line"] * 4


# ---- passwords


def digest(folder: Path, email: str = "ada@example.com") -> bytes:
    ((stored_hash,),) = stored(folder, "SELECT password_hash FROM users WHERE canonical = ?", email)
    return str(stored_hash).encode()


@pytest.mark.parametrize(
    ("stdin", "password"),
    [
        ("a b  c d e\n", "a b  c d e"),
        ("6 x 9 = 42\r\n", "6 x 9 = 42"),
        ("no newline", "no newline"),
        ("6 x 9 = 42 \n", "6 x 9 = 42 "),
    ],
)
def test_the_password_is_the_first_line_as_it_is(folder: Path, stdin: str, password: str) -> None:
    outcome = users(folder, "create", "ada@example.com", "--password-stdin", stdin=stdin)
    assert outcome.code == 0, outcome
    assert bcrypt.checkpw(password.encode(), digest(folder))
    assert password not in outcome.out + outcome.err


def test_a_password_is_never_an_argument(folder: Path) -> None:
    outcome = users(folder, "create", "ada@example.com", "--password", "hunter2hunter2")
    assert outcome.code == 2


def test_without_a_terminal_the_password_must_come_from_standard_input(folder: Path) -> None:
    for command in ("create", "set-password"):
        outcome = users(folder, command, "ada@example.com")
        assert outcome.code == 2
        assert "--password-stdin" in one_plain_line(outcome.err)


def test_an_empty_standard_input_is_reported(folder: Path) -> None:
    outcome = users(folder, "create", "ada@example.com", "--password-stdin", stdin="")
    assert outcome.code == 2
    assert "standard input" in one_plain_line(outcome.err)


def test_a_typed_password_is_asked_for_twice_and_not_shown(folder: Path) -> None:
    screen = typed(folder, ["users", "create", "ada@example.com"], ["correct horse", "correct horse"])
    assert "correct horse" not in screen
    assert "Created ada@example.com" in screen
    assert bcrypt.checkpw(b"correct horse", digest(folder))


def test_passwords_that_differ_are_asked_for_again(folder: Path) -> None:
    screen = typed(
        folder, ["users", "create", "ada@example.com"], ["correct horse", "incorrect", "correct horse", "correct horse"]
    )
    assert "do not match" in screen
    assert "Created ada@example.com" in screen


@pytest.mark.parametrize(("answer", "message"), [("n", ""), ("y", "Deleted ada@example.com")])
def test_at_a_terminal_deleting_is_confirmed(folder: Path, answer: str, message: str) -> None:
    made(folder, "ada@example.com")
    assert message in typed(folder, ["users", "delete", "ada@example.com"], [answer])
    assert users(folder, "show", "ada@example.com").code == (1 if message else 0)


def test_at_a_terminal_deleting_need_not_ask(folder: Path) -> None:
    made(folder, "ada@example.com")
    assert "Deleted" in typed(folder, ["users", "delete", "ada@example.com", "--yes"], [])


# ---- running gateways


def with_redis(folder: Path, url: str) -> None:
    shared = CONFIGURATION.replace('gateway.db"', f'gateway.db", redis: "{url}"')
    (folder / "config/gateway.yaml").write_text(shared)


def test_every_change_is_announced_over_redis(folder: Path, shared_valkey: ValkeyServer) -> None:
    with_redis(folder, shared_valkey.url)
    changes = [
        ["disable", "ada@example.com"],
        ["enable", "ada@example.com"],
        ["set-roles", "ada@example.com", "editor"],
        ["set-password", "ada@example.com", "--password-stdin"],
        ["delete", "ada@example.com"],
    ]
    with shared_valkey.client() as client, client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.psubscribe("gateway:*:changes")
        heard.get_message(timeout=5)
        user_id = made(folder, "ada@example.com")["id"]
        for change in changes:
            while heard.get_message(timeout=0.1):
                pass
            assert users(folder, *change).err == ""
            message = heard.get_message(timeout=1)
            assert message is not None and user_id in message["data"], change


def test_without_redis_the_delay_of_a_change_is_printed(folder: Path) -> None:
    made(folder, "ada@example.com")
    assert "within 1m (cache.user_ttl)" in users(folder, "disable", "ada@example.com").err


def test_a_change_that_cannot_be_announced_is_made_and_reported(folder: Path, valkey: ValkeyServer) -> None:
    with_redis(folder, valkey.url)
    valkey.kill()
    assert users(folder, "create", "ada@example.com", "--password-stdin").code == 0
    outcome = users(folder, "disable", "ada@example.com")
    assert outcome.code == 0
    line = one_plain_line(outcome.err)
    assert line.startswith("gateway: warning: Redis did not take the message")
    assert "cache.user_ttl" in line
    assert shown(folder, "ada@example.com")["is_active"] is False


# ---- refused commands


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "ada@example.com", "--password-stdin"], "Email already registered"),
        (["create", "ADA@EXAMPLE.COM", "--password-stdin"], "Email already registered"),
        (["create", "ada", "--password-stdin"], "email: "),
        (["create", "bob@example.com", "--role", "boss", "--password-stdin"], "'boss' is not a declared role"),
        (["show", "bob@example.com"], "No account"),
        (["disable", "bob@example.com"], "No account"),
        (["set-password", "bob@example.com", "--password-stdin"], "No account"),
        (["set-roles", "ada@example.com", "boss"], "'boss' is not a declared role"),
        (["disable", "ada@example.com"], "last active administrator"),
        (["set-roles", "ada@example.com", "user"], "last active administrator"),
        (["delete", "ada@example.com"], "last active administrator"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refusal_is_one_line_and_exit_code_1(administered: Path, arguments: list[str], message: str) -> None:
    outcome = users(administered, *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    assert message in one_plain_line(outcome.err)


def test_all_errors_of_a_new_account_are_reported_at_once(administered: Path) -> None:
    outcome = users(administered, "create", "bob", "--role", "boss", "--password-stdin", stdin="short\n")
    line = one_plain_line(outcome.err)
    assert all(name in line for name in ("email: ", "password: ", "roles: "))


@pytest.fixture(scope="module")
def administered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose database has one account, an administrator. Refused commands change nothing in it."""
    folder = tmp_path_factory.mktemp("administered")
    (folder / "config").mkdir()
    (folder / "config/gateway.yaml").write_text(CONFIGURATION)
    made(folder, "ada@example.com", "admin")
    return folder
