"""What is built, locked and shipped: the wheel, the lock files, the Makefile, the image and what Compose runs of it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import gateway.demo.echo
from gateway.cli.program import program
from gateway.policy.loading import load_configuration
from tests.cli.running import ROOT, environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ["requirements.lock", "requirements-build.lock", "requirements-dev.lock"]


# ---- lock files


def pins(lock: str) -> dict[str, Version]:
    text = (ROOT / lock).read_text()
    return {
        canonicalize_name(n): Version(v) for n, v in re.findall(r"^([\w.-]+)(?:\[\S+\])?==(\S+)", text, re.M)
    }


def requirements(lock: str) -> list[str]:
    runtime: list[str] = PROJECT["project"]["dependencies"]
    groups: dict[str, list[str]] = PROJECT["dependency-groups"]
    return {
        "requirements.lock": runtime,
        "requirements-build.lock": PROJECT["build-system"]["requires"],
        "requirements-dev.lock": runtime + groups["test"] + groups["lint"],
    }[lock]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_what_the_project_asks_for(lock: str) -> None:
    pinned = pins(lock)
    for text in requirements(lock):
        wanted = Requirement(text)
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), text


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes_and_nothing_names_where_it_came_from(lock: str) -> None:
    text = (ROOT / lock).read_text()
    for entry in re.split(r"\n(?=[a-z])", text):
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    assert not re.search(r"://|--index|--find-links|--extra|--trusted|(?<![\w.])/\w", text)


def test_the_tests_run_on_the_versions_that_are_shipped() -> None:
    shipped, tested = pins("requirements.lock"), pins("requirements-dev.lock")
    assert shipped == {name: tested.get(name) for name in shipped}


# ---- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, unpacked: what a user's site-packages would hold."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (archive,) = folder.glob("*.whl")
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_has_all_that_the_package_reads_at_run_time(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "gateway"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    missing = [
        name for name in tracked.stdout.split() if (ROOT / name).exists() and not (wheel / name).exists()
    ]
    assert missing == []
    assert not (wheel / "tests").exists()


def test_an_installed_wheel_runs_without_the_source(wheel: Path, tmp_path: Path) -> None:
    code = "import gateway, gateway.demo.running as r; print(gateway.__file__); print(r.demo_text())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment({"PYTHONPATH": str(wheel)}),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    place, _, text = done.stdout.partition("\n")
    assert Path(place).is_relative_to(wheel)
    assert "routes:" in text


def test_the_demos_configuration_is_the_one_in_the_repository() -> None:
    assert (ROOT / "config/demo.yaml").read_bytes() == (ROOT / "gateway/demo/demo.yaml").read_bytes()


# ---- the Makefile


def make(*arguments: str, folder: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    return subprocess.run(
        ["make", *arguments], cwd=folder, env={**kept, **env}, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that has what the Makefile needs and no environment yet."""
    for name in ["Makefile", "pyproject.toml", *LOCKS]:
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_make_alone_says_what_there_is() -> None:
    done = make()
    assert done.returncode == 0
    for target in ["run", "test", "lint", "bench", "bench-quick"]:
        assert f"make {target}" in done.stdout or f"({target}" in done.stdout, target


def test_too_old_a_python_is_told_plainly(checkout: Path) -> None:
    old = checkout / "old-python"
    # A Python that fails every check, and answers what it is asked for its version with 3.9.
    old.write_text('#!/bin/sh\ncase "$2" in *platform*) echo 3.9.18;; *) exit 1;; esac\n')
    old.chmod(0o755)
    done = make("run", f"PYTHON={old}", folder=checkout)
    assert done.returncode == 2
    assert "is 3.9.18; the gateway needs Python 3.11 or newer" in done.stderr
    assert not (checkout / ".venv").exists()


def test_no_python_at_all_is_told_plainly(checkout: Path) -> None:
    done = make("run", "PYTHON=python-of-nowhere", folder=checkout)
    assert done.returncode == 2
    assert "there is no 'python-of-nowhere' here" in done.stderr


def test_what_is_installed_already_is_not_installed_again(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    for stamp in [".created", ".installed-to-run", ".installed-to-test"]:
        (checkout / ".venv" / stamp).touch()
    planned = make("--dry-run", "test", folder=checkout).stdout
    assert "pytest" in planned
    assert "pip" not in planned
    (checkout / "requirements.lock").touch()
    os.utime(checkout / "requirements.lock", (4e9, 4e9))
    assert "--require-hashes -r requirements.lock" in make("--dry-run", "test", folder=checkout).stdout


def test_the_check_of_a_submission_runs_lint_and_tests() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert re.findall(r"^make .*?(\w+)$", script.read_text(), re.M) == ["lint", "test"]


# ---- the image, and what Compose makes of it


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines) if word]


