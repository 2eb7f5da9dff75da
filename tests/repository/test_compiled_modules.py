"""The compiled modules use no construct that mypyc compiles to another behaviour.

A compiled coroutine that suspends while it handles an exception leaves the exception to the event loop. Each later
exception gets the previous one as its context, so none is freed. A compiled `finally` with an `await` raises the left
exception again. A compiled variable has one type, so a second handler with the same name raises TypeError instead of
handling its exception.
"""

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from hatch_build import sources

ROOT = Path(__file__).resolve().parents[2]
WAITS = (ast.Await, ast.Yield, ast.YieldFrom, ast.AsyncFor)
# Their `__aexit__` does not suspend.
CONTEXTS = ("asyncio.timeout", "asyncio.Timeout")


def _own(nodes: list[ast.stmt]) -> Iterator[ast.AST]:
    """The nodes without those of inner functions."""
    for node in nodes:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _own(list(ast.iter_child_nodes(node)))  # type: ignore[arg-type]


def waits_in_handlers(source: str) -> list[int]:
    """The lines that suspend while an exception is handled."""
    handlers: list[ast.stmt] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            handlers += node.body
        elif isinstance(node, ast.Try):
            handlers += node.finalbody
    return sorted({node.lineno for node in _own(handlers) if isinstance(node, WAITS)})


def shared_names(source: str) -> set[str]:
    """The names of exceptions that several handlers of one function use."""
    names = Counter(
        (function.lineno, node.name)
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ExceptHandler) and node.name is not None
    )
    return {name for (_, name), count in names.items() if count > 1}


def contexts(source: str) -> dict[int, str]:
    """The asynchronous context managers by line: the called function, or the assigned value of an attribute."""
    tree = ast.parse(source)
    values = {
        ast.unparse(target): node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
    }
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncWith):
            for item in node.items:
                manager = values.get(ast.unparse(item.context_expr), item.context_expr)
                found[node.lineno] = ast.unparse(manager.func if isinstance(manager, ast.Call) else manager)
    return found


@pytest.mark.parametrize("module", sources())
def test_a_compiled_coroutine_suspends_only_outside_of_the_handlers_of_exceptions(module: str) -> None:
    source = (ROOT / module).read_text(encoding="utf-8")
    assert waits_in_handlers(source) == [], "wait after the handler, or in a module that stays interpreted"
    assert {line: name for line, name in contexts(source).items() if name not in CONTEXTS} == {}


def imported_packages(source: str) -> set[str]:
    """The packages of all imports, of those for types alone as well."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.partition(".")[0])
    return found


def test_the_compiled_modules_import_no_library_that_the_environment_of_a_build_lacks() -> None:
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    required = {re.split(r"[\[<>=; ]", requirement)[0] for requirement in requirements}
    installed = {
        package
        for package, distributions in packages_distributions().items()
        if required & {name.lower() for name in distributions}
    }
    imported = {package for module in sources() for package in imported_packages((ROOT / module).read_text())}
    assert {"httptools", "starlette"} <= imported
    assert imported - installed - sys.stdlib_module_names == {"gateway"}


@pytest.mark.parametrize("module", sources())
def test_each_handler_of_a_compiled_function_has_a_name_of_its_own_for_its_exception(module: str) -> None:
    assert shared_names((ROOT / module).read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("handlers", "shared"),
    [
        ("    except OSError as error:\n        b()\n    except Exception as error:\n        c()", {"error"}),
        ("    except OSError as failure:\n        b()\n    except Exception as error:\n        c()", set()),
        (
            "    except OSError as error:\n        b()\n"
            "def g():\n    try:\n        a()\n    except E as error:\n        c()",
            set(),
        ),
    ],
)
def test_a_name_of_two_handlers_is_found(handlers: str, shared: set[str]) -> None:
    assert shared_names(f"def f():\n    try:\n        a()\n{handlers}\n") == shared


@pytest.mark.parametrize(
    ("handler", "lines"),
    [
        ("except OSError:\n        await b()", [5]),
        ("except OSError:\n        pass\n    finally:\n        await b()", [7]),
        ("except OSError:\n        if a:\n            return await b()", [6]),
        ("except OSError:\n        pass\n    else:\n        await b()", []),
        ("except OSError:\n        c = lambda: b()\n    await b()", []),
    ],
)
def test_an_await_in_a_handler_is_found(handler: str, lines: list[int]) -> None:
    assert waits_in_handlers(f"async def f():\n    try:\n        await a()\n    {handler}\n") == lines


def test_an_asynchronous_context_manager_is_named_by_its_function() -> None:
    source = (
        "async def f(self):\n    self.b = c.d(1)\n    async with a.b():\n        async with self.b:\n            pass\n"
    )
    assert contexts(source) == {3: "a.b", 4: "c.d"}
