"""The lock files are complete, and everything that installs installs them without resolving."""

import json
import re
import subprocess

import pytest
import yaml

from tests.installation.lock_files import ROOT, environments, form_problems, missing, pins, required, unreadable

# Pages and examples that install into an environment of the user.
FOR_USERS = ("docs/installation.md", "docs/mail.md", "docs/start/", "examples/")
LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))


def incomplete(lock: str, text: str) -> list[str]:
    pinned = pins(text)
    roots = required(lock)
    return [problem for environment in environments() for problem in missing(pinned, roots, environment)]


def without(text: str, name: str) -> str:
    """The lock without the entry of a package."""
    shorter = re.sub(rf"^{name}==.*?\n(?=[a-z])", "", text, flags=re.MULTILINE | re.DOTALL)
    assert shorter != text
    return shorter


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_complete_and_names_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert list(form_problems(text)) == []
    assert incomplete(lock, text) == []


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-build.lock", "requirements-dev.lock"])
def test_the_installed_releases_are_the_locked_ones(lock: str) -> None:
    assert list(unreadable(pins((ROOT / lock).read_text()))) == []


@pytest.mark.parametrize(
    ("lock", "package", "reported"),
    [
        ("requirements.lock", "starlette", "pyproject.toml requires 'starlette"),
        ("requirements.lock", "anyio", "requires 'anyio"),
        ("requirements.lock", "hiredis", "requires 'hiredis"),  # by the extra of redis[hiredis]
        ("requirements.lock", "greenlet", "requires 'greenlet"),  # by the extra of sqlalchemy[asyncio]
        ("requirements.lock", "async-timeout", "for Python 3.11.0 on linux"),  # on Pythons other than this one
        ("requirements-dev.lock", "execnet", "requires 'execnet"),
        ("requirements-dev.lock", "coverage", "requires 'coverage"),
        ("requirements-build.lock", "pathspec", "requires 'pathspec"),
        ("requirements-build.lock", "mypy", "requires 'mypy"),
    ],
)
def test_an_absent_pin_is_reported(lock: str, package: str, reported: str) -> None:
    found = incomplete(lock, without((ROOT / lock).read_text(), package))
    assert any(reported in problem for problem in found), found


def test_a_pin_that_is_too_old_is_reported() -> None:
    text = re.sub(r"^h11==\S+", "h11==0.9.0", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    assert any("has h11==0.9.0" in problem for problem in incomplete("requirements.lock", text))


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("h11==0.16.0\n", "has no sha256 hash"),
        ("h11==0.16.0 \\\n    --hash=md5:aa\n", "has no sha256 hash"),
        ("--index-url https://index.example/simple\n", "names an index"),
        ("    --find-links wheels\n", "names an index"),
        ("h11 @ https://index.example/h11.whl\n", "names an index"),
        ("# made from /home/ada/project\n", "names an index"),
    ],
)
def test_an_entry_that_depends_on_the_day_or_the_machine_is_reported(text: str, reported: str) -> None:
    assert any(reported in problem for problem in form_problems(text))


# ---- everything that installs


def tracked_text() -> list[tuple[str, str]]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.split() if not name.startswith("tests/")]
    kept = [path for path in paths if path.suffix not in {".png", ".svg", ".lock", ".ico"} and path.is_file()]
    return [(str(path.relative_to(ROOT)), path.read_text(errors="replace").replace("\\\n", " ")) for path in kept]


def commands(pattern: str) -> list[tuple[str, str]]:
    """Where a shell command that matches stands, up to the next `&&` or `;`."""
    shape = re.compile(rf"{pattern}[^\n&;`]*")
    return [(name, found.group()) for name, text in tracked_text() for found in shape.finditer(text)]


def test_every_installation_from_an_index_uses_a_lock_and_does_not_resolve() -> None:
    found = commands(r"(pip\)?|\$\(PIP\)) (install|download) ")
    assert {name for name, _ in found} >= {"Makefile", "Dockerfile", "docs/deployment/machine.md"}
    for name, command in found:
        # Hints for a user's own environment.
        if "asgi-gateway[tracing]" in command or name.startswith(FOR_USERS):
            continue
        assert "--no-deps" in command, f"{name}: {command}"
        if "--require-hashes" not in command:
            assert "--no-index" in command or "--no-build-isolation" in command, f"{name}: {command}"


def test_the_packages_of_node_are_locked_with_hashes_and_without_an_index() -> None:
    packages = json.loads((ROOT / "bench/peers/fastify_app/package-lock.json").read_text())["packages"]
    assert len(packages) > 10
    for name, entry in packages.items():
        assert "resolved" not in entry, name
        assert name == "" or entry["integrity"].startswith("sha512-"), name


def test_nothing_upgrades_or_installs_a_program_of_the_day() -> None:
    """CI alone installs Debian's servers, of the release of its runner. Tests skip them where they are missing."""
    found = commands(r"(npx |npm install|apt-get (-\S+ )*(install|upgrade)|pip install (-\S+ )*(-U|--upgrade))")
    assert [command for name, command in found if not name.startswith((*FOR_USERS, ".github/workflows/ci.yml"))] == []


def images() -> list[str]:
    built = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return [*built, *(service["image"] for service in services.values() if "image" in service)]


def test_every_image_names_its_release_and_that_of_its_system() -> None:
    assert images()
    for image in images():
        assert re.fullmatch(r"[\w/]+:\d+(\.\d+)*-((slim-)?trixie|alpine[\d.]*)", image), image
    text = (ROOT / "Dockerfile").read_text()
    assert not text.startswith("# syntax="), "a syntax line fetches the newest parser of Dockerfiles"
