"""The command line as a whole: its startup cost, its list of commands, and its handling of errors."""

import json
import os
import pty
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import gateway
from gateway.cli.output import print_table
from gateway.cli.program import COMMANDS, program
from gateway.cli.program import run as run_program
from gateway.errors import CannotStart, ConfigurationError, FieldError, Problem, Refusal, StorageUnavailable
from tests.cli.running import ROOT, command_line, environment, one_plain_line, run

HEAVY = [
    "pydantic",
    "yaml",
    "sqlalchemy",
    "redis",
    "httpx",
    "rich",
    "uvicorn",
    "starlette",
    "asyncio",
    "cryptography",
]


def test_help_lists_every_command_with_its_line(tmp_path: Path) -> None:
    outcome = run("--help", folder=tmp_path)
    assert outcome.code == 0
    assert outcome.err == ""
    for name, entry in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.help)}$", outcome.out, re.MULTILINE)


def test_the_table_of_commands_agrees_with_the_commands() -> None:
    for name, entry in COMMANDS.items():
        command = import_module(entry.module).command
        assert (command.name, command.get_short_help_str(limit=1000)) == (name, entry.help)


def test_help_imports_nothing_that_is_heavy() -> None:
    code = (
        "import sys; from gateway.cli.program import run; run(['--help']);"
        f"sys.exit(','.join(m for m in {HEAVY} if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(program, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: gateway {name}")
    assert [line for line in result.output.splitlines() if re.search(r"[a-z]\.\.\.$", line)] == [], "a cut sentence"


def test_every_option_and_argument_in_the_whole_tree_is_explained_with_its_default() -> None:
    def commands(command: click.Command) -> list[click.Command]:
        if not isinstance(command, click.Group):
            return [command]
        loaded = (command.get_command(click.Context(command), name) for name in command.commands)
        return [found for child in loaded if child is not None for found in commands(child)]

    for command in commands(program):
        assert command.help, command.name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (command.name, parameter.name)
                defaults = isinstance(parameter.default, str | int | float) and not parameter.is_flag
                if defaults and parameter.default != "":
                    assert parameter.show_default or "Default:" in parameter.help, (command.name, parameter.name)


