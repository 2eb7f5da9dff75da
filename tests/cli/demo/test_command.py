"""`gateway demo`: all printed commands work, and nothing is left afterwards."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import psutil
import pytest

from gateway.cli.demo import command
from gateway.errors import CannotStart
from tests.cli.running import environment, one_plain_line, run
from tests.support.launcher import Launched, launch
from tests.support.waiting import eventually


class Demo(NamedTuple):
    """A running demo: its process, its URL, and the printed steps."""

    process: Launched
    url: str
    steps: list[tuple[str, str]]
    folder: Path


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Demo]:
    """A demo whose temporary folder is in `folder`. Ended with SIGTERM unless a test has ended it."""
    reader, writer = os.pipe()
    with (folder / "stderr").open("w") as errors, os.fdopen(reader) as output:
        process = started(folder, *arguments, stdout=writer, stderr=errors.fileno())
        os.close(writer)
        try:
            url, steps = guide(output)
            yield Demo(process, url, steps, folder)
        finally:
            process.send_signal(signal.SIGTERM)
            output.read()
            process.wait(20)


def started(folder: Path, *arguments: str, stdout: int, stderr: int) -> Launched:
    with open(os.devnull, "rb") as null:
        return launch(
            ["-m", "gateway", "demo", *arguments],
            stdin=null.fileno(),
            stdout=stdout,
            stderr=stderr,
            env=environment({"TMPDIR": str(folder)}),
        )


def guide(output: IO[str]) -> tuple[str, list[tuple[str, str]]]:
    """The printed guide, up to its last step."""
    first = output.readline()
    found = re.search(r"listens on (http://127\.0\.0\.1:\d+),", first)
    assert found is not None, first + output.read()
    steps: list[tuple[str, str]] = []
    for line in output:
        if step := re.fullmatch(r"\d+\. (.+)\n", line):
            steps.append((step[1], ""))
        elif line.startswith("   ") and steps:
            steps[-1] = (steps[-1][0], steps[-1][1] + line[3:])
            if "users list" in line:
                break
    return found[1], steps


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running(tmp_path_factory.mktemp("demo"), "--port", "0") as demo:
        yield demo


@pytest.fixture(scope="module")
def answers(demo: Demo) -> dict[str, str]:
    """The output of each step when all are pasted into one shell, one after another."""
    script = "".join(f"{command}\nprintf '\\036'\n" for _, command in demo.steps)
    done = subprocess.run(["bash", "-eu"], input=script, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, re.sub("gateway: database .*\n", "", done.stderr)) == (0, "")
    return dict(zip((shows for shows, _ in demo.steps), done.stdout.split("\x1e"), strict=False))


def answer(answers: dict[str, str], about: str) -> str:
    (found,) = (text for shows, text in answers.items() if about in shows)
    return found


def test_a_public_path_shows_the_request_that_the_upstream_received(answers: dict[str, str]) -> None:
    seen = json.loads(answer(answers, "Everyone can call"))
    assert (seen["method"], seen["path"]) == ("GET", "/public/hello")
    assert "x-user-id" not in seen["headers"]


def test_an_unknown_caller_is_refused(answers: dict[str, str]) -> None:
    text = answer(answers, "this is 401")
    assert text.startswith("HTTP/1.1 401 ")
    assert '"token_missing"' in text


def test_registering_gives_tokens(answers: dict[str, str]) -> None:
    assert json.loads(answer(answers, "Register"))["token_type"] == "bearer"


def test_the_upstream_receives_the_caller_and_no_forged_header(answers: dict[str, str]) -> None:
    seen = json.loads(answer(answers, "forged"))
    assert seen["headers"]["x-user-email"] == "ada@example.com"
    assert seen["headers"]["x-user-roles"] == "user"
    assert "authorization" not in seen["headers"]
    assert seen["query"] == "new"


def test_the_admin_rule_refuses_a_user_and_lets_the_administrator_pass(answers: dict[str, str]) -> None:
    assert answer(answers, "this is 403").startswith("HTTP/1.1 403 ")
    assert json.loads(answer(answers, "administrator"))["headers"]["x-user-roles"] == "admin,user"


def test_the_accounts_are_listed_by_the_command_it_prints(answers: dict[str, str]) -> None:
    emails = [line.split()[0] for line in answer(answers, "The accounts in the database").strip().splitlines()]
    assert emails == ["EMAIL", "ada@example.com", "admin@example.com"]


def test_people_sign_in_with_a_browser_at_the_printed_address(demo: Demo) -> None:
    with urlopen(f"{demo.url}/account/sign-in") as answer:
        assert b"<h1>Sign in</h1>" in answer.read()


def test_mails_land_in_the_printed_folder(demo: Demo) -> None:
    form = urlencode({"email": "grace@example.com", "new_password": "correct horse battery"}).encode()
    urlopen(Request(f"{demo.url}/account/register", form, {"Origin": demo.url})).close()
    [folder] = demo.folder.glob("gateway-demo-*")
    eventually(lambda: any((folder / "mail").glob("*.eml")), timeout=10)


def test_it_listens_on_loopback_only(demo: Demo) -> None:
    process = psutil.Process(demo.process.pid)
    listening = [place for place in process.net_connections() if place.status == psutil.CONN_LISTEN]
    assert {place.laddr.ip for place in listening} == {"127.0.0.1"}
    assert len(listening) == 2
    assert process.children() == []


def test_another_demo_takes_another_port(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(tmp_path_factory.mktemp("one")) as one, running(tmp_path_factory.mktemp("other")) as other:
        ports = [int(demo.url.rpartition(":")[2]) for demo in (one, other)]
        assert ports[0] < ports[1]
        assert all(port in command.PORTS for port in ports)


def test_a_port_that_was_asked_for_is_not_replaced_by_another(demo: Demo, tmp_path: Path) -> None:
    port = demo.url.rpartition(":")[2]
    outcome = run("demo", "--port", port, folder=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert outcome.code == 2
    assert port in one_plain_line(outcome.err)
    assert os.listdir(tmp_path) == []


def test_with_every_port_in_use_it_reports_that(demo: Demo) -> None:
    port = int(demo.url.rpartition(":")[2])
    with pytest.raises(CannotStart, match="--port"):
        command.free_port(range(port, port + 1))


def test_a_signal_before_it_answers_leaves_nothing_either(tmp_path: Path) -> None:
    process = started(tmp_path, "--port", "0", stdout=1, stderr=2)
    eventually(lambda: any(tmp_path.glob("gateway-demo-*")), timeout=20)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_of_it(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, "--port", "0") as demo:
        assert [name for name in os.listdir(tmp_path) if name.startswith("gateway-demo-")]
        demo.process.send_signal(number)
        assert demo.process.wait(timeout=10) == 0
    assert os.listdir(tmp_path) == ["stderr"]
    assert (tmp_path / "stderr").read_text() == ""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(demo.url.rpartition(":")[2])))
