"""Routes drafted from the operations of an OpenAPI document, as a configuration that can be served.

Scopes become roles of the same name. A draft is never laxer than the document: where a policy cannot say what the
document does, it asks for more, and a comment says so.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from gateway.drafts.spec import Asks, Spec, SpecOperation
from gateway.policy.own import own_routes, reserved_for
from gateway.policy.patterns import Pattern, PatternError, parse_pattern
from gateway.settings.model import Settings

_PART: Final = re.compile(r"\{([^{}]*)\}")
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]")
_INVISIBLE: Final = re.compile(r"[^!-~]+")
_LONGEST_NAME: Final = 120


class DraftRoute(NamedTuple):
    """One route: its pattern, name, method, and what it asks as keys of the file; and what is to be said of it."""

    path: str
    name: str | None
    method: str
    asks: str
    roles: frozenset[str]
    remarks: tuple[str, ...]


class Draft(NamedTuple):
    """The routes, and what was left out or is worth a look."""

    routes: tuple[DraftRoute, ...]
    remarks: tuple[str, ...]


def draft(spec: Spec) -> Draft:
    """Draft the routes of a document."""
    drafting = _Drafting()
    routes = tuple(route for operation in spec.operations if (route := drafting.route(operation)) is not None)
    return Draft(routes, (*spec.remarks, *drafting.remarks))


def pattern_of(path: str) -> tuple[Pattern, tuple[str, ...]]:
    """The pattern of a path template, and what it does not say as the template does. Raises PatternError."""
    remarks: list[str] = []
    names: set[str] = set()
    parts = [_segment(part, names, remarks) for part in path.split("/")]
    return parse_pattern("/".join(parts)), tuple(remarks)


def _segment(part: str, names: set[str], remarks: list[str]) -> str:
    found = _PART.findall(part)
    if not found:
        return part
    name = _NOT_IN_NAMES.sub("_", "_".join(found)) or "value"
    name = name if name[0].isalpha() or name[0] == "_" else f"_{name}"
    while name in names:
        name += "_"
    names.add(name)
    if part != f"{{{found[0]}}}":
        remarks.append(f"the whole segment is matched, not only {part}")
    elif name != found[0]:
        remarks.append(f"{part} is called {{{name}}}")
    return f"{{{name}}}"


class _Drafting:
    def __init__(self) -> None:
        self.remarks: list[str] = []
        self._own = own_routes(Settings())
        self._served: dict[object, str] = {}
        self._names = {route.name for route in self._own}

    def route(self, operation: SpecOperation) -> DraftRoute | None:
        """The route of an operation; None where there can be none, which is remarked."""
        try:
            pattern, remarks = pattern_of(operation.path)
        except PatternError as error:
            self._leave_out(operation, f"its path {error.wrong}")
            return None
        own = reserved_for(pattern, self._own)
        if own is not None:
            self._leave_out(operation, f"{own.pattern} is the gateway's own")
            return None
        methods = ("GET", "HEAD") if operation.method == "GET" else (operation.method,)
        for method in methods:
            before = self._served.setdefault((pattern.shape, method), str(operation))
            if before != str(operation):
                self._leave_out(operation, f"{before} serves the same requests")
                return None
        asks, roles, more = _asked(operation.asks)
        told = (*remarks, *operation.remarks, *more)
        return DraftRoute(pattern.text, self._name(operation.name), operation.method, asks, roles, told)

    def _leave_out(self, operation: SpecOperation, why: str) -> None:
        self.remarks.append(f"{operation} is left out: {why}")

    def _name(self, name: str | None) -> str | None:
        """The name of a route, unique; None where nothing but what cannot stand in one is left."""
        base = _INVISIBLE.sub("-", name or "").strip("-")[:_LONGEST_NAME]
        if not base:
            return None
        unique, number = base, 1
        while unique in self._names:
            number += 1
            unique = f"{base}-{number}"
        self._names.add(unique)
        return unique


def _asked(asks: Asks) -> tuple[str, frozenset[str], tuple[str, ...]]:
    """What is asked as keys of the file, the roles in it, and what is to be said of that."""
    if asks.anonymous:
        # Whoever may come without a token may come; a good one is told to the upstream.
        return ("auth: optional" if asks.alternatives else "auth: none"), frozenset(), ()
    if not asks.alternatives or frozenset() in asks.alternatives:
        return "", frozenset(), ()
    if all(len(scopes) == 1 for scopes in asks.alternatives):
        roles = frozenset().union(*asks.alternatives)
        return f"roles: [{_listed(roles)}]", roles, ()
    roles = frozenset().union(*asks.alternatives)
    remark = ("alternatives of several scopes cannot be said: all of them are asked for",)
    return f"roles: {{all: [{_listed(roles)}]}}", roles, remark if len(asks.alternatives) > 1 else ()


def _listed(roles: frozenset[str]) -> str:
    return ", ".join(quoted(role) for role in sorted(roles))


# ---- as a file


def quoted(text: str) -> str:
    """A text as it can stand anywhere in YAML."""
    if re.fullmatch(r"[A-Za-z_/][A-Za-z0-9_./-]*", text) and text.lower() not in ("null", "true", "false"):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("${", "$${")
    return '"' + "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in escaped) + '"'


def as_yaml(drafted: Draft, *, spec: Spec, upstream: str) -> str:
    """A configuration with these routes."""
    return "\n".join(_lines(drafted, spec, upstream)) + "\n"


def _lines(drafted: Draft, spec: Spec, upstream: str) -> Iterator[str]:
    yield f"# Drafted from {_comment(spec.title) or 'an OpenAPI document'}. Read it before it is served."
    yield from (f"# {_comment(remark)}" for remark in drafted.remarks)
    yield "upstreams:"
    yield f"  {quoted(upstream)}: {spec.address or 'http://127.0.0.1:9000'}"
    roles = frozenset().union(*(route.roles for route in drafted.routes))
    if roles:
        yield "roles:"
        yield from (f"  {quoted(role)}: []" for role in sorted(roles | {"admin", "user"}))
    if not drafted.routes:
        yield "routes: []"
        return
    yield "routes:"
    for route in drafted.routes:
        yield from (f"  # {_comment(remark)}" for remark in route.remarks)
        yield f"  - path: {quoted(route.path)}"
        yield f"    methods: [{route.method}]"
        if route.asks:
            yield f"    {route.asks}"
        yield f"    upstream: {quoted(upstream)}"
        if route.name is not None:
            yield f"    name: {quoted(route.name)}"


def _comment(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
