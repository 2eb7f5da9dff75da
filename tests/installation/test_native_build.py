"""A wheel contains compiled modules only on demand, and a build that cannot compile fails.

The real build hook of the checkout compiles a small package of the same name.
"""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hatch_build import GROUP, sources
from tests.support.privileges import unprivileged

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "small"
version = "1"
requires-python = ">=3.11"

[tool.hatch.build.targets.wheel]
packages = ["gateway"]
exclude = ["*.so"]

[tool.hatch.build.targets.wheel.hooks.custom]
path = "hatch_build.py"

[tool.hatch.build.targets.wheel.hooks.custom.modules]
"gateway" = ["errors"]
"""
MODULE = "class Fault(Exception):\n    code = 7\n\n\ndef doubled(number: int) -> int:\n    return 2 * number\n"
# A compiled module names the type of one that stays interpreted, whose library is in an extra.
EXTRA = "import library_of_an_extra\n\n\nclass Tracer(library_of_an_extra.Tracer):\n    pass\n"
WITH_EXTRA = (
    "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from gateway.tracing import Tracer\n\n\n"
    f"{MODULE}\n\ndef traced(tracer: 'Tracer | None') -> bool:\n    return tracer is not None\n"
)
# mypyc compiles no class that inherits from list.
NOT_COMPILABLE = "class Fields(list[int]):\n    pass\n"

needs_a_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


class Checkout:
    """A small project with the build hook of the gateway."""

    def __init__(self, folder: Path, module: str = MODULE) -> None:
        self.folder = folder
        (folder / "gateway").mkdir(parents=True)
        (folder / "gateway/__init__.py").write_bytes((ROOT / "gateway/__init__.py").read_bytes())
        (folder / "gateway/errors.py").write_text(module)
        (folder / "pyproject.toml").write_text(PYPROJECT)
        shutil.copy(ROOT / "hatch_build.py", folder)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_in(self.folder, *arguments, **environment)

    def build_wheel(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "hatchling", "build", "-t", "wheel", **environment)

    def wheel(self) -> Path:
        (path,) = (self.folder / "dist").glob("*.whl")
        return path

    def build_of_installed(self) -> str:
        return build_of(self.folder)


def run_in(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python there, without the settings of builds and of this suite."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GATEWAY_NATIVE", "PYTHONPATH")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env={**kept, **environment}, capture_output=True, text=True, timeout=100)


def outdated_in(folder: Path) -> str:
    """The files of the package in the folder that changed after their compilation."""
    done = run_in(folder, "-c", "import gateway; print(*gateway.outdated())")
    return done.stdout or done.stderr


def build_of(folder: Path) -> str:
    """The build that the package in the folder names, and a result of its module."""
    done = run_in(folder, "-c", "import gateway, gateway.errors; print(gateway.build(), gateway.errors.doubled(21))")
    return done.stdout or done.stderr


def files_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_every_module_to_compile_exists() -> None:
    files = sources()
    assert len(files) > 50
    assert [path for path in files if not (ROOT / path).is_file()] == []
    assert len(set(files)) == len(files)


def test_a_wheel_is_pure_without_the_variable_and_omits_files_of_the_checkout(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    (checkout.folder / "gateway/errors.cpython-399-x86_64-linux-gnu.so").write_bytes(b"from another build")
    done = checkout.build_wheel()
    assert done.returncode == 0, done.stderr
    assert checkout.wheel().name.endswith("-py3-none-any.whl")
    assert [name for name in files_in(checkout.wheel()) if name.endswith(".so")] == []


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A checkout whose wheel was compiled."""
    checkout = Checkout(tmp_path_factory.mktemp("compiled"), WITH_EXTRA)
    (checkout.folder / "gateway/tracing.py").write_text(EXTRA)
    done = checkout.build_wheel(GATEWAY_NATIVE="1", GATEWAY_NATIVE_OPTIMIZE="0")
    assert done.returncode == 0, done.stdout + done.stderr
    yield checkout


@needs_a_compiler
def test_a_wheel_with_the_variable_contains_compiled_modules_beside_their_source(compiled: Checkout) -> None:
    assert not compiled.wheel().name.endswith("-none-any.whl")
    names = files_in(compiled.wheel())
    assert "gateway/errors.py" in names
    assert len([name for name in names if name.startswith("gateway/errors.") and name.endswith(".so")]) == 1
    assert len([name for name in names if name.startswith(f"{GROUP}__mypyc.")]) == 1


@needs_a_compiler
def test_a_wheel_is_compiled_without_the_libraries_of_an_extra(compiled: Checkout) -> None:
    done = compiled.run("-c", "import gateway.tracing")
    assert "No module named 'library_of_an_extra'" in done.stderr
    assert "gateway/tracing.py" in files_in(compiled.wheel())


@needs_a_compiler
def test_an_installed_build_reports_its_kind(compiled: Checkout, tmp_path: Path) -> None:
    installed = Checkout(tmp_path)
    assert installed.build_of_installed() == "interpreted 42\n"
    with zipfile.ZipFile(compiled.wheel()) as archive:
        archive.extractall(installed.folder)
    assert installed.build_of_installed() == "native 42\n"
    assert installed.run("hatch_build.py", "--remove").returncode == 0
    assert installed.build_of_installed() == "interpreted 42\n"


