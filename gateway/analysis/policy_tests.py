"""The file format of policy tests: callers, each with requests that must be allowed or refused.

    - name: editors write articles
      as: {roles: [editor]}          # or anonymous, or {id: u1, roles: [...]}
      allow: [POST /articles]
      deny: ["GET /admin -> 403 admin-area"]

Parsed like the configuration: YAML 1.2, all problems at once, each with line and column.
"""

import re
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any, Final, Literal

from gateway.analysis.explain import Credential, Person
from gateway.analysis.simulate import PolicyRequest, parse_request_line
from gateway.errors import Problem
from gateway.identity.user import CredentialKind
from gateway.settings.declare import section, setting
from gateway.settings.loader import text_of_file
from gateway.settings.model_routes import NOWHERE
from gateway.settings.model_server import ROLE
from gateway.settings.positions import Position
from gateway.settings.reader import INVALID, Invalid, InvalidValue, Reader, Scalar
from gateway.settings.schema import DIALECT, INTERPOLATED_DEFINITION
from gateway.settings.types import Boolean, Duration, Enum, JsonSchema, ScalarKind, Text, text_of
from gateway.settings.types_compound import ListOf, Section, Sections
from gateway.settings.yaml import MappingNode, Node, NotYaml, ScalarNode, compose

_LINE: Final = re.compile(r"(\S+) +(\S+)(?: +-> *(?:([0-9]{3})(?: +|\Z))?(.*))?")
# 303: a refusal that redirects a browser that navigates.
_REFUSALS: Final = frozenset((303, 400, 401, 403, 404, 405))
_FORM: Final = 'for example "GET /orders/7" or "GET /orders/7 -> 403 orders"'


@section
class Expectation:
    """One expected decision. `status` is the status of the refusal, `route` the name of the route; None matches any."""

    text: str
    request: PolicyRequest
    allowed: bool
    status: int | None = None
    route: str | None = None
    position: Position = field(default=NOWHERE, compare=False)


class ExpectationKind(ScalarKind[Expectation]):
    """`METHOD PATH`, optionally followed by `-> STATUS ROUTE`."""

    words = "request"
    expected = "a request: METHOD PATH, optionally -> STATUS ROUTE"
    right = _FORM

    def __init__(self, *, allowed: bool) -> None:
        self.allowed = allowed

    def read_scalar(self, scalar: Scalar, node: ScalarNode, path: str, reader: Reader) -> Expectation | Invalid:
        found = super().read_scalar(scalar, node, path, reader)
        if found is INVALID:
            return INVALID
        return replace(found, position=Position(reader.file, node.line, node.column))

    def accept(self, scalar: Scalar) -> Expectation:
        text = text_of(scalar, self.expected).strip()
        line = _LINE.fullmatch(text)
        if line is None:
            raise self.unacceptable()
        request = parse_request_line(line[1], line[2])
        status, route = int(line[3]) if line[3] else None, (line[4] or "").strip() or None
        if "->" in text and status is None and route is None:
            raise self.unacceptable()
        if status is not None and (self.allowed or status not in _REFUSALS):
            raise self._no_such_status(status)
        return Expectation(text=text, request=request, allowed=self.allowed, status=status, route=route)

    def _no_such_status(self, status: int) -> InvalidValue:
        if self.allowed:
            return InvalidValue("must name no status: the upstream answers allowed requests", "the route alone")
        return InvalidValue("must name a status that a policy refuses with", ", ".join(map(str, sorted(_REFUSALS))))

    def schema(self) -> JsonSchema:
        return {"type": "string", "pattern": r"^\s*\S+ +\S+( +->.*)?$"}


@section
class SubjectSettings:
    """A signed-in user."""

    id: str | None = setting(
        Text("a user id", words="user id").or_null(),
        "The user's id, for routes with `owner`; null: an id that owns no path.",
        default=None,
    )
    roles: tuple[str, ...] = setting(
        ListOf(ROLE, "a list of roles", right="for example [editor], or [] for none"),
        "The user's own roles; implied roles are added.",
        default=(),
    )
    credential: Literal["cookie", "token", "api_key", "external"] = setting(
        Enum("cookie", "token", "api_key", "external"), "The kind of credential.", default="token"
    )
    age: float = setting(Duration(zero=True), "The age of the sign-in.", default=0.0)
    verified: bool = setting(Boolean(), "Whether the e-mail address is verified.", default=True)
    origin: str | None = setting(
        Text("an origin").or_null(), "The `Origin` of the requests; null: they have none.", default=None
    )
    fetch_site: str | None = setting(
        Text("a value of Sec-Fetch-Site").or_null(),
        "The `Sec-Fetch-Site` of the requests, for example `same-origin`; null: they have none.",
        default=None,
    )


