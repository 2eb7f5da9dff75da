"""The imports between files of the source: no circles, and no folder that import-linter leaves out."""

import ast
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

Graph = dict[str, set[str]]


def module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.AST, modules: Iterable[str]) -> set[str]:
    """Every import in a file, those in functions and under TYPE_CHECKING as well."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= submodules & set(modules) or {node.module}
    return names & set(modules)


def graph_of(folder: Path, package: str) -> Graph:
    files = {module(path.relative_to(folder)): path for path in (folder / package).rglob("*.py")}
    return {name: imported(ast.parse(path.read_text()), files) - {name} for name, path in files.items()}


def circle(graph: Graph) -> list[str]:
    """The files of one circle; empty without one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


@pytest.mark.parametrize(
    "text",
    [
        "import package.one",
        "from package import one",
        "from package.one import name",
        "def late():\n    from package.one import name",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package.one import name",
    ],
)
def test_a_circle_is_found_by_any_kind_of_import(tmp_path: Path, text: str) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text("from package.two import name\n")
    (package / "two.py").touch()
    assert circle(graph_of(tmp_path, "package")) == []
    (package / "two.py").write_text(text)
    assert set(circle(graph_of(tmp_path, "package"))) == {"package.one", "package.two"}


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = graph_of(ROOT, "gateway")
    assert len(graph) > 200
    assert circle(graph) == []


def test_each_folder_of_the_source_is_a_package() -> None:
    """import-linter leaves out a folder without an __init__.py, and the imports of its files."""
    versions = ROOT / "gateway/storage/migrations/versions"  # Alembic loads these files by their paths
    folders = {path.parent for path in (ROOT / "gateway").rglob("*.py")} - {versions}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def unexplained(source: str) -> list[int]:
    """The lines of TYPE_CHECKING blocks, and of first imports in functions, without a reason: a comment on the line or
    above it, or a docstring that speaks of the import."""
    lines, found = source.splitlines(), []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            imports = [node.lineno for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
            if not imports or "import" in (ast.get_docstring(function) or "").lower():
                continue
            found.append(min(imports))
    found += [number for number, line in enumerate(lines, start=1) if line == "if TYPE_CHECKING:"]
    explained = [line.lstrip().startswith("#") for line in lines]
    return sorted({number for number in found if "#" not in lines[number - 1] and not explained[number - 2]})


def test_an_import_in_a_function_or_for_annotations_has_a_reason() -> None:
    assert unexplained("def f():\n    import x\n") == [2]
    assert unexplained("def f():\n    import x  # 4 MiB\n    import y\n") == []
    assert unexplained("import x\nif TYPE_CHECKING:\n    import y\n") == [2]
    assert unexplained("# 4 MiB\nif TYPE_CHECKING:\n    import x\n") == []
    files = sorted((ROOT / "gateway").rglob("*.py"))
    found = {str(file.relative_to(ROOT)): lines for file in files if (lines := unexplained(file.read_text()))}
    assert found == {}