@needs_a_compiler
def test_sources_that_changed_after_the_compilation_are_named_in_a_checkout_only(
    compiled: Checkout, tmp_path: Path
) -> None:
    checkout = Checkout(tmp_path)
    source = checkout.folder / "gateway/errors.py"
    os.utime(source, (4e9, 4e9))
    assert outdated_in(checkout.folder) == "\n", "without compiled modules the source runs"
    with zipfile.ZipFile(compiled.wheel()) as archive:
        archive.extractall(checkout.folder)
    os.utime(source, (1e9, 1e9))
    assert outdated_in(checkout.folder) == "\n"
    os.utime(source, (4e9, 4e9))
    (checkout.folder / "gateway/errors.cpython-399-x86_64-linux-gnu.so").write_bytes(b"for another Python")
    assert outdated_in(checkout.folder) == "gateway/errors.py\n"
    (checkout.folder / "hatch_build.py").unlink()
    assert outdated_in(checkout.folder) == "\n", "an installation writes its files in any order"


@needs_a_compiler
@pytest.mark.parametrize(
    ("module", "environment", "reported"),
    [
        (NOT_COMPILABLE, {"GATEWAY_NATIVE": "1"}, "Inheriting from most builtin types"),
        ("def number() -> int:\n    return ''\n", {"GATEWAY_NATIVE": "1"}, "Incompatible return value type"),
        (MODULE, {"GATEWAY_NATIVE": "1", "CC": "/nonexistent/cc"}, "/nonexistent/cc"),
        (MODULE, {"GATEWAY_NATIVE": "1", "CC": "false"}, "the C compiler false failed; its own messages are above"),
        (MODULE, {"GATEWAY_NATIVE": "yes"}, "GATEWAY_NATIVE is 'yes'"),
    ],
    ids=["not compilable", "a type error", "no compiler", "a compiler that fails", "another value"],
)
def test_a_build_that_cannot_compile_fails_and_makes_no_wheel(
    tmp_path: Path, module: str, environment: dict[str, str], reported: str
) -> None:
    checkout = Checkout(tmp_path, module)
    done = checkout.build_wheel(**environment)
    assert done.returncode != 0
    assert reported in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert list(checkout.folder.glob("dist/*.whl")) == []


def test_a_folder_that_is_not_writable_is_named_before_the_compilation(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    folder = checkout.folder / "gateway"
    folder.chmod(0o555)
    command = [*unprivileged(), sys.executable, "hatch_build.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert (done.stdout, done.stderr) == ("", f"the folder {folder} is not writable\n")


@needs_a_compiler
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_the_checkout_as_it_was_and_no_temporary_files(
    tmp_path: Path, number: signal.Signals
) -> None:
    checkout = Checkout(tmp_path / "checkout")
    (tmp_path / "temporary").mkdir()
    before = sorted(tmp_path.rglob("*"))
    building = subprocess.Popen(
        [sys.executable, "hatch_build.py"],
        cwd=checkout.folder,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert building.stdout is not None
    assert building.stdout.readline().startswith("Compiling 1 modules")
    building.send_signal(number)
    _, errors = building.communicate(timeout=100)
    assert (building.returncode, errors) == (1, "interrupted\n")
    assert sorted(tmp_path.rglob("*")) == before


@needs_a_compiler
def test_a_copy_is_compiled_once_for_the_same_source_and_gets_new_tests_each_time(tmp_path: Path) -> None:
    checkout, copy = Checkout(tmp_path / "checkout"), tmp_path / "build" / "native"
    (checkout.folder / "tests").mkdir()
    (checkout.folder / "tests/test_old.py").touch()

    def compile_copy(**environment: str) -> subprocess.CompletedProcess[str]:
        return checkout.run("hatch_build.py", "--copy", str(copy), GATEWAY_NATIVE_OPTIMIZE="0", **environment)

    done = compile_copy()
    assert done.returncode == 0, done.stdout + done.stderr
    assert build_of(copy) == "native 42\n"
    assert outdated_in(copy) == "\n"
    assert checkout.build_of_installed() == "interpreted 42\n"
    compiled = {path: path.stat().st_mtime_ns for path in copy.rglob("*.so")}
    (checkout.folder / "tests/test_old.py").rename(checkout.folder / "tests/test_new.py")
    assert compile_copy().returncode == 0
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.so")} == compiled
    assert [path.name for path in (copy / "tests").iterdir()] == ["test_new.py"]
    (checkout.folder / "gateway/errors.py").write_text(WITH_EXTRA)
    failed = compile_copy(CC="/nonexistent/cc")
    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr
    assert list(copy.rglob("*.so")) == []


@pytest.mark.parametrize(
    ("environment", "code", "printed"),
    [
        ({"CC": "/nonexistent/cc -O1"}, 1, "the native build requires the C compiler /nonexistent/cc"),
        ({"CC": sys.executable}, 0, "the native build has its tools"),
    ],
)
def test_a_machine_that_cannot_compile_says_what_it_lacks(
    tmp_path: Path, environment: dict[str, str], code: int, printed: str
) -> None:
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists() and code == 0:
        pytest.skip("the headers of Python are not installed")
    done = Checkout(tmp_path).run("hatch_build.py", "--check", **environment)
    assert (done.returncode, done.stdout.strip()) == (code, printed)
