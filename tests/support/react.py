"""React, for the example of a single page. npm fetches it into the cache of the user."""

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

VERSION = "18.3.1"


def write_react(folder: Path, cache: Path) -> None:
    """Write `react.js` and `react-dom.js` to a folder. Skips the test if npm cannot fetch them."""
    for name in ("react", "react-dom"):
        archive = cache / f"{name}-{VERSION}.tgz"
        if not archive.exists():
            _fetch(name, cache)
        with tarfile.open(archive) as files:
            source = files.extractfile(f"package/umd/{name}.production.min.js")
            assert source is not None
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.js").write_bytes(source.read())


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
