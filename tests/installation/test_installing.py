"""`make` installs the locked releases with every pip that a supported Python brings, while the index has newer ones.

Real pip runs the real Makefile over a small project, offline: the index is a folder that the test fills.
"""

import ensurepip
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.installation.wheels import write_wheel
from tests.support.scale import WHOLE

ROOT = Path(__file__).resolve().parents[2]
OLDEST, NEWEST = "22.3", "26.3"  # 22.3 came with Python 3.11.0; the lock files beside this file hold their hashes
USUAL = OLDEST if sys.version_info < (3, 12) else NEWEST  # pip 22.3 needs pkgutil.ImpImporter
PYPROJECT = """
[build-system]
requires = []
build-backend = "wheels"
backend-path = ["."]

[project]
name = "service"
version = "0.1"
"""


def pip_wheel(version: str) -> Path:
    """The wheel that the Makefile downloaded, or the one that this Python brings for the version "bundled"."""
    if version == "bundled":
        return next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    wheel = Path(sys.prefix) / "pips" / f"pip-{version}-py3-none-any.whl"
    if not wheel.exists():
        pytest.skip(f"pip {version} is not in {wheel.parent}: `make test` downloads it")
    return wheel


class Index:
    """A static package index (PEP 503) in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hashes: dict[tuple[str, str], str] = {}

    @property
    def url(self) -> str:
        return self.folder.as_uri()

    def add(self, name: str, version: str, requires: Sequence[str] = (), **extras: str) -> None:
        page = self.page(name)
        self.publish(page, name, version, write_wheel(page, name, version, requires, extras))

    def add_pip(self, version: str) -> None:
        page = self.page("pip")
        self.publish(page, "pip", version, Path(shutil.copy(pip_wheel(version), page)))

    def page(self, name: str) -> Path:
        page = self.folder / name
        page.mkdir(parents=True, exist_ok=True)
        return page

    def publish(self, page: Path, name: str, version: str, wheel: Path) -> None:
        self.hashes[name, version] = hashlib.sha256(wheel.read_bytes()).hexdigest()
        links = "".join(f'<a href="{path.name}">{path.name}</a>\n' for path in sorted(page.glob("*.whl")))
        (page / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")

    def lock(self, *pins: str) -> str:
        """The text of a lock file for pins like `name==1.0`."""
        return "".join(f"{pin} \\\n    --hash=sha256:{self.hashes[split(pin)]}\n" for pin in pins)


def split(pin: str) -> tuple[str, str]:
    name, _, version = pin.partition("==")
    return name, version


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Everything that the lock files pin, and of each library a newer release that needs an absent one."""
    index = Index(tmp_path / "index")
    index.add("framework", "1.0", ["toolkit>=1"], standard="parser[fast]>=1")
    index.add("toolkit", "1.0")
    index.add("parser", "1.0", fast="speedups>=1")
    index.add("speedups", "1.0")
    index.add("builder", "1.0", ["toolkit>=1"])
    index.add("measure", "1.0", toml="reader>=1")
    index.add("reader", "1.0")
    index.add("plugin", "1.0", ["measure[toml]>=0.5"])
    index.add("suite", "1.0", ["absent"])
    for name in ["framework", "toolkit", "parser", "speedups", "builder", "measure", "reader", "plugin"]:
        index.add(name, "2.0", ["absent"], standard="absent", fast="absent", toml="absent")
    for version in (OLDEST, NEWEST):
        index.add_pip(version)
    return index


LOCKS = {
    "requirements.lock": ["framework==1.0", "parser==1.0", "speedups==1.0", "toolkit==1.0"],
    "requirements-build.lock": ["builder==1.0", "toolkit==1.0"],
    "requirements-dev.lock": ["framework==1.0", "measure==1.0", "plugin==1.0", "reader==1.0", "toolkit==1.0"],
    "requirements-autobahn.lock": ["suite==1.0"],
    "tests/installation/oldest-pip.lock": [f"pip=={OLDEST}"],
    "tests/installation/newest-pip.lock": [f"pip=={NEWEST}"],
}


class Checkout:
    """A small project that has the Makefile of the gateway, and an environment with a pip of the test's choice. `pips`
    holds the releases of pip, each with its bytecode after the first run."""

    def __init__(self, folder: Path, index: Index, pips: Path) -> None:
        self.folder, self.index, self.pips = folder, index, pips
        (folder / "tests/installation").mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", folder)
        shutil.copy(Path(__file__).with_name("wheels.py"), folder)
        (folder / "pyproject.toml").write_text(PYPROJECT)
        for name, pins in LOCKS.items():
            (folder / name).write_text(index.lock(*pins))

    def bring_pip(self, version: str) -> None:
        """Make the environment as `python -m venv` does, with the given release of pip."""
        venv.create(self.folder / ".venv", symlinks=True)
        if not (self.pips / version).exists():
            with zipfile.ZipFile(pip_wheel(version)) as archive:
                archive.extractall(self.pips / version)
        for part in (self.pips / version).iterdir():
            (self.site_packages / part.name).symlink_to(part)
        (self.folder / ".venv/.created").touch()

    @property
    def site_packages(self) -> Path:
        (path,) = (self.folder / ".venv/lib").glob("python*/site-packages")
        return path

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        foreign = ("PIP_", "PYTHON", "MAKE", "MFLAGS")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": self.index.url, "PIP_NO_CACHE_DIR": "1"}
        command = ["make", ".venv/.installed-to-test", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env={**kept, **pip}, capture_output=True, text=True, timeout=100
        )

    def installed(self) -> dict[str, str]:
        found = importlib.metadata.distributions(path=[str(self.site_packages)])
        return {one.name: one.version for one in found if one.name != "pip"}


@pytest.fixture(scope="module")
def pips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pips")


@pytest.fixture
def checkout(tmp_path: Path, index: Index, pips: Path) -> Checkout:
    return Checkout(tmp_path / "checkout", index, pips)


# Only the oldest pip has had the fault, and each one takes seconds.
@pytest.mark.parametrize("pip", sorted({USUAL, "bundled", NEWEST}) if WHOLE else [USUAL])
def test_a_newer_release_on_the_index_changes_nothing(checkout: Checkout, pip: str) -> None:
    checkout.bring_pip(pip)
    done = checkout.make()
    assert done.returncode == 0, done.stderr
    pinned = dict(split(pin) for pins in LOCKS.values() for pin in pins if not pin.startswith("pip"))
    assert checkout.installed() == {**pinned, "service": "0.1"}
    assert {path.name for path in (checkout.folder / ".venv/pips").iterdir()} == {
        pip_wheel(OLDEST).name,
        pip_wheel(NEWEST).name,
    }


def test_the_oldest_pip_refuses_to_resolve_the_same_lock(checkout: Checkout) -> None:
    """The reason for `--no-deps`: without it this pip fails here, so the test above can fail."""
    if USUAL != OLDEST:
        pytest.skip("pip 22.3 does not run with Python 3.12")
    checkout.bring_pip(OLDEST)
    done = checkout.make("INSTALL=.venv/bin/python -m pip -qq --disable-pip-version-check install --require-hashes")
    assert done.returncode != 0
    assert "must have their versions pinned" in done.stderr


def test_an_archive_other_than_the_locked_one_is_not_installed(checkout: Checkout) -> None:
    checkout.bring_pip(USUAL)
    checkout.index.add("toolkit", "1.0", ["something-else"])
    done = checkout.make()
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert "toolkit" not in checkout.installed()
