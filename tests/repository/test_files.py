"""The files that readers of the repository, CI and the package index rely on."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
YAML_FILES = sorted([*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"])
PAGES = [ROOT / name for name in ("SECURITY.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "RELEASING.md")]


def workflow(name: str) -> dict[str, Any]:
    document = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("file", YAML_FILES, ids=lambda file: file.name)
def test_a_yaml_file_is_read_without_an_error(file: Path) -> None:
    assert yaml.safe_load(file.read_text())


def test_ci_tests_each_python_that_the_package_names() -> None:
    tested = workflow("ci")["jobs"]["test"]["strategy"]["matrix"]["python"]

    prefix = "Programming Language :: Python :: 3."
    assert [f"{prefix}{version.removeprefix('3.')}" for version in tested] == [
        classifier for classifier in PROJECT["classifiers"] if classifier.startswith(prefix)
    ]


@pytest.mark.parametrize("name", ["ci", "release"])
def test_a_workflow_grants_no_more_than_reading_by_default(name: str) -> None:
    assert workflow(name)["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("name", ["ci", "release"])
def test_each_make_target_of_a_workflow_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    steps = [step for job in workflow(name)["jobs"].values() for step in job["steps"]]
    called = {target for step in steps for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))}

    assert called
    assert called <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_relative_link_of_a_page_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())

    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_each_file_that_contributors_are_pointed_to_exists() -> None:
    named = re.findall(r"`((?:gateway|tests|docs|bench)/[\w./*-]+)`", (ROOT / "CONTRIBUTING.md").read_text())

    assert named
    assert [name for name in named if not list(ROOT.glob(name))] == []


def test_each_file_that_the_request_flow_names_exists() -> None:
    named = re.findall(r"`([\w/]+(?:\.py|/))`", (ROOT / "docs/request-flow.md").read_text())

    assert len(named) > 50
    assert [name for name in named if not list((ROOT / "gateway").rglob(name.removeprefix("gateway/")))] == []


def test_the_manifests_run_the_image_of_this_version() -> None:
    tags = {
        tag
        for file in (ROOT / "deploy").rglob("*.yaml")
        for tag in re.findall(r"image: gateway:(\S+)", file.read_text())
    }

    assert tags == {PROJECT["version"]}


def test_no_file_refers_to_a_project_of_another_author() -> None:
    """`gateway` on the package index belongs to another project."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in tracked.split("\0") if Path(name).suffix in (".md", ".py", ".yml", ".yaml", "")]
    wrong = re.compile(r"""(?:pip|pipx|uv|uv tool) install (?:-\S+ )*["']?gateway(?![\w-])""")
    texts = {
        file: file.read_text(encoding="utf-8", errors="replace")
        for file in files
        if file.is_file() and file != Path(__file__)
    }
    assert [str(file) for file, text in texts.items() if wrong.search(text)] == []
    assert wrong.search("pip install --upgrade 'gateway[tracing]'") and not wrong.search("pip install gateway-x")
