"""Read the operations of an OpenAPI 3 document, as far as a policy needs them.

References outside the document are not fetched. An operation whose security cannot be read exactly is marked as
unreadable: a guess could open an operation that the document protects.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import yaml

from gateway.errors import CannotStart, cannot_read
from gateway.settings.reader import InvalidValue
from gateway.settings.syntax import origin, role_name

_LARGEST: Final = 64 << 20  # In bytes.
_METHODS: Final = ("get", "head", "post", "put", "patch", "delete", "options", "trace")
# OpenAPI 3.2 keys with operations of other methods.
_OTHER_OPERATIONS: Final = ("query", "additionalOperations")
_TOKENS: Final = ("oauth2", "openIdConnect")
_VARIABLE: Final = re.compile(r"\{([^{}]*)\}")
# Keys that a misspelling of `security` has. Extensions (`x-…`) have a meaning of their own.
_LIKE_SECURITY: Final = re.compile(r"secur", re.IGNORECASE)
_REPEATED_TAG: Final = "!repeated"
# OpenAPI allows these beside $ref, where they do not change its meaning.
_BESIDE_REFERENCE: Final = ("$ref", "summary", "description")


class Security(NamedTuple):
    """The security of an operation.

    A request needs all scopes of one of the `alternatives`; `anonymous` means that the operation also accepts requests
    without a token. An operation with neither requires a check that the gateway cannot make, such as an API key of the
    upstream.
    """

    alternatives: tuple[frozenset[str], ...]
    anonymous: bool

    @property
    def scopes(self) -> frozenset[str]:
        """Every scope of every alternative."""
        return frozenset().union(*self.alternatives)


class SpecOperation(NamedTuple):
    """One operation. `path` includes the path of its server, `address` is the origin of its server if it has one.
    `security` is None if the operation cannot be read exactly, with the reason in `unreadable`."""

    method: str
    path: str
    name: str | None
    security: Security | None
    remarks: tuple[str, ...] = ()
    address: str | None = None
    unreadable: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.path}" + (f" ({self.name})" if self.name else "")


class UnreadablePath(NamedTuple):
    """A path with unreadable operations, and the reason."""

    path: str
    reason: str


class Spec(NamedTuple):
    """A document: title, origin of its server if named, operations, paths with unreadable operations, and remarks,
    including one for each of the `left_out` operations."""

    title: str
    address: str | None
    operations: tuple[SpecOperation, ...]
    unreadable_paths: tuple[UnreadablePath, ...]
    remarks: tuple[str, ...]
    left_out: int


class _Unreadable(Exception):
    """A part of the document cannot be read exactly; the text is the reason."""


def read_spec(path: Path) -> Spec:
    """Read a document in YAML or JSON. Raises CannotStart for any other file."""
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
        raise CannotStart(f"{path} is not an OpenAPI 3.0 or 3.1 document (openapi: 3.1.0, and paths)")
    return _Reader(document).spec()


def _parsed(content: bytes, path: Path) -> Any:
    try:
        if content.lstrip()[:1] == b"{":
            return json.loads(content, object_pairs_hook=_without_repetitions)
        return yaml.load(content, Loader=_Loader)  # noqa: S506 -- a subclass of a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = str(error).replace("\n", " ")
        raise CannotStart(f"{path} is neither YAML nor JSON: {where[:200]}") from None


class _Repeated:
    """The value of a key that a mapping repeats. Readers disagree on which of the values counts."""

    def __str__(self) -> str:
        return "the value of a repeated key"


def _without_repetitions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        times = Counter(key for key, _ in pairs)
        mapping |= {key: _Repeated() for key, count in times.items() if count > 1}
    return mapping


class _Loader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """Reads a repeated key as _Repeated. A key of a mapping that overrides one from `<<` is no repetition."""

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self._flattened: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace `<<` with the keys it refers to. After that, repeated keys and overridden keys look alike."""
        if id(node) not in self._flattened:
            self._flattened.add(id(node))
            times = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            node.value = [
                (key, yaml.ScalarNode(_REPEATED_TAG, "") if times[key.tag, _text(key)] > 1 else value)
                for key, value in node.value
            ]
        super().flatten_mapping(node)


def _text(node: yaml.Node) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


_Loader.add_constructor(_REPEATED_TAG, lambda _loader, _node: _Repeated())


