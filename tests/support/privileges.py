"""Permissions of files, for tests that run as root."""

import os
import shutil
import subprocess

import pytest


def unprivileged() -> list[str]:
    """A prefix under which the permissions of files count for root too."""
    if os.geteuid() != 0:
        return []
    dropped = "-dac_override,-dac_read_search"
    prefix = ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}"]
    if shutil.which("setpriv") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode != 0:
        pytest.skip("setpriv cannot drop capabilities, and root writes every file")
    return prefix
