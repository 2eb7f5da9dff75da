"""Writes the smallest valid wheels, and is the build backend (PEP 517, PEP 660) of the project that the tests install.

It imports the standard library only, because pip runs a copy of it.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_wheel(
    folder: Path, name: str, version: str, requires: Sequence[str] = (), extras: Mapping[str, str] | None = None
) -> Path:
    """A wheel with one module. `extras` maps an extra to its one requirement."""
    extra_lines = [
        line
        for extra, need in (extras or {}).items()
        for line in (f"Provides-Extra: {extra}", f"Requires-Dist: {need} ; extra == '{extra}'")
    ]
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [*(f"Requires-Dist: {need}" for need in requires), *extra_lines, ""]
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": "\n".join(metadata),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{info}/RECORD"
    files[record] = "".join(f"{path},,\n" for path in [*files, record])
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            # A fixed date, so that the same wheel has the same hash.
            archive.writestr(zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0)), text)
    return wheel


def build_editable(wheel_directory: str, config_settings: object = None, metadata_directory: str | None = None) -> str:
    return write_wheel(Path(wheel_directory), "service", "0.1", ["framework[standard]>=1"]).name


build_wheel = build_editable