class SubjectKind(Section[SubjectSettings | None]):
    """`anonymous`, read as None, or a signed-in user."""

    words = "`anonymous`, or mapping"

    def __init__(self) -> None:
        super().__init__(SubjectSettings, "anonymous, or a mapping with roles")
        self.right = "for example {roles: [editor]}"

    def read_scalar(
        self, scalar: Scalar, node: ScalarNode, path: str, reader: Reader
    ) -> SubjectSettings | Invalid | None:
        if scalar.value == "anonymous":
            return None
        return super().read_scalar(scalar, node, path, reader)

    def schema(self) -> JsonSchema:
        return {"anyOf": [{"const": "anonymous"}, super().schema()]}


@section
class PolicyTest:
    """Requests that one caller can and cannot make."""

    key: str = field(default="", compare=False)
    position: Position = field(default=NOWHERE, compare=False)
    name: str = setting(Text("a name", words="text"), "A description of the test.")
    as_: SubjectSettings | None = setting(
        SubjectKind(), "The caller: `anonymous`, `{roles: [editor]}`, or `{id: u1, roles: [editor]}`."
    )
    allow: tuple[Expectation, ...] = setting(
        ListOf(ExpectationKind(allowed=True), "a list of requests", right=_FORM),
        "Requests that must be allowed: `METHOD PATH`, or `METHOD PATH -> ROUTE`.",
        default=(),
    )
    deny: tuple[Expectation, ...] = setting(
        ListOf(ExpectationKind(allowed=False), "a list of requests", right=_FORM),
        "Requests that must be refused: `METHOD PATH`, or `METHOD PATH -> STATUS ROUTE`.",
        default=(),
    )

    @property
    def person(self) -> Person | None:
        """The user, None for an anonymous caller."""
        if self.as_ is None:
            return None
        kind: CredentialKind = "session" if self.as_.credential == "cookie" else self.as_.credential
        credential, roles = Credential(kind, self.as_.age), frozenset(self.as_.roles)
        return Person(self.as_.id or "", roles, email_verified=self.as_.verified, credential=credential)

    def request_of(self, expectation: Expectation) -> PolicyRequest:
        """The request of an expectation, with the fields that the caller's browser adds."""
        if self.as_ is None:
            return expectation.request
        page, site = (None if each is None else each.encode() for each in (self.as_.origin, self.as_.fetch_site))
        return expectation.request._replace(origin=page, fetch_site=site)

    @property
    def expectations(self) -> tuple[Expectation, ...]:
        """All expectations, allowed requests first."""
        return (*self.allow, *self.deny)


class PolicyTestKind(Section[PolicyTest]):
    """A test with its position. It must expect something."""

    def __init__(self) -> None:
        super().__init__(PolicyTest, "a test")
        self.right = "for example {name: everyone reads, as: anonymous, allow: [GET /articles]}"

    def extras(self, node: MappingNode, path: str, reader: Reader) -> dict[str, Any]:
        return {"key": path, "position": Position(reader.file, node.line, node.column)}

    def read_mapping(self, node: MappingNode, path: str, reader: Reader) -> PolicyTest | Invalid:
        test = super().read_mapping(node, path, reader)
        if test is not INVALID and not test.expectations and not self._reported(path, reader):
            reader.report(node, path, "expects nothing (allow or deny, each a list of requests)")
        return test

    def _reported(self, path: str, reader: Reader) -> bool:
        return any(problem.key.startswith(f"{path}.") for problem in reader.problems)


def read_policy_tests(
    content: bytes, file: str, environment: Mapping[str, str]
) -> tuple[tuple[PolicyTest, ...], tuple[Problem, ...]]:
    """The tests of one file, and all problems in it. `file` is its name in problems."""
    reader = Reader(file, environment)
    try:
        tests = _read(compose(text_of_file(content), reader.report_in), reader)
    except NotYaml as error:
        reader.report_in(error.line, error.column, "", str(error))
        tests = ()
    return tests, tuple(sorted(set(reader.problems)))


def _read(root: Node | None, reader: Reader) -> tuple[PolicyTest, ...]:
    if root is None:
        raise NotYaml(1, 1, "is empty; it needs a list of tests (- name: …)")
    tests = _file().read(root, "tests", reader)
    return () if tests is INVALID else tests


def _file() -> Sections[PolicyTest]:
    return Sections(PolicyTestKind(), "a list of tests", right="- name: …, as: …, allow: […]")


def policy_tests_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a file of policy tests."""
    test = PolicyTestKind()
    subject = SubjectKind()
    return {
        "$schema": DIALECT,
        "title": "Policy tests of the gateway",
        "description": "Requests that callers can and cannot make. Run with: gateway test FILE",
        "type": "array",
        "items": {"description": PolicyTest.__doc__, **test.definition()},
        "$defs": {
            "interpolated": INTERPOLATED_DEFINITION,
            "SubjectSettings": {"description": SubjectSettings.__doc__, **subject.definition()},
        },
    }
