"""Build, locks and distribution: the lock files, the wheel, the Makefile."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.cli.running import ROOT, environment
from tests.installation.lock_files import pins

LOCKS = [
    "requirements.lock",
    "requirements-build.lock",
    "requirements-dev.lock",
    "requirements-autobahn.lock",
    "requirements-bench.lock",
]
PIP_LOCKS = ["tests/installation/oldest-pip.lock", "tests/installation/newest-pip.lock"]


# ---- lock files


def versions(lock: str) -> dict[str, str]:
    return {pin.name: pin.version for pin in pins((ROOT / lock).read_text())}


@pytest.mark.parametrize("lock", ["requirements-dev.lock", "requirements-bench.lock"])
def test_the_tested_versions_are_the_shipped_ones(lock: str) -> None:
    shipped, used = versions("requirements.lock"), versions(lock)
    assert shipped == {name: used.get(name) for name in shipped}


# ---- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, unpacked as in a user's site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (archive,) = folder.glob("*.whl")
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_has_all_that_the_package_reads_at_run_time(wheel: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "gateway"], cwd=ROOT, capture_output=True, text=True, check=True)
    missing = [name for name in tracked.stdout.split() if (ROOT / name).exists() and not (wheel / name).exists()]
    assert missing == []
    assert not (wheel / "tests").exists()


def test_an_installed_wheel_runs_without_the_source(wheel: Path, tmp_path: Path) -> None:
    code = "import gateway, gateway.cli.demo.command as f; print(gateway.__file__); print(f.demo_text())"
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


def test_pip_installs_a_command_from_the_tree(tmp_path: Path) -> None:
    """As docs/installation.md says. The dependencies are those of this environment."""
    venv.create(tmp_path / "venv", system_site_packages=True, symlinks=True)
    pip = [
        *[sys.executable, "-m", "pip", "--python", str(tmp_path / "venv/bin/python")],
        "install",
        "--no-compile",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-q",
        str(ROOT),
    ]
    path = os.pathsep.join(sys.path[1:])
    subprocess.run(pip, check=True, capture_output=True, timeout=60, env=environment({"PYTHONPATH": path}))
    shown = subprocess.run([tmp_path / "venv/bin/gateway", "--version"], capture_output=True, text=True, timeout=30)
    assert shown.stdout.startswith("gateway, version")


def test_the_demos_configuration_is_the_one_in_the_repository() -> None:
    assert (ROOT / "config/demo.yaml").read_bytes() == (ROOT / "gateway/cli/demo/demo.yaml").read_bytes()


# ---- the Makefile


def make(*arguments: str, folder: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env={**kept, **env}, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the files that the Makefile needs, without an environment."""
    (tmp_path / "tests/installation").mkdir(parents=True)
    for name in ["Makefile", "pyproject.toml", *LOCKS, *PIP_LOCKS]:
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_make_alone_lists_the_targets() -> None:
    done = make()
    assert done.returncode == 0
    for target in ["run", "test", "lint", "bench", "bench-quick"]:
        assert f"make {target}" in done.stdout or f"({target}" in done.stdout, target


def test_an_old_python_is_reported_clearly(checkout: Path) -> None:
    old = checkout / "old-python"
    # A Python that fails every check, and reports version 3.9.
    old.write_text('#!/bin/sh\ncase "$2" in *platform*) echo 3.9.18;; *) exit 1;; esac\n')
    old.chmod(0o755)
    done = make("run", f"PYTHON={old}", folder=checkout)
    assert done.returncode == 2
    assert "is 3.9.18; the gateway requires Python 3.11 or newer" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_missing_python_is_reported_clearly(checkout: Path) -> None:
    done = make("run", "PYTHON=python-of-nowhere", folder=checkout)
    assert done.returncode == 2
    assert "'python-of-nowhere' not found" in done.stderr


def test_an_installed_environment_is_not_installed_again(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    for stamp in [".created", ".installed-to-run", ".installed-to-test"]:
        (checkout / ".venv" / stamp).touch()
    planned = make("--dry-run", "test", folder=checkout).stdout
    assert "pytest" in planned
    assert "pip" not in planned
    (checkout / "requirements.lock").touch()
    os.utime(checkout / "requirements.lock", (4e9, 4e9))
    assert "--require-hashes --no-deps -r requirements.lock" in make("--dry-run", "test", folder=checkout).stdout


@pytest.mark.parametrize(
    ("build", "code", "tested", "error"),
    [
        ("interpreted", 0, ["-m pytest"], ""),
        ("native", 2, [], "make: the checkout is compiled, and the suite tests the source: make interpreted, "),
    ],
)
def test_the_suite_starts_on_the_source_only(
    checkout: Path, build: str, code: int, tested: list[str], error: str
) -> None:
    script(checkout / ".venv/bin/gateway", f"echo 'gateway, version 1 ({build})'")
    script(checkout / ".venv/bin/python", 'echo "$1 $2" >>started')
    for stamp in [".created", ".installed-to-run", ".installed-to-test"]:
        (checkout / ".venv" / stamp).touch()
    done = make("test", folder=checkout)
    started = checkout / "started"
    assert (done.returncode, started.read_text().splitlines() if started.exists() else []) == (code, tested)
    assert done.stderr.startswith(error)


@pytest.mark.parametrize(
    ("compiler", "targets"),
    [
        (sys.executable, ["lint", "test-native", "test"]),
        ("/nonexistent/cc", ["lint", "test"]),
    ],
)
def test_the_check_of_a_submission_tests_both_builds_where_a_compiler_is_installed(
    tmp_path: Path, compiler: str, targets: list[str]
) -> None:
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists() and "test-native" in targets:
        pytest.skip("the headers of Python are not installed")
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    shutil.copy(ROOT / "hatch_build.py", tmp_path)
    script(tmp_path / ".venv/bin/python", f'exec {sys.executable} "$@"')
    script(tmp_path / "programs/make", 'echo "$2" >>made')
    path = f"{tmp_path}/programs:/usr/bin:/bin"
    done = subprocess.run(
        [tmp_path / ".ci/run"], capture_output=True, text=True, env={"PATH": path, "CC": compiler}, check=True
    )
    made = (tmp_path / "made").read_text().splitlines()
    compiled = ["native-copy"] if "test-native" in targets else []  # beside the lint
    assert sorted(made) == sorted([".venv/.installed-to-test", *compiled, *targets])
    assert [target for target in made if target in targets] == targets
    assert ("requires the C compiler" in done.stdout) == ("test-native" not in targets)


def script(path: Path, command: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
