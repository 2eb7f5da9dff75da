"""`gateway init`: its files are valid, and its tests pass."""

from pathlib import Path

import pytest

from tests.cli.running import run_here, typed

WRITTEN = ("gateway.yaml", "policy-tests.yaml")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--closed",),
        ("--upstream", "https://app.example.com:8443"),
        ("--public", "/", "--public", "/static/**", "--public", "/docs/{page}"),
        ("--admin", "/reports/**", "--admin", "/users/{id}/delete"),
        ("--public", "/caf\u00e9/**", "--admin", "/a b: c/**"),
        ("--public", "/health", "--admin", "/**"),
        ("--public", "none", "--admin", "none"),
    ],
)
def test_the_files_pass_check_and_test(tmp_path: Path, options: tuple[str, ...]) -> None:
    made = run_here("init", *options, folder=tmp_path)
    assert made.code == 0, made.err
    checked = run_here("check", "--strict", folder=tmp_path)
    assert checked.code == 0, checked.err
    tested = run_here("test", "policy-tests.yaml", "--min-coverage", "100", folder=tmp_path)
    assert tested.code == 0, tested.out + tested.err


@pytest.mark.parametrize("paths", [("/**", "/admin"), ("/a/**", "/a/x")])
def test_a_warning_of_the_strict_check_is_announced(tmp_path: Path, paths: tuple[str, str]) -> None:
    """The files are right, but an application that ignores case serves `/ADMIN` as `/admin`."""
    made = run_here("init", "--public", paths[0], "--admin", paths[1], folder=tmp_path)
    assert made.code == 0
    assert "The strict check will warn: gateway.yaml:25:11: routes[0].path: takes '" in made.out
    checked = run_here("check", "--strict", folder=tmp_path)
    assert checked.code == 1 and "open-beside-restricted" in checked.out + checked.err
    assert run_here("test", "policy-tests.yaml", "--min-coverage", "100", folder=tmp_path).code == 0


def test_the_printed_commands_name_another_folder(tmp_path: Path) -> None:
    made = run_here("init", "--out", "config", folder=tmp_path)
    assert made.code == 0
    assert "gateway serve --config config/gateway.yaml" in made.out
    assert {file.name for file in (tmp_path / "config").iterdir()} == {*WRITTEN}


def test_existing_files_are_kept_without_force(tmp_path: Path) -> None:
    (tmp_path / "policy-tests.yaml").write_text("mine")
    refused = run_here("init", folder=tmp_path)
    assert refused.code == 2 and "policy-tests.yaml exists already" in refused.err
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]
    assert run_here("init", "--force", folder=tmp_path).code == 0
    assert (tmp_path / "policy-tests.yaml").read_text() != "mine"


@pytest.mark.parametrize(
    ("upstream", "port"),
    [
        ("http://127.0.0.1:8000", 8080),
        ("http://localhost:8000/api", 8080),
        ("http://[::1]:8000", 8080),
        ("http://127.0.0.1:8080", 8000),
        ("http://app:8000", 8000),
        ("unix:/run/app.sock", 8000),
    ],
)
def test_the_gateway_does_not_take_the_port_of_the_application(tmp_path: Path, upstream: str, port: int) -> None:
    made = run_here("init", "--upstream", upstream, folder=tmp_path)
    assert made.code == 0, made.err
    assert f"\n  port: {port}\n" in (tmp_path / "gateway.yaml").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--upstream", "ftp://app"), "upstreams.app must be"),
        (("--public", "admin"), "routes[0].path must"),
        (("--public", "/auth/login"), "routes[0].path"),
        (("--public", "/a", "--admin", "/a"), "/a is for everyone and for administrators only"),
        (("--public", "/a/**", "--admin", "/a/"), "routes[1]"),
    ],
)
def test_invalid_answers_write_nothing(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    refused = run_here("init", *options, folder=tmp_path)
    assert refused.code == 2 and message in refused.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/office", "/office/", "/office/**"])
def test_a_path_for_administrators_includes_everything_below(tmp_path: Path, path: str) -> None:
    assert run_here("init", "--admin", path, folder=tmp_path).code == 0
    for below in ("/office", "/office/accounts", "/office/accounts/7/delete"):
        assert run_here("explain", "GET", below, "--role", "user", folder=tmp_path).code == 1, below
        assert run_here("explain", "GET", below, "--role", "admin", folder=tmp_path).code == 0, below


def test_at_a_terminal_a_wrong_answer_is_asked_again(tmp_path: Path) -> None:
    answers = ["ftp://app", "http://127.0.0.1:9100", "public", "/ /static/**", "/static/**", "/office"]
    screen = typed(tmp_path, ["init"], answers)
    assert "upstreams.app must be" in screen and "routes[0].path must" in screen
    assert "Wrote gateway.yaml" in screen, screen
    written = (tmp_path / "gateway.yaml").read_text()
    assert "http://127.0.0.1:9100" in written and "path: /office/**" in written and "path: /static/**" in written


def test_a_folder_that_cannot_be_written_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = run_here("init", "--out", "file/below", folder=tmp_path)
    assert refused.code == 2 and "file" in refused.err and "choose a writable folder with --out" in refused.err


def test_commands_read_the_written_file_unless_there_is_one_in_config(tmp_path: Path) -> None:
    assert run_here("init", folder=tmp_path).code == 0
    assert "/admin/**" in run_here("matrix", folder=tmp_path).out
    assert run_here("init", "--out", "config", "--admin", "/office/**", folder=tmp_path).code == 0
    assert "/office/**" in run_here("matrix", folder=tmp_path).out


@pytest.mark.parametrize(
    ("shell", "part"), [("bash", "complete -o"), ("zsh", "#compdef gateway"), ("fish", "complete ")]
)
def test_completion_scripts(tmp_path: Path, shell: str, part: str) -> None:
    printed = run_here("completion", shell, folder=tmp_path)
    assert printed.code == 0 and part in printed.out
