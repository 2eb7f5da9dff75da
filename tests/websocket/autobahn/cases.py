"""The cases of the Autobahn Testsuite, from its package on PyPI, adapted to Python 3.

The package is for Python 2 and its runner needs an old framework, but its cases are descriptions: they define the bytes
to send and to expect, and judge the result. They are read unchanged from the installed package and compiled with
adaptations for changes of the language: a `str` was a string of bytes, which a string of Latin-1 characters represents;
`/` of two integers was integer division; an old-style class could follow `object` as a base. `peer.py` implements their
runner's interface.
"""

import ast
import builtins
import hashlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

_PACKAGE = importlib.util.find_spec("autobahntestsuite")
assert _PACKAGE is not None and _PACKAGE.submodule_search_locations
ROOT = Path(_PACKAGE.submodule_search_locations[0])

CONNECTING, CLOSING, OPEN, CLOSED = range(4)


def load() -> dict[str, type]:
    """Every case listed by the suite, by its number (`6.4.1`), in the suite's order."""
    listed: list[type] = _Suite().module("__init__").Cases
    return {cls.__name__.removeprefix("Case").replace("_", "."): cls for cls in listed}


# ---- imports of the cases


class Octets(str):
    """A string of bytes as in Python 2: each character is one byte."""

    def decode(self, encoding: str) -> str:
        return self.encode("latin-1").decode(encoding)


class Offer:
    """Parameters with which a client offers permessage-deflate (RFC 7692 7.1)."""

    def __init__(
        self,
        acceptNoContextTakeover: bool = True,
        acceptMaxWindowBits: bool = True,
        requestNoContextTakeover: bool = False,
        requestMaxWindowBits: int = 0,
    ) -> None:
        self.acceptNoContextTakeover = acceptNoContextTakeover
        self.acceptMaxWindowBits = acceptMaxWindowBits
        self.requestNoContextTakeover = requestNoContextTakeover
        self.requestMaxWindowBits = requestMaxWindowBits

    def __str__(self) -> str:
        """The member of Sec-WebSocket-Extensions."""
        parts = {
            "permessage-deflate": True,
            "client_no_context_takeover": self.acceptNoContextTakeover,
            "client_max_window_bits": self.acceptMaxWindowBits,
            "server_no_context_takeover": self.requestNoContextTakeover,
            f"server_max_window_bits={self.requestMaxWindowBits}": self.requestMaxWindowBits,
        }
        return "; ".join(part for part, is_said in parts.items() if is_said)


class Response:
    """A server's response to an offer."""


class Utf8Validator:
    """Validates a string of bytes; the cases only use it for whole strings."""

    def reset(self) -> None:
        """Nothing to reset."""

    def validate(self, octets: str) -> tuple[bool, bool]:
        try:
            octets.encode("latin-1").decode()
        except UnicodeDecodeError:
            return False, False
        return True, True


class _Digest:
    def __init__(self) -> None:
        self._digest = hashlib.sha1(usedforsecurity=False)

    def update(self, octets: str | bytes) -> None:
        self._digest.update(octets if isinstance(octets, bytes) else octets.encode("latin-1"))

    def digest(self) -> bytes:
        return self._digest.digest()


def _hexadecimal(octets: str | bytes) -> str:
    return (octets if isinstance(octets, bytes) else octets.encode("latin-1")).hex()


_STATES = SimpleNamespace(STATE_CONNECTING=CONNECTING, STATE_CLOSING=CLOSING, STATE_OPEN=OPEN, STATE_CLOSED=CLOSED)
_ELSEWHERE: dict[str, dict[str, Any]] = {
    "autobahn.websocket.protocol": {"WebSocketProtocol": _STATES},
    "autobahn.websocket.utf8validator": {"Utf8Validator": Utf8Validator},
    "autobahn.websocket.compress": {
        "PerMessageDeflateOffer": Offer,
        "PerMessageDeflateOfferAccept": None,
        "PerMessageDeflateResponse": Response,
        "PerMessageDeflateResponseAccept": lambda response: response,
    },
    "zope.interface": {"implements": lambda *_: None},
    "twisted.internet": {"reactor": None, "interfaces": SimpleNamespace(IPushProducer=object)},
    "pkg_resources": {"resource_filename": lambda _, path: str(ROOT / path)},
    # The cases compare values by their pickles, and Python 3 pickles equal strings differently.
    "pickle": {"dumps": lambda value: value},
    "hashlib": {"sha1": _Digest},
    "binascii": {"b2a_hex": _hexadecimal, "hexlify": _hexadecimal},
}


# ---- the import of the cases


class _Suite:
    """The suite's modules, which import one another as neighbours."""

    def __init__(self) -> None:
        self._modules = {name: _module(name, content) for name, content in _ELSEWHERE.items()}
        self._builtins = vars(builtins) | {
            "__import__": self._import,
            "xrange": range,
            "unichr": chr,
            "type": _type,
        }

    def module(self, name: str) -> ModuleType:
        module = self._modules.get(name)
        if module is None:
            module = self._modules[name] = _module(name, {"__builtins__": self._builtins})
            exec(_compiled(ROOT / "case" / f"{name}.py"), module.__dict__)
        return module

    def _import(
        self, name: str, globals_: Any = None, locals_: Any = None, fromlist: Sequence[str] = (), level: int = 0
    ) -> ModuleType:
        if name in self._modules or (ROOT / "case" / f"{name}.py").exists():
            return self.module(name)
        return __import__(name, globals_, locals_, fromlist, level)


def _module(name: str, content: dict[str, Any]) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(content)
    return module


def _compiled(file: Path) -> CodeType:
    text = re.sub(r"^(\s*)print\b.*$", r"\1pass", file.read_text("latin-1"), flags=re.MULTILINE)
    return compile(ast.fix_missing_locations(_Whole().visit(ast.parse(text, str(file)))), str(file), "exec")


class _Whole(ast.NodeTransformer):
    """Makes every division an integer division."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Div):
            node.op = ast.FloorDiv()
        return node


def _type(of: Any, bases: tuple[type, ...] | None = None, namespace: dict[str, Any] | None = None) -> type:
    """`type`, accepting `object` before other bases."""
    if bases is None or namespace is None:
        return type(of)
    return type(of, tuple(base for base in bases if base is not object), namespace)