class _Reader:
    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._remarks: list[str] = []
        self._unreadable_paths: list[UnreadablePath] = []
        self._left_out = 0
        self._schemes = dict(self._readable_schemes())

    def spec(self) -> Spec:
        info = _mapping(self._document.get("info"))
        title = " ".join(str(info[key]) for key in ("title", "version") if key in info)
        operations = list(self._operations())
        address = self._address_of_all(operations)
        here = tuple(each for each in operations if self._is_served_at(address, each))
        remarks = tuple(dict.fromkeys(self._remarks))
        return Spec(title, address, here, tuple(self._unreadable_paths), remarks, self._left_out)

    def _leave_out(self, subject: str, reason: object) -> None:
        self._left_out += 1
        self._remarks.append(f"{subject} is left out: {reason}")

    # ---- operations

    def _operations(self) -> Iterator[SpecOperation]:
        for path, item in self._document.get("paths", {}).items():
            if str(path).startswith("x-"):  # an extension, not a path
                continue
            if not str(path).startswith("/"):
                self._leave_out(str(path), "a path begins with '/'")
                continue
            try:
                yield from self._operations_at(str(path), self._resolved(item))
            except _Unreadable as unreadable:
                self._unreadable_paths.append(UnreadablePath(self._base() + str(path), str(unreadable)))

    def _operations_at(self, path: str, item: Mapping[str, Any]) -> Iterator[SpecOperation]:
        for key in item:
            method = str(key).lower()
            if method in _METHODS and key == method:
                yield self._operation(method.upper(), path, item)
            elif method in _METHODS or key in _OTHER_OPERATIONS:
                raise _Unreadable(f"its key {key} is none of {', '.join(_METHODS)}")

    def _operation(self, method: str, path: str, item: Mapping[str, Any]) -> SpecOperation:
        try:
            return self._readable(method, path, item, self._resolved(item[method.lower()]))
        except _Unreadable as unreadable:
            return SpecOperation(method, self._base() + path, None, None, unreadable=str(unreadable))

    def _readable(self, method: str, path: str, item: Mapping[str, Any], operation: Mapping[str, Any]) -> SpecOperation:
        remarks: list[str] = []
        place = next((each for each in (operation, item) if "servers" in each), self._document)
        address, base = self._server(place, remarks)
        security = self._security(self._place_of_security(item, operation), remarks)
        name = operation.get("operationId")
        return SpecOperation(
            method, base + path, None if name is None else str(name), security, tuple(remarks), address
        )

    def _base(self) -> str:
        """The path of the document's server, empty if it is unreadable."""
        try:
            return self._server(self._document, [])[1]
        except _Unreadable:
            return ""

    # ---- servers

    def _server(self, place: Mapping[str, Any], remarks: list[str]) -> tuple[str | None, str]:
        """The origin of the first server, None for a relative one, and its path."""
        servers = place.get("servers") or [{"url": "/"}]
        if not isinstance(servers, list) or not all(isinstance(server, dict) for server in servers):
            raise _Unreadable(f"its servers are {_kind(servers)}, not a list of mappings with a url")
        urls = [_filled(str(server.get("url", "/")), _mapping(server.get("variables"))) for server in servers]
        paths = list(dict.fromkeys(_split(url).path.rstrip("/") for url in urls))
        if _VARIABLE.search(paths[0]):
            raise _Unreadable(f"its server {urls[0]} has a variable without a default")
        if paths[0] and not paths[0].startswith("/"):
            raise _Unreadable(f"its server {urls[0]} is relative to the address of the document")
        if len(paths) > 1:
            remarks.append(f"it has servers with several paths: {paths[0] or '/'} is used")
        return self._origin(place, urls[0]), paths[0]

    def _origin(self, place: Mapping[str, Any], url: str) -> str | None:
        """The origin of a server in the format of an upstream; None for a server relative to the document."""
        parts = _split(url)
        if not parts.scheme and not parts.netloc:
            return None
        try:
            return origin(f"{parts.scheme}://{parts.netloc}")
        except InvalidValue:
            if place is self._document:
                return None  # the draft uses a placeholder instead
            raise _Unreadable("its own server has no address that an upstream can have") from None

    def _address_of_all(self, operations: list[SpecOperation]) -> str | None:
        """The origin of the document's server, else the most frequent one of its operations."""
        try:
            address, _ = self._server(self._document, [])
        except _Unreadable:
            address = None
        named = Counter(each.address for each in operations if each.address is not None)
        return address or next((origin for origin, _ in named.most_common(1)), None)

    def _is_served_at(self, address: str | None, operation: SpecOperation) -> bool:
        if operation.address in (None, address):
            return True
        self._leave_out(str(operation), f"another server serves it, {operation.address}")
        return False

    # ---- security

    def _place_of_security(self, item: Mapping[str, Any], operation: Mapping[str, Any]) -> Mapping[str, Any]:
        """The operation, or the document. A security elsewhere has no meaning in OpenAPI, and its author has meant to
        restrict the operation."""
        for key in operation:
            if _is_misspelt_security(key):
                raise _Unreadable(f"its key {key} is not known (security)")
        if "security" in operation:
            return operation
        for key in item:
            if key == "security" or _is_misspelt_security(key):
                raise _Unreadable(f"the {key} of its path has no meaning (security in the operation)")
        for key in self._document:
            if _is_misspelt_security(key):
                raise _Unreadable(f"the key {key} of the document is not known (security)")
        return self._document

    def _security(self, place: Mapping[str, Any], remarks: list[str]) -> Security:
        security = place.get("security", [])
        if not isinstance(security, list) or not all(isinstance(each, dict) for each in security):
            raise _Unreadable(f"its security is {_kind(security)}, not a list of mappings such as [{{bearerAuth: []}}]")
        alternatives = [scopes for each in security if each and (scopes := self._scopes(each, remarks)) is not None]
        return Security(tuple(dict.fromkeys(alternatives)), anonymous=not security or {} in security)

    def _scopes(self, schemes: Mapping[str, Any], remarks: list[str]) -> frozenset[str] | None:
        """The scopes of one alternative; None if it requires neither a token nor a scope."""
        scopes: set[str] = set()
        takes_token = False
        for name, listed in schemes.items():
            scheme = self._schemes.get(str(name))
            scopes |= _roles(str(name), listed)
            if scheme is None:
                remarks.append(f"the security scheme {name} is not defined: only its scopes count")
                continue
            if not _takes_tokens(scheme):
                remarks.append(_not_checked(str(name), scheme))
                continue
            takes_token = True
        return frozenset(scopes) if takes_token or scopes else None

    def _readable_schemes(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for name, scheme in _mapping(_mapping(self._document.get("components")).get("securitySchemes")).items():
            try:
                yield str(name), self._resolved(scheme)
            except _Unreadable as unreadable:
                self._remarks.append(f"the security scheme {name} cannot be read: {unreadable}")

    # ---- references

    def _resolved(self, value: Any) -> Mapping[str, Any]:
        """The mapping, or the mapping that it references within the document."""
        followed: set[str] = set()
        while True:
            if not isinstance(value, dict):
                raise _Unreadable(f"it is {_kind(value)}, not a mapping")
            reference = value.get("$ref")
            if reference is None and "$ref" not in value:
                return value
            beside = [str(key) for key in value if key not in _BESIDE_REFERENCE]
            if beside:
                raise _Unreadable(f"it has {', '.join(beside)} beside its $ref")
            if reference in followed:
                raise _Unreadable(f"{reference} refers to itself")
            followed.add(str(reference))
            value = self._at(reference)

    def _at(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise _Unreadable(f"it refers to {reference}, outside this document")
        value: Any = self._document
        for step in unquote(reference[2:]).split("/"):
            key = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(value, dict) or key not in value:
                raise _Unreadable(f"it refers to {reference}, which does not exist")
            value = value[key]
        return value


def _is_misspelt_security(key: object) -> bool:
    return key != "security" and _LIKE_SECURITY.match(str(key)) is not None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return "a list of other values"
    return "a mapping" if isinstance(value, dict) else f"'{value}'"


def _filled(url: str, variables: Mapping[str, Any]) -> str:
    """The URL with the defaults of its variables. A variable without a default stays."""

    def filled(found: re.Match[str]) -> str:
        default = _mapping(variables.get(found[1])).get("default")
        return found[0] if default is None or isinstance(default, _Repeated) else str(default)

    return _VARIABLE.sub(filled, url)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # such as half of an IPv6 address
        raise _Unreadable(f"its server {url} is no URL") from None


def _roles(scheme: str, scopes: Any) -> set[str]:
    """The scopes as role names. Different scopes never become the same role."""
    if not isinstance(scopes, list):
        raise _Unreadable(f"the scopes of {scheme} are {_kind(scopes)}, not a list such as [] or [{scheme}:read]")
    for scope in scopes:
        try:
            if not isinstance(scope, str) or not scope or not scope.isprintable():
                raise _Unreadable(f"the scope {scope!r} of {scheme} is not printable text")
            role_name(scope)
        except InvalidValue as error:
            raise _Unreadable(f"the scope {scope!r} of {scheme} {error.message} ({error.right})") from None
    return set(scopes)


def _takes_tokens(scheme: Mapping[str, Any]) -> bool:
    bearer = scheme.get("type") == "http" and str(scheme.get("scheme")).lower() == "bearer"
    return bearer or scheme.get("type") in _TOKENS


def _not_checked(name: str, scheme: Mapping[str, Any]) -> str:
    kind = str(scheme.get("type"))
    if kind == "http":
        return f"{name} (http {scheme.get('scheme')}) does not reach the upstream: clients send a token of the gateway"
    return f"{name} ({kind}) is for the upstream to check"
