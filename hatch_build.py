"""Compile the modules on the way of a request with mypyc: the build hook of hatchling, and a command for a checkout.

A wheel contains compiled modules only with GATEWAY_NATIVE=1 in the environment of its build. A build that cannot
compile ends with an error.

    python hatch_build.py                compile in place; Python prefers an extension module to the source beside it
    python hatch_build.py --remove       remove the extension modules, so that the source runs again
    python hatch_build.py --copy FOLDER  copy the checkout to FOLDER and compile the copy
    python hatch_build.py --check        exit with an error that names the missing tool if this machine cannot compile

GATEWAY_NATIVE_OPTIMIZE is the optimisation level of the C compiler: 2, or 0 for tests, which compiles in half the time.
"""

import argparse
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT: Final = Path(__file__).resolve().parent
VARIABLE: Final = "GATEWAY_NATIVE"
OPTIMIZE: Final = "GATEWAY_NATIVE_OPTIMIZE"
# mypyc, and types of libraries without their own.
COMPILER: Final = ("mypy>=2.4,<3", "setuptools", "types-pyyaml")
GROUP: Final = "gateway"  # One shared library contains all compiled modules. It lies beside the package.


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def sources() -> list[str]:
    """The files to compile, relative to the root: the table `modules` of the hook in pyproject.toml."""
    hook = _project()["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    return [f"{folder}/{name}.py" for folder, names in hook["modules"].items() for name in names]


def compile_into(folder: Path) -> list[Path]:
    """Compile, and return the extension modules below `folder / "lib"`. Exits with an error if that fails."""
    if missing := missing_tool():
        sys.exit(f"the native build requires {missing}")
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.errors import CompileError, LinkError

    os.chdir(ROOT)
    files = sources()
    print(f"Compiling {len(files)} modules, which takes one to three minutes …", flush=True)
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(folder / "cache")]
    # Modules that stay interpreted can import libraries of an extra, which the environment of a build lacks.
    options += ["--follow-imports", "silent"]
    with _without_known_warnings():
        extensions = mypycify(
            [*options, *files],
            group_name=GROUP,
            target_dir=str(folder / "c"),
            multi_file=True,  # One file would need several times the memory and the time of the C compiler.
            opt_level=_optimize(),
            debug_level="0",
        )
    distribution = Distribution({"name": GROUP, "ext_modules": extensions, "cmdclass": {"build_ext": _parallel()}})
    command: Any = distribution.get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "objects")
    try:
        distribution.run_command("build_ext")
    except (CompileError, LinkError):
        sys.exit(f"the C compiler {_compiler()} failed; its own messages are above")
    built = sorted((folder / "lib").rglob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"))
    if len(built) != len(files) + 1:
        sys.exit(f"{len(built)} extension modules were built of {len(files)} sources and their library")
    return built


def missing_tool() -> str | None:
    """The missing part of a C compiler, or None. A compiler without the headers of Python cannot compile either."""
    if shutil.which(_compiler()) is None:
        return f"the C compiler {_compiler()}"
    headers = Path(sysconfig.get_path("include"))
    return None if (headers / "Python.h").exists() else f"the headers of Python in {headers}"


def _compiler() -> str:
    command: str = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    return command.split()[0]


@contextmanager
def _without_known_warnings() -> Iterator[None]:
    """Print the messages of mypyc, except that a generator becomes a list, which is as fast and means the same here."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        known = "warning: Treating generator comprehension as list\n"
        print(*(line for line in printed.getvalue().splitlines(True) if not line.endswith(known)), sep="", end="")


def _optimize() -> str:
    level = os.environ.get(OPTIMIZE, "2")
    if level not in ("0", "1", "2", "3"):
        sys.exit(f"{OPTIMIZE} is {level!r}; it can be 0, 1, 2 or 3")
    return level


def _parallel() -> Any:
    """The command build_ext of setuptools, with one process of the compiler per CPU."""
    from setuptools.command.build_ext import build_ext

    class ParallelBuild(build_ext):  # type: ignore[misc]
        def build_extensions(self) -> None:
            compile_files = self.compiler.compile

            def compile_each(files: list[str], **options: Any) -> list[str]:
                with ThreadPoolExecutor(os.cpu_count()) as threads:
                    return [
                        path
                        for paths in threads.map(lambda file: compile_files([file], **options), files)
                        for path in paths
                    ]

            self.compiler.compile = compile_each
            super().build_extensions()

    return ParallelBuild


class NativeBuildHook(BuildHookInterface[Any]):
    """Adds the extension modules to a wheel."""

    def dependencies(self) -> list[str]:
        """The requirements of this build: mypyc, and the libraries whose types it reads."""
        return [*COMPILER, *_project()["project"].get("dependencies", [])] if _is_wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not _is_wanted():
            return
        if version == "editable":
            sys.exit(f"{VARIABLE}=1 is for wheels; `make native` compiles a checkout")
        self._folder = TemporaryDirectory(prefix="gateway-native-")
        folder = Path(self._folder.name)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for path in compile_into(folder):
            build_data["force_include"][str(path)] = path.relative_to(folder / "lib").as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if _is_wanted():
            self._folder.cleanup()


def _is_wanted() -> bool:
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        sys.exit(f"{VARIABLE} is {value!r}; it can be 0 or 1")
    return value == "1"


def build_in_place() -> None:
    """Compile, and replace the extension modules of the checkout."""
    for target in sorted({ROOT, *((ROOT / source).parent for source in sources())}):
        if not os.access(target, os.W_OK):
            sys.exit(f"the folder {target} is not writable")
    began = time.time()
    with TemporaryDirectory(prefix="gateway-native-") as folder:
        built = compile_into(Path(folder))
        remove()
        for path in built:
            module = ROOT / path.relative_to(Path(folder) / "lib")
            shutil.copy(path, module)
            # A source that changes during the compilation is newer than its module (gateway.outdated).
            os.utime(module, (began, began))
    print(f"Compiled {len(sources())} modules in {ROOT}.")


def remove() -> None:
    """Remove the extension modules of the checkout."""
    for path in [*ROOT.glob(f"{GROUP}__mypyc.*"), *(ROOT / GROUP).rglob("*.so")]:
        path.unlink()


def build_copy(copy: Path) -> None:
    """Copy the checkout and compile the copy. A copy of the same source keeps its extension modules."""
    stamp, digest = copy / ".digest", _digest()
    compiled = stamp.exists() and stamp.read_text() == digest
    if not compiled:
        shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True, exist_ok=True)
    for entry in _entries():
        if not (compiled and entry.name == GROUP):
            _replace(copy / entry.name, entry)
    if not compiled:
        compiling = subprocess.run([sys.executable, str(copy / Path(__file__).name)], check=False)  # noqa: S603
        if compiling.returncode:
            sys.exit(compiling.returncode)
        stamp.write_text(digest)


def _digest() -> str:
    """Identifies the result of a compilation: the package, this file, Python and the options."""
    package = (path for path in (ROOT / GROUP).rglob("*") if path.is_file() and path.suffix not in (".so", ".pyc"))
    read = sorted([*package, ROOT / "pyproject.toml", Path(__file__)])
    digest = hashlib.sha256(f"{sys.version} {_optimize()}".encode())
    for path in read:
        digest.update(f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _entries() -> Iterator[Path]:
    """The files and folders of the checkout, without results of builds and virtual environments."""
    for entry in ROOT.iterdir():
        built = entry.name in ("build", "dist") or entry.suffix == ".so"
        if not (built or entry.name.startswith(".") or (entry / "pyvenv.cfg").exists()):
            yield entry


def _replace(copy: Path, original: Path) -> None:
    if original.is_file():
        shutil.copy(original, copy)
        return
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__", "node_modules"))


def main() -> int:
    """Compile the checkout or a copy of it, or remove the extension modules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--remove", action="store_true", help="remove the extension modules")
    choice.add_argument("--copy", type=Path, metavar="FOLDER", help="compile a copy of the checkout")
    choice.add_argument("--check", action="store_true", help="say if this machine cannot compile")
    options = parser.parse_args()
    if options.check:
        missing = missing_tool()
        print(f"the native build requires {missing}" if missing else "the native build has its tools")
        return 1 if missing else 0
    if options.remove:
        remove()
    elif options.copy:
        build_copy(options.copy.resolve())
    else:
        build_in_place()
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # The default action leaves the temporary folder.
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
