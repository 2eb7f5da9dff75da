"""axe-core, which finds violations of WCAG. npm fetches it into the cache of the user; no part of it is in this
repository. Tests are skipped without it."""

import os
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path

import pytest

VERSION = "4.14.1"


@cache
def axe_core() -> str:
    """The source of axe-core. npm checks its integrity."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gateway-tests"
    archive = folder / f"axe-core-{VERSION}.tgz"
    if not archive.exists():
        _fetch(folder)
    with tarfile.open(archive) as files:
        source = files.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


def _fetch(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm here, which fetches axe-core")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run([npm, "pack", f"axe-core@{VERSION}"], cwd=folder, check=True, capture_output=True, timeout=60)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("npm cannot fetch axe-core here")
