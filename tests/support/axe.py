"""axe-core, which finds violations of WCAG. npm fetches it into the cache of the user; no part of it is in this
repository. Tests are skipped without it."""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.chromium import Browser

VERSION = "4.14.1"
_RUN = """axe.run(document, {resultTypes: ["violations"], elementRef: false%s}).then(
    found => found.violations.map(one => one.id + ": " + one.nodes.map(node => node.html).join(" ")))"""
# All rules of WCAG 2.2 A and AA, and best practices. In the dark scheme, those that look at colours.
RULES = {"light": _RUN % "", "dark": _RUN % ', runOnly: ["color-contrast", "link-in-text-block"]'}


def show(browser: Browser, html: str) -> None:
    """Replace the document of a browser."""
    browser.run(f"document.open(); document.write({json.dumps(html)}); document.close()")


def violations(browser: Browser, pages: Mapping[str, str]) -> dict[tuple[str, str], Any]:
    """The violations in these documents, by name and colour scheme. The browser has run `axe_core`."""
    found = {}
    for name, html in pages.items():
        show(browser, html)
        for scheme, rules in RULES.items():
            browser.prefer(scheme)
            if listed := browser.run(rules, wait=True):
                found[name, scheme] = listed
    return found


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
