"""React, for the example of a single page. npm fetches it into the cache of the user."""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

VERSION = "18.3.1"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gateway-tests"


def write_react(folder: Path, cache: Path) -> None:
    """Write `react.js` and `react-dom.js` to a folder. Skips the test if npm cannot fetch them."""
    for name, archive in react_archives(cache).items():
        with tarfile.open(archive) as files:
            source = files.extractfile(f"package/umd/{name}.production.min.js")
            assert source is not None
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.js").write_bytes(source.read())


def react_archives(cache: Path) -> dict[str, Path]:
    """The archives of `npm pack` by package. Skips the test if npm cannot fetch them."""
    archives = {name: cache / f"{name}-{VERSION}.tgz" for name in ("react", "react-dom")}
    for name, archive in archives.items():
        if not archive.exists():
            _fetch(name, cache)
    return archives


def _fetch(name: str, cache: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm here, which fetches React")
    cache.mkdir(parents=True, exist_ok=True)
    try:
        command = [npm, "pack", f"{name}@{VERSION}"]
        subprocess.run(command, cwd=cache, check=True, capture_output=True, timeout=60)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("npm cannot fetch React here")