def last(instruction: str) -> str:
    return [rest for word, rest in dockerfile() if word == instruction][-1]


def test_the_image_is_not_root_and_stops_as_serve_does() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))
    assert last("STOPSIGNAL") == "SIGTERM"
    assert all("--require-hashes" in rest or "--no-index" in rest for rest in pip_installs())


def pip_installs() -> list[str]:
    runs = [part for word, rest in dockerfile() if word == "RUN" for part in rest.split("&&")]
    return [part for part in runs if " install " in part and "pip" in part]


def test_the_image_is_built_from_files_that_its_context_has() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    copied = [rest.split()[:-1] for word, rest in dockerfile() if word == "COPY" and "--from" not in rest]
    assert "*" in ignored
    assert sorted(allowed) == sorted(name for names in copied for name in names)
    assert all((ROOT / name).exists() for name in allowed)


def test_the_image_runs_a_command_there_is() -> None:
    assert json.loads(last("ENTRYPOINT")) == ["gateway"]
    assert_runs(json.loads(last("CMD")))


def assert_runs(arguments: list[str]) -> None:
    """The command and its options exist; nothing is run."""
    command: click.Command = program
    rest = [str(argument) for argument in arguments]
    while isinstance(command, click.Group):
        child = command.get_command(click.Context(command), rest.pop(0))
        assert child is not None, arguments
        command = child
    command.make_context(command.name, rest).close()


def test_the_health_check_asks_what_the_gateway_serves() -> None:
    check = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    assert check[0] == "python"
    compile(check[2], "HEALTHCHECK", "exec")
    assert "GATEWAY_HEALTH_URL=http://127.0.0.1:8000/_gateway/health" in last("ENV")


def compose() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert isinstance(document, dict)
    return document


def test_every_service_of_ours_runs_a_command_there_is() -> None:
    services = compose()["services"]
    ours = {name: service for name, service in services.items() if "build" in service}
    assert set(ours) == {"gateway", "keys", "migrate", "echo"}
    for name, service in ours.items():
        if name == "echo":
            assert service["entrypoint"] == ["python", "-m", gateway.demo.echo.__name__]
            gateway.demo.echo.main.make_context("echo", list(service["command"])).close()
        else:
            assert_runs(service["command"])


def test_services_wait_for_what_they_need() -> None:
    services = compose()["services"]
    for name, service in services.items():
        for other, wait in service.get("depends_on", {}).items():
            needed = services[other]
            if wait["condition"] == "service_completed_successfully":
                assert needed.get("restart") is None, (name, other)
            else:
                assert wait["condition"] == "service_healthy"
                assert "healthcheck" in needed or "build" in needed, (name, other)
    assert set(services["gateway"]["depends_on"]) == {"keys", "migrate", "valkey", "echo"}


def test_only_the_gateway_is_reached_from_outside_and_only_from_this_machine() -> None:
    published = {
        name: service["ports"] for name, service in compose()["services"].items() if "ports" in service
    }
    assert published == {"gateway": ["127.0.0.1:8000:8000"]}


def test_services_of_ours_may_do_nothing_that_they_need_not() -> None:
    for service in compose()["services"].values():
        if "build" in service:
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_configuration_for_compose_is_good_with_the_environment_compose_gives(tmp_path: Path) -> None:
    services = compose()["services"]
    given = services["gateway"]["environment"]
    mounted = dict(reversed(volume.split(":")[:2]) for volume in services["gateway"]["volumes"])
    folder, file = os.path.split(given["GATEWAY_CONFIG"])
    key = services["keys"]["command"][-1]
    assert (ROOT / mounted[folder] / file).samefile(ROOT / "config/compose.yaml")
    assert mounted[os.path.dirname(key)] == "keys"

    text = (ROOT / "config/compose.yaml").read_text()
    assert f"${{file:{key}}}" in text
    assert subprocess.run(
        [sys.executable, "-m", "gateway", "keys", "generate", "--out", "k1.pem"],
        cwd=tmp_path, env=environment(), capture_output=True, timeout=30, check=True,
    )  # fmt: skip
    (tmp_path / "compose.yaml").write_text(text.replace(key, str(tmp_path / "k1.pem")))
    loaded = load_configuration(
        tmp_path / "compose.yaml", {n: re.sub(r"\$\{\w+:-(\w+)\}", r"\1", v) for n, v in given.items()}
    )
    assert loaded.settings.server.host == "0.0.0.0"
    assert loaded.warnings == ()
