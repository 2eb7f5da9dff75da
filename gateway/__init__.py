"""gateway: an identity-aware reverse proxy for HTTP APIs."""

from importlib.util import find_spec

__version__ = "0.2.0"


def build() -> str:
    """`native` if the modules on the way of a request are compiled , else `interpreted`."""
    spec = find_spec("gateway.errors")
    assert spec is not None and spec.origin is not None
    return "interpreted" if spec.origin.endswith(".py") else "native"
