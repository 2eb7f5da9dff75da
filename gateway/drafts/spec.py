"""The operations of an OpenAPI 3.0 or 3.1 document, as far as a policy is concerned with them.

Nothing is fetched: a reference into another document is named and left out. What a document says and a policy cannot
say is told in `remarks`, and drafted on the safe side: stricter, never laxer.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import yaml

from gateway.errors import CannotStart, cannot_read
from gateway.settings.grammar import origin
from gateway.settings.reader import Unacceptable

_LARGEST: Final = 64 << 20  # bytes
_METHODS: Final = ("get", "head", "post", "put", "patch", "delete", "options", "trace")
_LONGEST_SCOPE: Final = 128  # characters, of a role as well
_TOKENS: Final = ("oauth2", "openIdConnect")
_VARIABLE: Final = re.compile(r"\{([^{}]*)\}")
_MOST_REFERENCES: Final = 16  # in a row


class Asks(NamedTuple):
    """What an operation asks of its caller: of each alternative the scopes, all of which it takes. `anonymous`: it may
    be called without any of them. Neither: what it asks for is not for the gateway to check."""

    alternatives: tuple[frozenset[str], ...]
    anonymous: bool


class SpecOperation(NamedTuple):
    """One operation. `path` has the server's before it."""

    method: str
    path: str
    name: str | None
    asks: Asks
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.method} {self.path}" + (f" ({self.name})" if self.name else "")


class Spec(NamedTuple):
    """A document: its title, the address of its first server where that is absolute, and its operations."""

    title: str
    address: str | None
    operations: tuple[SpecOperation, ...]
    remarks: tuple[str, ...]


def read_spec(path: Path) -> Spec:
    """Read a document, in YAML or JSON. Raises CannotStart for what is none."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise CannotStart(f"cannot read {cannot_read(path, error)}") from None
    if len(content) > _LARGEST:
        raise CannotStart(f"{path} is larger than 64 MiB")
    document = _parsed(content, path)
    version = document.get("openapi") if isinstance(document, dict) else None
    if not isinstance(version, str) or not version.startswith("3.") or not isinstance(document.get("paths", {}), dict):
        raise CannotStart(f"{path} is no OpenAPI 3.0 or 3.1 document (openapi: 3.1.0, and paths)")
    return _Reading(document).spec()


def _parsed(content: bytes, path: Path) -> Any:
    try:
        if content.lstrip()[:1] == b"{":
            return json.loads(content)
        loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
        return yaml.load(content, Loader=loader)  # noqa: S506 -- both are safe loaders
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = str(error).replace("\n", " ")
        raise CannotStart(f"{path} is neither YAML nor JSON: {where[:200]}") from None


class _Reading:
    """The reading of one document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._remarks: list[str] = []
        schemes = _mapping(_mapping(document.get("components")).get("securitySchemes"))
        self._schemes = {
            str(name): self._resolved(scheme, f"security scheme {name}") for name, scheme in schemes.items()
        }

    def spec(self) -> Spec:
        info = _mapping(self._document.get("info"))
        title = " ".join(str(info[key]) for key in ("title", "version") if key in info)
        address, _ = self._server(self._document, "the document")
        operations = tuple(self._operations())
        return Spec(title, address, operations, tuple(self._remarks))

    def _operations(self) -> Iterator[SpecOperation]:
        for path, item in self._document.get("paths", {}).items():
            item = self._resolved(item, str(path))
            for method in _METHODS:
                if isinstance(item.get(method), dict):
                    yield self._operation(method.upper(), str(path), item, item[method])

    def _operation(
        self, method: str, path: str, item: Mapping[str, Any], operation: Mapping[str, Any]
    ) -> SpecOperation:
        remarks: list[str] = []
        place = next((each for each in (operation, item) if "servers" in each), self._document)
        _, base = self._server(place, f"{method} {path}")
        asks = self._asks(operation.get("security", self._document.get("security")), remarks)
        name = operation.get("operationId")
        return SpecOperation(method, base + path, None if name is None else str(name), asks, tuple(remarks))

    # ---- servers

    def _server(self, place: Mapping[str, Any], where: str) -> tuple[str | None, str]:
        """The address of the first server, where it is absolute, and its path."""
        servers = [_mapping(server) for server in place.get("servers") or ()]
        urls = [_filled(str(server.get("url", "/")), _mapping(server.get("variables"))) for server in servers]
        paths = list(dict.fromkeys(urlsplit(url).path.rstrip("/") for url in urls)) or [""]
        if len(paths) > 1:
            self._remark(f"{where} has servers with several paths: {paths[0] or '/'} is taken")
        return _address(urls[0]) if urls else None, paths[0]

    # ---- security

    def _asks(self, security: Any, remarks: list[str]) -> Asks:
        if not security:
            return Asks((), anonymous=True)
        alternatives, anonymous = [], False
        for each in security:
            named = _mapping(each)
            if not named:
                anonymous = True
                continue
            scopes = self._scopes(named, remarks)
            if scopes is not None:
                alternatives.append(scopes)
        return Asks(tuple(dict.fromkeys(alternatives)), anonymous)

    def _scopes(self, named: Mapping[str, Any], remarks: list[str]) -> frozenset[str] | None:
        """The scopes of an alternative; None for one in which the gateway's tokens have no part."""
        scopes: set[str] = set()
        has_token = False
        for name, wanted in named.items():
            scheme = self._schemes.get(str(name))
            if scheme is not None and not _takes_tokens(scheme):
                remarks.append(f"{name} ({_kind_of(scheme)}) is for the upstream to check")
                continue
            if scheme is None:
                remarks.append(f"the security scheme {name} is not defined, and taken for one of tokens")
            scopes |= {_role(str(scope)) for scope in wanted or ()}
            has_token = True
        return frozenset(scopes) if has_token else None

    # ---- references

    def _resolved(self, value: Any, where: str) -> Mapping[str, Any]:
        """A value, or what it refers to within the document; nothing where that is not there."""
        for _ in range(_MOST_REFERENCES):
            mapping = _mapping(value)
            reference = mapping.get("$ref")
            if not isinstance(reference, str):
                return mapping
            if not reference.startswith("#/"):
                break
            value = self._document
            for step in reference[2:].split("/"):
                value = _mapping(value).get(step.replace("~1", "/").replace("~0", "~"))
        self._remark(f"{where} refers to {reference}, which is not in this document: left out")
        return {}

    def _remark(self, remark: str) -> None:
        if remark not in self._remarks:
            self._remarks.append(remark)


def _address(url: str) -> str | None:
    """The address of a server, as an upstream has it; None for one that is relative to where the document was found."""
    parts = urlsplit(url)
    try:
        return origin(f"{parts.scheme}://{parts.netloc}")
    except Unacceptable:
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _filled(url: str, variables: Mapping[str, Any]) -> str:
    return _VARIABLE.sub(lambda found: str(_mapping(variables.get(found[1])).get("default", found[1])), url)


def _role(scope: str) -> str:
    """A scope as the name of a role. One that cannot be one asks for a role that nobody has."""
    visible = "".join(letter if letter.isprintable() else "_" for letter in scope)
    return visible.strip()[:_LONGEST_SCOPE].strip() or "unnamed"


def _takes_tokens(scheme: Mapping[str, Any]) -> bool:
    bearer = scheme.get("type") == "http" and str(scheme.get("scheme")).lower() == "bearer"
    return bearer or scheme.get("type") in _TOKENS


def _kind_of(scheme: Mapping[str, Any]) -> str:
    kind = str(scheme.get("type"))
    return f"{kind} {scheme.get('scheme')}" if kind == "http" else kind
