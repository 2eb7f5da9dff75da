"""The structure of the source: packages, cycles, names and docstrings."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "gateway"
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(file.read_text())
    for file in sorted(SOURCE.rglob("*.py"))
}


def imports(module: str) -> Iterator[str]:
    """The modules of the package that a module imports anywhere, also for types only."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in MODULES:
                    yield name
                elif node.module in MODULES:
                    yield node.module


def cycles() -> list[list[str]]:
    """The groups of modules that import each other, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in imports(module):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in MODULES:
        if module not in index:
            visit(module)
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert cycles() == []


def test_the_source_has_fourteen_packages_and_seven_files_at_its_root() -> None:
    packages = [path.name for path in SOURCE.iterdir() if path.is_dir() and any(path.rglob("*.py"))]
    files = [path.name for path in SOURCE.glob("*.py") if path.name != "upstream.py"]  # its old name for gateway.client
    assert (len(packages), len(files)) == (14, 7)


def test_no_two_public_classes_share_a_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module, tree in MODULES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def _methods_of_protocols() -> dict[tuple[str, str], str]:
    docstrings = {}
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases):
                for item in node.body:
                    if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                        docstring = ast.get_docstring(item)
                        if docstring is not None:
                            docstrings[item.name, docstring] = f"{module}.{node.name}"
    return docstrings


def test_no_implementation_repeats_the_docstring_of_its_protocol() -> None:
    protocols = _methods_of_protocols()
    repeated = []
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                key = (node.name, ast.get_docstring(node) or "")
                is_declaration = len(node.body) == 1
                if not is_declaration and key in protocols and module != protocols[key].rpartition(".")[0]:
                    repeated.append(f"{module}:{node.lineno} repeats {protocols[key]}.{node.name}")
    assert repeated == []


def test_nine_of_ten_functions_have_at_most_25_lines() -> None:
    lengths = sorted(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for tree in MODULES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert lengths[len(lengths) * 9 // 10] <= 25
