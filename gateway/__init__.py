"""gateway: an identity-aware reverse proxy for HTTP APIs."""

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec

__version__ = "0.2.0"


def build() -> str:
    """`native` if the modules on the way of a request are compiled, else `interpreted`."""
    spec = find_spec("gateway.errors")
    assert spec is not None and spec.origin is not None
    return "interpreted" if spec.origin.endswith(".py") else "native"


def outdated() -> list[str]:
    """The files of a checkout that changed after `make native`. Python runs the modules that were compiled of them."""
    if build() == "interpreted":
        return []
    from pathlib import Path  # An interpreted start does not need it.

    package = Path(__file__).parent
    if not (package.parent / "hatch_build.py").exists():  # An installation writes its files in any order.
        return []
    suffix = EXTENSION_SUFFIXES[0]
    modules = (
        (module, module.with_name(module.name.removesuffix(suffix) + ".py")) for module in package.rglob(f"*{suffix}")
    )
    return sorted(
        source.relative_to(package.parent).as_posix()
        for module, source in modules
        if source.exists() and source.stat().st_mtime > module.stat().st_mtime
    )
