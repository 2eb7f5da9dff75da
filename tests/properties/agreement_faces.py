"""All components of one process that decide on a request, applied to the same request."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Final, Self

import yaml

from gateway.analysis.explain import Person, caller_of, capture_texts, explain
from gateway.analysis.matrix import matrix
from gateway.analysis.policy_tests import read_policy_tests
from gateway.analysis.simulate import PolicyRequest, SimulationResult, simulate
from gateway.analysis.test_runner import run_policy_tests
from gateway.cli.explain_json import document
from gateway.errors import Refusal
from gateway.gate.admission import Admission, DirectResponse, Peer, PendingDecision, RequestHead
from gateway.gate.forward_auth import Verifier
from gateway.gate.gate import Decision, Gate
from gateway.gate.rate_limits import Limits
from gateway.identity.access_token import Tokens
from gateway.identity.credentials import Authenticator
from gateway.identity.directory import Directory
from gateway.identity.keys import KeyRing, SigningKey
from gateway.identity.principal import PrincipalFactory
from gateway.identity.user import UserRecord
from gateway.policy.loader import compile_policy
from gateway.policy.roles import RoleHierarchy
from gateway.settings.model import CacheSettings, Settings
from gateway.wire.addresses import TrustedProxies
from gateway.wire.fields import Field, FieldRules
from gateway.wire.hosts import canonical_host
from tests.properties.agreement_reference import Request, naive
from tests.properties.parity import Asked as Written
from tests.properties.parity import Route as RouteText

Outcome = str
"""`allowed ROUTE`, `answered`, `CODE ROUTE`, or `CODE` without a route."""

_ANSWERED: Final = 204
_CREATED: Final = datetime(2026, 1, 1, tzinfo=UTC)
_SECRET: Final = b"for the comparison of decisions only"
_NOT_TRUSTED, _TRUSTED = "127.0.0.9", "127.0.0.1"
_ABOUT_PAGES: Final = ("origin", "access-control-request-method")


class People:
    """The user records of all people."""

    def __init__(self, people: Mapping[str, Person | None]) -> None:
        self._by_id = {person.id: person for person in people.values() if person is not None}

    async def user(self, user_id: str) -> UserRecord | None:
        person = self._by_id.get(user_id)
        if person is None:
            return None
        is_active = person.state == "active"
        return UserRecord(user_id, f"{user_id}@example.com", is_active, person.own_roles, _CREATED, version=1)


class Faces:
    """All deciding components for one policy and people by name. Use as a context manager."""

    def __init__(self, settings: Settings, routes: Sequence[RouteText], people: Mapping[str, Person | None]) -> None:
        self._settings = settings
        self._routes = routes
        self._people = people
        self._policy = compile_policy(settings)
        self._roles = RoleHierarchy(settings.roles)
        table = matrix(self._policy.routes, tuple(settings.roles or ()), self._roles)
        self._columns = {role: number for number, role in enumerate(table.roles)}
        self._rows = {row.route: row for row in table.rows}
        tokens = Tokens(KeyRing([SigningKey(_SECRET, "HS256", "k1")]), settings.tokens)
        factory = PrincipalFactory(settings.identity, self._roles.expand)
        self._gate = Gate(
            policy=self._policy,
            credentials=Authenticator(tokens),
            directory=Directory(People(people), factory=factory, cache_settings=CacheSettings()),
            limits=Limits(self._policy.routes, shared=None),
        )
        names = settings.identity.headers
        self._rules = FieldRules([name for name in (names.id, names.email, names.roles) if name])
        self._verifier = Verifier(tuple(name for name in (names.id, names.email, names.roles) if name))
        self._credentials = {"garbage": b"Bearer a.b.c", "basic": b"Basic dXNlcjpwYXNz"}
        for name, person in people.items():
            if person is not None:
                issued = tokens.issue(user_id=person.id, session_id="s", roles=())
                self._credentials[name] = b"Bearer " + issued.token.encode()
        self._proxies = TrustedProxies([ip_network("127.0.0.1/32")])
        self._loop = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.close()

    def outcomes(self, written: Written, *, handshake: bool) -> dict[str, Outcome]:
        """The outcome of each component that supports the request. The first one is `simulate`."""
        person = self._people[written.person]
        asked = _asked(written, handshake=handshake)
        verdict = simulate(self._policy, asked, caller_of(self._roles, person))
        outcomes = {"decide": _of_verdict(verdict), "explain": self._explained(asked, person)}
        reference = self._reference(written, asked, verdict, person)
        tested = self._tested(written, asked, verdict, person)
        tabled = self._tabled(verdict, person)
        for name, outcome in (("reference", reference), ("test", tested), ("matrix", tabled)):
            if outcome is not None:
                outcomes[name] = outcome
        outcomes["gate"] = self.by_gate(written, handshake=handshake)
        outcomes["verify"] = self._verified(written, handshake=handshake)
        return outcomes

    # ---- the commands

    def _explained(self, asked: PolicyRequest, person: Person | None) -> Outcome:
        explained = document(explain(self._policy, self._roles, asked, person), self._settings)
        decision, route = explained["decision"], explained["route"]
        if decision["status"] == _ANSWERED:
            return "answered"
        return _outcome(
            "allowed" if decision["allowed"] else decision["code"], None if route is None else route["name"]
        )

    def _tested(
        self, written: Written, asked: PolicyRequest, verdict: SimulationResult, person: Person | None
    ) -> Outcome | None:
        """Run the request as a policy test, together with its opposite, which must fail."""
        is_disabled = person is not None and person.state != "active"
        if asked.preflight or is_disabled or (asked.websocket and asked.origin is not None):
            return None
        scheme = "ws" if asked.websocket else "http"
        request = f"{written.method} {scheme}://{written.host}{written.target}"
        route = verdict.route.name if verdict.route is not None else ""
        right, wrong = ("allow", "deny") if verdict.is_allowed else ("deny", "allow")
        met = f"{request} -> {verdict.status or ''} {route}".rstrip(" ->")
        who = "anonymous" if person is None else {"id": person.id, "roles": sorted(person.own_roles)}
        text = yaml.safe_dump(
            [{"name": "as it is", "as": who, right: [met]}, {"name": "the opposite", "as": who, wrong: [request]}]
        )
        tests, problems = read_policy_tests(text.encode(), "tests.yaml", {})
        if problems:
            return f"cannot be read: {problems[0]}"
        report = run_policy_tests(self._policy, self._roles, tests)
        if [result.test.name for result in report.failures] != ["the opposite"]:
            return "not as expected"
        return _of_verdict(report.results[0].verdict)

    def _tabled(self, verdict: SimulationResult, person: Person | None) -> Outcome | None:
        """The cell of the matrix for a person with one role; None if another check refused, or an endpoint answered."""
        code = "allowed" if verdict.refusal is None else verdict.refusal.code
        row = self._rows.get(verdict.route) if verdict.route is not None else None
        is_disabled = person is not None and person.state != "active"
        if row is None or verdict.answered or is_disabled or code not in ("allowed", "forbidden", "token_missing"):
            return None
        if person is None:
            return _outcome("allowed" if row.anonymous.access == "yes" else "token_missing", row.route.name)
        (role,) = person.own_roles
        cell = row.roles[self._columns[role]]
        is_own = (row.route.requirement.owner, person.id) in capture_texts(verdict).items()
        passes = cell.access == "yes" or (cell.owner and is_own)
        return _outcome("allowed" if passes else "forbidden", row.route.name)

    def _reference(
        self, written: Written, asked: PolicyRequest, verdict: SimulationResult, person: Person | None
    ) -> Outcome | None:
        """The outcome of the reference, or None: it does not model CORS, handshakes and relaxed paths."""
        if verdict.target is None:
            return "bad_path"
        path = verdict.target.path
        if (
            asked.preflight
            or asked.websocket
            or (self._policy.relaxed and (b"%" in bytes(path) or b";" in bytes(path)))
        ):
            return None
        host = canonical_host(written.host.encode()).decode()
        return naive(self._routes, self._settings.roles or {}, Request(path, host, written.method), person)

    # ---- the gate

    def by_gate(self, written: Written, *, handshake: bool) -> Outcome:
        fields = [(b"Host", written.host.encode()), *_fields(written.fields), *self._credential(written)]
        head = self._head(written.method, written.target, fields, peer=_NOT_TRUSTED)
        head.websocket = handshake
        decision = self._resolved(self._gate.admit(head))
        return self._of_decision(decision, written)

    def _verified(self, written: Written, *, handshake: bool) -> Outcome:
        """The request as described by a proxy in front, in its own fields."""
        about_pages = [each for each in _fields(written.fields) if each[0].lower().decode() in _ABOUT_PAGES]
        forwarded = {"Method": written.method, "Uri": written.target, "Host": written.host}
        fields = [(f"X-Forwarded-{name}".encode(), value.encode()) for name, value in forwarded.items()]
        fields += [(b"Host", b"verify.test"), *about_pages, *self._credential(written)]
        fields += [(b"Sec-WebSocket-Key", b"AAAAAAAAAAAAAAAAAAAAAA==")] if handshake else []
        question = self._head("GET", "/_gateway/verify", fields, peer=_TRUSTED)
        asked = self._resolved(self._gate.admit(question))
        assert isinstance(asked, Admission)
        verdict = self._verifier.ask(self._gate, asked)
        if isinstance(verdict, PendingDecision):
            verdict = self._loop.run(self._verifier.resolve(self._gate, asked, verdict))
        if isinstance(verdict.outcome, DirectResponse) and verdict.outcome.status != _ANSWERED:
            return _outcome("allowed", dict(verdict.outcome.fields)[b"x-gateway-route"].decode())
        return self._of_decision(verdict.outcome, written)

    def _head(self, method: str, target: str, fields: list[Field], *, peer: str) -> RequestHead:
        sorted_fields = self._rules.sort(fields)
        return RequestHead(
            method.encode(), target.encode(), sorted_fields, Peer(peer, "http", self._proxies), minor=1, made_id=b"r"
        )

    def _resolved(self, decision: Decision | PendingDecision) -> Decision:
        return self._loop.run(self._gate.resolve(decision)) if isinstance(decision, PendingDecision) else decision

    def _credential(self, written: Written) -> list[Field]:
        known = self._credentials.get(written.person)
        return [] if known is None else [(b"Authorization", known)]

    def _of_decision(self, decision: Decision, written: Written) -> Outcome:
        if isinstance(decision, Refusal):
            # For a policy, an invalid credential is the same as none.
            is_bad = decision.code == "token_invalid" and written.person in ("garbage", "basic")
            return _outcome("token_missing" if is_bad else decision.code, decision.route)
        return "answered" if isinstance(decision, DirectResponse) else _outcome("allowed", decision.route.name)


def _asked(written: Written, *, handshake: bool) -> PolicyRequest:
    named = {name.lower(): value for name, value in _fields(written.fields)}
    origin, method = named.get(b"origin"), written.method.encode()
    requested = named.get(b"access-control-request-method")
    is_preflight = origin is not None and requested is not None and method == b"OPTIONS"
    return PolicyRequest(
        requested if is_preflight and requested is not None else method,
        written.target.encode(),
        written.host.encode(),
        origin,
        handshake,
        is_preflight,
    )


def _fields(lines: list[str]) -> list[Field]:
    pairs = (line.partition(":") for line in lines)
    return [(name.encode(), value.strip().encode()) for name, _, value in pairs]


def _of_verdict(verdict: SimulationResult) -> Outcome:
    if verdict.answered:
        return "answered"
    route = None if verdict.route is None else verdict.route.name
    return _outcome("allowed" if verdict.refusal is None else verdict.refusal.code, route)


def _outcome(code: str, route: str | None) -> Outcome:
    return f"{code} {route}" if route else code
