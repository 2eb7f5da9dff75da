"""Checks that each lock file is complete: `python -m tests.installation.lock_files LOCK…`.

pip installs the locks with `--no-deps`, because some releases of pip resolve a requirement with an extra to the newest
release on the index even where the lock pins an older one. A requirement that a lock lacks is then missing at run
time. The check therefore walks the requirements of every pin, with extras and markers, for every supported Python and
platform. It reads them from the installed packages, without the network.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import NamedTuple, cast

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hatch_build import COMPILER

ROOT = Path(__file__).resolve().parents[2]
# Some markers ask for the patch release: redis needs async-timeout before 3.11.3.
PYTHONS = ["3.11.0", "3.11.3", "3.12.0", "3.13.0", "3.14.0"]
PLATFORMS = [("linux", "Linux"), ("darwin", "Darwin")]
# The tests read the cases of the Autobahn Testsuite only. Its dependencies are for Python 2.
WITHOUT_DEPENDENCIES = {"autobahntestsuite"}
FOREIGN = re.compile(r"://|^\s*-(?!-hash)|(?<![\w.])/\w", re.MULTILINE)


class Pin(NamedTuple):
    requirement: Requirement
    hashes: int

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        (specifier,) = self.requirement.specifier
        return specifier.version


def pins(text: str) -> list[Pin]:
    """The entries of a lock file, in the order of the file."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    entries = [line.partition("--hash") for line in lines if line.strip() and not line.lstrip().startswith("-")]
    return [Pin(Requirement(left), (mark + right).count("--hash=sha256:")) for left, mark, right in entries]


def required(lock: str, root: Path = ROOT) -> list[Requirement]:
    """The requirements that `make lock` resolves into `lock`."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    runtime: list[str] = project["project"]["dependencies"]
    tracing: list[str] = project["project"].get("optional-dependencies", {}).get("tracing", [])
    groups: dict[str, list[str]] = project.get("dependency-groups", {})
    texts = {
        "requirements.lock": runtime,
        "requirements-build.lock": [*project["build-system"]["requires"], "editables", *COMPILER],
        "requirements-dev.lock": [
            *runtime,
            *tracing,
            *(text for name in ("test", "lint", "docs") for text in groups.get(name, [])),
        ],
        "requirements-autobahn.lock": sorted(WITHOUT_DEPENDENCIES),
        "requirements-bench.lock": [*runtime, *tracing, *groups.get("test", []), *groups.get("bench", [])],
    }[lock]
    return [Requirement(text) for text in texts]


def environments() -> Iterator[dict[str, str]]:
    """The marker variables of every supported Python on every supported platform."""
    here = cast("dict[str, str]", default_environment())
    for full in PYTHONS:
        for platform, system in PLATFORMS:
            version = ".".join(full.split(".")[:2])
            names = {"sys_platform": platform, "platform_system": system, "os_name": "posix"}
            yield here | names | {"python_full_version": full, "python_version": version}


def applies(requirement: Requirement, environment: dict[str, str], extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment | {"extra": extra})


class Release(NamedTuple):
    version: str
    requires: list[Requirement]


@cache  # each pin is looked up for ten environments
def installed(name: str) -> Release | None:
    try:
        found = Distribution.from_name(name)
    except PackageNotFoundError:
        return None
    return Release(found.version, [Requirement(text) for text in found.requires or []])


def requirements_of(pin: Pin, extras: Iterable[str], environment: dict[str, str]) -> list[Requirement]:
    found = installed(pin.name)
    if found is None or found.version != pin.version or pin.name in WITHOUT_DEPENDENCIES:
        return []
    return [need for need in found.requires if any(applies(need, environment, extra) for extra in ("", *extras))]


def missing(pinned: list[Pin], roots: list[Requirement], environment: dict[str, str]) -> Iterator[str]:
    """The requirements that the pins do not satisfy, followed from `roots`."""
    chosen = {pin.name: pin for pin in pinned if applies(pin.requirement, environment)}
    waiting = [("pyproject.toml", need) for need in roots if applies(need, environment)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        origin, need = waiting.pop()
        pin = chosen.get(canonicalize_name(need.name))
        if pin is None or not need.specifier.contains(pin.version, prereleases=True):
            found = "nothing" if pin is None else f"{pin.name}=={pin.version}"
            where = f"Python {environment['python_full_version']} on {environment['sys_platform']}"
            yield f"{origin} requires '{need}' and the lock has {found} (for {where})"
            continue
        # The empty name stands for the package without an extra.
        fresh = {(pin.name, extra) for extra in ("", *need.extras)} - seen
        if fresh:
            seen |= fresh
            needs = requirements_of(pin, need.extras, environment)
            waiting += [(f"{pin.name}=={pin.version}", further) for further in needs]


def unreadable(pinned: list[Pin]) -> Iterator[str]:
    """Pins whose requirements this environment does not show, although it should have them installed."""
    here = cast("dict[str, str]", default_environment())
    for pin in pinned:
        found = installed(pin.name)
        if applies(pin.requirement, here) and (found is None or found.version != pin.version):
            version = "nothing" if found is None else found.version
            yield f"{pin.name}=={pin.version} is locked and {version} is installed here (install the lock)"


def form_problems(text: str) -> Iterator[str]:
    """Entries without a hash, and everything that ties the lock to an index or a machine."""
    yield from (f"{pin.requirement} has no sha256 hash" for pin in pins(text) if not pin.hashes)
    yield from (f"'{match.group().strip()}…' names an index, an option or a file" for match in FOREIGN.finditer(text))


def problems(lock: Path) -> list[str]:
    text = lock.read_text()
    pinned = pins(text)
    found = [*form_problems(text), *unreadable(pinned)]
    for environment in environments():
        found += missing(pinned, required(lock.name, lock.parent), environment)
    return [f"{lock.name}: {problem}" for problem in dict.fromkeys(found)]


def main(locks: list[str]) -> int:
    found = [problem for lock in locks for problem in problems(ROOT / lock)]
    print("\n".join(found) if found else f"The lock files are complete: {', '.join(locks)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
