"""Run the command line like a user: in its own process, in its own folder."""

import io
import os
import pty
import re
import select
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from gateway.cli import program
from tests.support import launcher

_DATABASE = re.compile(r"^gateway: database (.*)\n", re.MULTILINE)
ROOT = Path(__file__).resolve().parents[2]


class _Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Outcome(_Outcome):
    """The exit code and output of a command. `database` is the database named on standard error; `err` is the rest."""

    database = ""


def outcome(code: int, out: str, err: str) -> Outcome:
    named = _DATABASE.search(err)
    ended = Outcome(code, out, _DATABASE.sub("", err))
    ended.database = named[1] if named is not None else ""
    return ended


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of this process without GATEWAY_ variables, and with `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    kept.pop("NO_COLOR", None)
    return {**kept, "PYTHONPATH": str(ROOT), **(extra or {})}


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gateway", *arguments]


def run(
    *arguments: str,
    folder: Path,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout: float = 30,
) -> Outcome:
    """Run `gateway ARGUMENTS` in `folder` to its end."""
    done = launcher.run(["-m", "gateway", *arguments], cwd=folder, env=environment(env), input=stdin, timeout=timeout)
    return outcome(done.returncode, done.stdout, done.stderr)


def run_here(*arguments: str, folder: Path, stdin: str = "") -> Outcome:
    """Run a command in this process, which saves the startup of an interpreter."""
    out, err = io.StringIO(), io.StringIO()
    with ExitStack() as stack:
        stack.enter_context(chdir(folder))
        stack.enter_context(mock.patch.dict(os.environ, environment(), clear=True))
        stack.enter_context(mock.patch.object(sys, "stdin", io.StringIO(stdin)))
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        code = program.run(arguments)
    return outcome(code, out.getvalue(), err.getvalue())


def typed(folder: Path, arguments: list[str], answers: list[str]) -> str:
    """The terminal output when each prompt of `gateway ARGUMENTS` is answered."""
    ours, theirs = pty.openpty()
    process = launcher.launch(
        ["-m", "gateway", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(), cwd=folder
    )
    os.close(theirs)
    screen, deadline, left = "", time.monotonic() + 30, list(answers)
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 1)[0]:
            continue
        try:
            screen += os.read(ours, 4096).decode()
        except OSError:  # Linux reports the closed other end of a terminal as an error
            break
        if left and re.search(r"(: |\? )$", screen):
            os.write(ours, left.pop(0).encode() + b"\n")
            screen += "\n"
    process.wait(30)
    os.close(ours)
    assert not left, screen
    return screen


def one_plain_line(text: str) -> str:
    """The only line of an error message. It must be a message of the gateway, not a traceback."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("gateway: "), text
    assert "Traceback" not in text
    assert "\x1b" not in text
    return lines[0]
