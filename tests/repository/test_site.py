"""The documentation builds into a site without a broken link, and contains each page."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.processes import PROJECT

pytestmark = pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # A page that the navigation of mkdocs.yml leaves out, and a link that leads nowhere, are errors.
    mkdocs = [sys.executable, "-W", "ignore", "-m", "mkdocs"]
    command = [*mkdocs, "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_each_page_is_in_the_site(site: Path) -> None:
    pages = [page.relative_to(PROJECT / "docs") for page in (PROJECT / "docs").rglob("*.md")]
    folders = [page.parent if page.stem == "README" else page.with_suffix("") for page in pages]
    assert [str(folder) for folder in folders if not (site / folder / "index.html").exists()] == []


def test_a_link_to_a_file_beside_the_documentation_leads_to_the_repository(site: Path) -> None:
    page = (site / "deployment" / "containers" / "index.html").read_text()
    assert "https://github.com/asgi-gateway/gateway/blob/main/deploy/kubernetes/gateway.yaml" in page
    assert 'href="../../deploy' not in page


# Sections that pages of their own have replaced. Links from other sites and from older releases name them.
MOVED = {
    "forward-auth": "nginx caddy haproxy traefik envoy export-to-envoy cost",
    "deployment": "one-process-sqlite the-compiled-build replicas-postgresql-and-redis rights-in-redis postgresql "
    "clocks containers kubernetes systemd redis-with-failover in-front-of-a-fastapi-app tls-on-the-gateway "
    "behind-a-tls-terminator under-another-asgi-server half-closed-client-connections "
    "stopping upgrading backups sizing",
}


@pytest.mark.parametrize("page", MOVED)
def test_an_anchor_of_a_section_that_moved_still_leads_to_its_page(site: Path, page: str) -> None:
    text = (site / page / "index.html").read_text()
    assert set(MOVED[page].split()) - set(re.findall(r' id="([^"]+)"', text)) == set()
    # The link behind an anchor leads to a page below this one, or to another part of the site.
    for name, target in re.findall(r'<a id="([\w-]+)"></a>(?:(?!</tr>).)*?<a href="([^"]+)"', text, re.DOTALL):
        assert (site / page / target.partition("#")[0] / "index.html").exists(), name


def test_the_figures_of_the_benchmarks_belong_to_the_site(site: Path) -> None:
    page = (site / "benchmarks" / "index.html").read_text()
    assert 'src="../bench/results/' in page
    assert list((site / "bench" / "results").glob("*.svg"))


def test_the_site_has_a_search_index_and_asks_no_other_host_for_fonts(site: Path) -> None:
    assert (site / "search" / "search_index.json").stat().st_size > 100_000
    assert "fonts.googleapis.com" not in (site / "index.html").read_text()
