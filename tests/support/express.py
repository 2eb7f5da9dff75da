"""Express and helmet in build/express. npm installs the locked packages there, for all tests of this machine."""

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import PROJECT

LOCKED = PROJECT / "tests/frameworks/express"
PACKAGES = PROJECT / "build/express"


def express_packages() -> Path:
    """The folder with `node_modules`. Skips the test if node or npm is missing, or npm cannot install."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node or npm is not installed")
    PACKAGES.mkdir(parents=True, exist_ok=True)
    with (PACKAGES / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers of pytest can come at the same time
        if not (PACKAGES / "node_modules/helmet").is_dir():
            shutil.copytree(LOCKED, PACKAGES, dirs_exist_ok=True)
            command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0"]
            done = subprocess.run(command, cwd=PACKAGES, capture_output=True, text=True, timeout=90, check=False)
            if done.returncode:
                pytest.skip(f"npm cannot install express and helmet: {done.stderr[-200:]}")
    return PACKAGES