def test_version_is_that_of_the_package(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert gateway.__version__ == project["version"]
    assert run("--version", folder=tmp_path).out == f"gateway, version {project['version']} ({gateway.build()})\n"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ([], ""),
        (["gateway/cache.py"], "gateway: warning: gateway/cache.py changed after make native, "),
        (
            ["gateway/cache.py", "gateway/errors.py", "gateway/ticker.py"],
            "gateway: warning: gateway/cache.py and 2 more files changed after make native, ",
        ),
    ],
)
def test_each_command_warns_of_compiled_modules_that_are_older_than_their_source(
    changed: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gateway, "outdated", lambda: changed)
    assert run_program(["--version"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("gateway, version ")
    assert printed.err == (f"{named}and the old code runs: make native, or make interpreted\n" if named else "")


def test_no_command_shows_the_help_and_is_wrong_usage(tmp_path: Path) -> None:
    outcome = run(folder=tmp_path)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Commands:" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serv"], "'serve'"),
        (["serve", "--prot", "1"], "--port"),
        (["serve", "--port", "http"], "'http' is not a valid integer"),
        (["serve", "--port", "65536"], "65536 is not in the range"),
        (["serve", "--workers", "0"], "0 is not in the range"),
        (["check", "surplus"], "surplus"),
        (["users"], "users"),
        (["users", "create"], "EMAIL"),
        (["users", "set-roles", "a@example.com"], "ROLE"),
        (["keys", "generate", "--algorithm", "none"], "'none' is not one of"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_help(tmp_path: Path, arguments: list[str], message: str) -> None:
    outcome = run(*arguments, folder=tmp_path)
    assert outcome.code == 2
    if "Commands:" not in outcome.err:
        line = one_plain_line(outcome.err)
        assert line.endswith(" --help'.")
    assert message in outcome.err


PROBLEM = Problem("g.yaml", 3, 7, "routes[0].upstream", "'billing' is not defined")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (CannotStart("port 8000 is taken;\nname another"), 2, "gateway: port 8000 is taken; name another\n"),
        (
            StorageUnavailable("database", "refused"),
            2,
            "gateway: the database cannot be used: refused; is storage.database right, and does it run?\n",
        ),
        (Refusal("email_taken"), 1, "gateway: Email already registered\n"),
        (
            Refusal("invalid_fields", fields=[FieldError("email", "is not an address")], detail="Not acceptable"),
            1,
            "gateway: email: is not an address\n",
        ),
        (
            ConfigurationError([PROBLEM]),
            2,
            f"{PROBLEM}\ngateway: the configuration has 1 problem; nothing was done\n",
        ),
        (click.FileError("k.pem", "is a folder"), 2, "gateway: Could not open file 'k.pem': is a folder\n"),
        (KeyboardInterrupt(), 130, "\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_becomes_a_line_and_an_exit_code(
    failing: None, capfd: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    assert fail_with(error) == code
    assert capfd.readouterr() == ("", message)


def test_an_unexpected_error_is_a_line_with_the_way_to_see_more(
    failing: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert fail_with(RuntimeError("token=hunter2")) == 2
    line = one_plain_line(capfd.readouterr().err)
    assert "RuntimeError" in line
    assert "GATEWAY_DEBUG=1" in line
    assert "hunter2" not in line


def test_debugging_shows_the_traceback(
    failing: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_DEBUG", "1")
    assert fail_with(RuntimeError("deep inside")) == 2
    assert "Traceback (most recent call last)" in capfd.readouterr().err


def fail_with(error: BaseException) -> int:
    from gateway.cli import program as module

    @click.command("check")
    def command() -> None:
        raise error

    sys.modules["tests.cli.failing"].command = command  # type: ignore[attr-defined]
    return module.run(["check"])


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces `check` by a command that fails in every way, because no real command does."""
    from types import ModuleType

    from gateway.cli.program import Entry

    monkeypatch.setitem(sys.modules, "tests.cli.failing", ModuleType("tests.cli.failing"))
    monkeypatch.setitem(COMMANDS, "check", Entry("tests.cli.failing", "Fail."))
    monkeypatch.delenv("GATEWAY_DEBUG", raising=False)


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(
            command_line("schema"),
            cwd=tmp_path,
            env=environment(),
            stdout=pipe,
            stderr=subprocess.PIPE,
            timeout=30,
        )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)])
def test_errors_are_red_on_a_terminal_unless_colour_is_unwanted(
    tmp_path: Path, env: dict[str, str], coloured: bool
) -> None:
    assert ("\x1b[31m" in on_a_terminal(["nonsense"], tmp_path, env)) is coloured


def on_a_terminal(arguments: list[str], folder: Path, env: dict[str, str]) -> str:
    """The output of the command on its own terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command_line(*arguments), cwd=folder, env=environment(env), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:  # Linux reports the closed other end of a terminal as an error
            pass
        process.wait(timeout=30)
    os.close(ours)
    return shown.decode()


def test_a_table_in_a_pipe_has_whole_lines_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["EMAIL", "ROLES"], [["a@example.com", "x" * 300], ["[red]b[/red]@example.com", ""]])
    assert capsys.readouterr().out.splitlines() == [
        "EMAIL                     ROLES",
        f"a@example.com             {'x' * 300}",
        "[red]b[/red]@example.com",
    ]


def test_a_table_on_a_narrow_terminal_loses_nothing(tmp_path: Path) -> None:
    tokens = run("keys", "generate", "--kid", "k1", folder=tmp_path).out
    routes = "upstreams: {web: http://127.0.0.1:1}\nroutes: [{path: /**, upstream: web}]\n"
    (tmp_path / "g.yaml").write_text(tokens + routes)
    fingerprint = json.loads(run("keys", "list", "--config", "g.yaml", "--json", folder=tmp_path).out)[0]["fingerprint"]
    screen = on_a_terminal(["keys", "list", "--config", "g.yaml"], tmp_path, {"COLUMNS": "60", "NO_COLOR": "1"})
    assert "…" not in screen
    cells = [line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", screen).splitlines()]
    assert fingerprint in "".join(word for words in cells for word in words if word in fingerprint)
