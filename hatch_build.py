"""Compile the modules on the way of a request with mypyc: the build hook of hatchling, and a command for a checkout.

A wheel contains compiled modules only with GATEWAY_NATIVE=1 in the environment of its build. A build that cannot
compile ends with an error.

    python hatch_build.py            compile in place; Python prefers an extension module to the source beside it
    python hatch_build.py --remove   remove the extension modules, so that the source runs again
"""

import argparse
import os
import shutil
import sys
import sysconfig
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT: Final = Path(__file__).resolve().parent
VARIABLE: Final = "GATEWAY_NATIVE"
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
    from mypyc.build import mypycify
    from setuptools import Distribution

    os.chdir(ROOT)
    files = sources()
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(folder / "cache")]
    extensions = mypycify(
        [*options, *files],
        group_name=GROUP,
        target_dir=str(folder / "c"),
        multi_file=True,  # One file would need several times the memory and the time of the C compiler.
        opt_level="2",
        debug_level="0",
    )
    distribution = Distribution({"name": GROUP, "ext_modules": extensions})
    command: Any = distribution.get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "objects")
    distribution.run_command("build_ext")
    built = sorted((folder / "lib").rglob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"))
    if len(built) != len(files) + 1:
        sys.exit(f"{len(built)} extension modules were built of {len(files)} sources and their library")
    return built


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
    with TemporaryDirectory(prefix="gateway-native-") as folder:
        built = compile_into(Path(folder))
        remove()
        for path in built:
            shutil.copy(path, ROOT / path.relative_to(Path(folder) / "lib"))


def remove() -> None:
    """Remove the extension modules of the checkout."""
    for path in [*ROOT.glob(f"{GROUP}__mypyc.*"), *(ROOT / GROUP).rglob("*.so")]:
        path.unlink()


def main() -> None:
    """Compile the checkout, or remove what was compiled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--remove", action="store_true", help="remove the extension modules")
    if parser.parse_args().remove:
        remove()
    else:
        build_in_place()


if __name__ == "__main__":
    main()
