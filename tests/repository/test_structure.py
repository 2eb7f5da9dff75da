"""The structure of the source: packages, names and docstrings."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "gateway"

Modules = dict[str, ast.Module]


@pytest.fixture(scope="module")
def modules() -> Modules:
    """The parsed source, for the time of this file: each collection of garbage would scan its half million objects."""
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(file.read_text())
        for file in sorted(SOURCE.rglob("*.py"))
    }


def test_the_source_has_fourteen_packages_and_seven_files_at_its_root() -> None:
    packages = [path.name for path in SOURCE.iterdir() if path.is_dir() and any(path.rglob("*.py"))]
    files = [path.name for path in SOURCE.glob("*.py") if path.name != "upstream.py"]  # its old name for gateway.client
    assert (len(packages), len(files)) == (14, 7)


def test_no_two_public_classes_share_a_name(modules: Modules) -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module, tree in modules.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def _methods_of_protocols(modules: Modules) -> dict[tuple[str, str], str]:
    docstrings = {}
    for module, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases):
                for item in node.body:
                    if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                        docstring = ast.get_docstring(item)
                        if docstring is not None:
                            docstrings[item.name, docstring] = f"{module}.{node.name}"
    return docstrings


def test_no_implementation_repeats_the_docstring_of_its_protocol(modules: Modules) -> None:
    protocols = _methods_of_protocols(modules)
    repeated = []
    for module, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                key = (node.name, ast.get_docstring(node) or "")
                is_declaration = len(node.body) == 1
                if not is_declaration and key in protocols and module != protocols[key].rpartition(".")[0]:
                    repeated.append(f"{module}:{node.lineno} repeats {protocols[key]}.{node.name}")
    assert repeated == []


def test_nine_of_ten_functions_have_at_most_25_lines(modules: Modules) -> None:
    lengths = sorted(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for tree in modules.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert lengths[len(lengths) * 9 // 10] <= 25
