"""Forward authorization: the decision without proxying, for a proxy in front of the gateway (`/_gateway/verify`).

The front proxy asks about each request before it forwards the request itself. The gateway reconstructs the head of that
request, and the same gate decides: there is no second matcher.

    X-Forwarded-Method, X-Forwarded-Uri, X-Forwarded-Host      Traefik, Caddy, Envoy
    X-Original-Method, X-Original-URI                          nginx

These fields are trusted only from `server.trusted_proxies` (CVE-2026-40575: a client that could set one chose the path
for the decision). Repeated fields, and different values in the two dialects, are errors: a client's own field passed on
by the proxy never determines the decision.

Where the gateway would redirect a browser to a sign-in page, the response is 303 with an absolute `Location`, or with
`?on-sign-in=401` the status of the refusal and the address in `X-Gateway-Location`, for proxies that pass on no 303.

200 allows the request. The response then contains every identity header, with an empty value for anonymous callers:
proxies that copy response fields would otherwise leave a client's forged field in place (GHSA-7r4p-vjf4-gxv4,
CVE-2026-31908). It also contains `X-Gateway-Cookie`: the Cookie field without the gateway's own cookies,
which the front proxy sends in place of the client's. The front proxy passes any other response to the client.
"""

import logging
from typing import Final, NamedTuple, Protocol

from gateway.errors import Refusal, without_traceback
from gateway.gate.admission import Admission, DirectResponse, PendingDecision, RequestHead
from gateway.gate.gate import Decider, Decision
from gateway.identity.assertions import Assertions
from gateway.identity.credentials import CredentialLines
from gateway.identity.principal import identity_value
from gateway.policy.patterns import TRACE
from gateway.policy.route import Route
from gateway.wire.fields import Field, RequestFields, list_members
from gateway.wire.problem import NO_STORE

_METHODS: Final = frozenset((b"x-forwarded-method", b"x-original-method"))
_TARGETS: Final = frozenset((b"x-forwarded-uri", b"x-original-uri"))
_ON_SIGN_IN: Final = b"on-sign-in=401"
_REMEMBERED: Final = 4096  # Principals and routes with cached fields.
_LONGEST_REMEMBERED: Final = 2048  # In bytes of the identity headers of a principal.

# The methods known to the gateway's own parser, so that both refuse the same ones (RFC 9110 15.6.2).
_KNOWN_METHODS: Final = frozenset(
    b"DELETE GET HEAD POST PUT OPTIONS TRACE COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK BIND REBIND UNBIND "
    b"ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PATCH PURGE MKCALENDAR LINK UNLINK "
    b"SOURCE QUERY".split()
)

log: Final = logging.getLogger("gateway.verify")


class Verdict(NamedTuple):
    """The response, and the admission for its log line: that of the verify request, with the principal of the original
    one."""

    admission: Admission
    outcome: DirectResponse | Refusal


class RefusalListener(Protocol):
    """Receives the refusals of requests that the gate has admitted to a built-in endpoint."""

    def endpoint_refused(self, refusal: Refusal, admission: Admission) -> None: ...


class Verifier:
    """Handles verify requests. `names` are the headers that only the gateway sets; `assertions` signs identity
    assertions if configured. `decision_log` records refusals that do not come from the gate."""

    def __init__(
        self,
        names: tuple[str, ...],
        assertions: Assertions | None = None,
        decision_log: RefusalListener | None = None,
        *,
        credential_lines: CredentialLines | None = None,
    ) -> None:
        self._assertions = assertions
        self._credential_lines = credential_lines
        self._decision_log = decision_log
        self._names = tuple(name.encode("ascii") for name in names)
        self._no_identity = self._completed(())
        self._identities: dict[bytes, tuple[Field, ...]] = {}
        self._routes: dict[Route, Field] = {}

    def ask(self, gate: Decider, admission: Admission) -> Verdict | PendingDecision:
        """Decide on the original request; PendingDecision if the gate needs a store. `admission` is that of the verify
        request."""
        try:
            decision = gate.admit(asked_about(admission.request))
        except Refusal as refusal:
            decision = self._noted(without_traceback(refusal), admission)
        except Exception:
            log.exception("verify failed: refused")
            decision = self._noted(Refusal("internal_error"), admission)
        return decision if isinstance(decision, PendingDecision) else self.verdict(admission, decision)

    async def resolve(self, gate: Decider, admission: Admission, waiting: PendingDecision) -> Verdict:
        """Complete a decision with I/O."""
        return self.verdict(admission, await gate.resolve(waiting))

    def verdict(self, question: Admission, decision: Decision) -> Verdict:
        """The response for a decision."""
        if not isinstance(decision, Admission):
            if isinstance(decision, Refusal) and decision.location is not None:
                _redirect_elsewhere(decision, question)
            return Verdict(question, decision)
        try:
            outcome: DirectResponse | Refusal = self._allowed(question.route, decision)
        except Exception:
            log.exception("verify failed: refused")
            outcome = Refusal("internal_error")
        answered = question._replace(principal=decision.principal)
        return Verdict(answered, self._noted(outcome, answered) if isinstance(outcome, Refusal) else outcome)

    def _noted(self, refusal: Refusal, question: Admission) -> Refusal:
        if self._decision_log is not None:
            self._decision_log.endpoint_refused(refusal, question)
        return refusal

    def _allowed(self, verify: Route, admission: Admission) -> DirectResponse | Refusal:
        route = admission.route
        if route.upstream is None:
            # Broad patterns never match built-in paths. With a 200 the front proxy would send such requests to an
            # upstream, passwords included.
            return Refusal("no_route", f"{route.name} is a built-in endpoint: send the request to the gateway itself")
        name = self._routes.get(route) or self._learn_route(route)
        path = (b"x-gateway-path", admission.upstream_path())
        identity = self._identity(admission, route.upstream)
        request_id = (b"x-request-id", admission.request.request_id)
        cookies = _other_cookies(admission.request.fields)
        fields = (NO_STORE, request_id, name, path, *identity, cookies, *admission.response_fields)
        return DirectResponse(verify, 200, fields)

    def _identity(self, admission: Admission, upstream: str) -> tuple[Field, ...]:
        principal, claims = admission.principal, admission.claims
        if principal is None or claims is None:
            return self._no_identity
        lines = principal.header_lines
        if self._credential_lines is not None:
            lines += self._credential_lines(claims)
        # RFC 9110 9.3.8: a TRACE response shows the request to the client, so it must not carry an assertion.
        if self._assertions is not None and admission.request.method != TRACE:
            lines += self._assertions.for_upstream(upstream)(principal, claims)
        known = self._identities.get(lines)
        if known is None:
            pairs = (line.partition(b": ") for line in lines.split(b"\r\n") if line)
            known = self._completed(tuple((name, value) for name, _, value in pairs))
            if len(lines) <= _LONGEST_REMEMBERED:
                if len(self._identities) >= _REMEMBERED:
                    self._identities.clear()
                self._identities[lines] = known
        return known

    def _completed(self, identity: tuple[Field, ...]) -> tuple[Field, ...]:
        """The identity headers, with empty values for missing ones. Envoy removes the missing ones by its own field;
        other proxies overwrite or drop them."""
        named = {name for name, _ in identity}
        missing = [name for name in self._names if name not in named]
        if not missing:
            return identity
        return (*identity, *((name, b"") for name in missing), (b"x-envoy-auth-headers-to-remove", b",".join(missing)))

    def _learn_route(self, route: Route) -> Field:
        if len(self._routes) >= _REMEMBERED:
            self._routes.clear()
        field = self._routes[route] = (b"x-gateway-route", identity_value(route.name))
        return field


def _redirect_elsewhere(refusal: Refusal, question: Admission) -> None:
    """Make the location absolute: the browser asked the front proxy, under the host of the original request."""
    assert refusal.location is not None
    address = refusal.origin + refusal.location
    if _ON_SIGN_IN in (question.target.query or b"").split(b"&"):
        refusal.refuse()
        refusal.headers = (*refusal.headers, (b"x-gateway-location", address.encode("ascii")))
    else:
        refusal.redirect(address, "")


def _other_cookies(fields: RequestFields) -> Field:
    """The Cookie field without own cookies, which `fields.kept` no longer contains. Several fields are one list (RFC
    9113 8.2.3)."""
    values = [value for name, value in fields.kept if len(name) == 6 and name.lower() == b"cookie"]
    return b"x-gateway-cookie", b"; ".join(values)


def asked_about(question: RequestHead) -> RequestHead:
    """The head of the original request.

    Raises Refusal: `forbidden` for an untrusted peer or a missing URI, `bad_request` for repeated or contradicting
    fields, `method_not_implemented` for an unknown method.
    """
    if not question.peer.trusted:
        raise Refusal(
            "forbidden", "the peer is not a trusted proxy", detail="Only trusted proxies can use this endpoint"
        )
    target = _field_value(question.fields, _TARGETS)
    if not target:
        raise Refusal(
            "forbidden", "no X-Forwarded-Uri or X-Original-URI", detail="The URI of the original request is missing"
        )
    method = _field_value(question.fields, _METHODS) or question.method
    if method not in _KNOWN_METHODS:
        raise Refusal("method_not_implemented", "an unknown method")
    fields = question.fields.copy()
    if fields.forwarded_host is not None:
        fields.host, fields.hosts, fields.canonical_host = fields.forwarded_host, 1, None
    request = RequestHead(method, target, fields, question.peer, minor=question.minor, made_id=question.request_id)
    request.websocket = method == b"GET" and (question.websocket or _is_handshake(fields))
    return request


def _field_value(fields: RequestFields, names: frozenset[bytes]) -> bytes | None:
    """The value of the fields with these names, or None. Raises Refusal `bad_request`."""
    found: bytes | None = None
    seen = []
    for _, (name, value) in fields.forwarding:
        name = name.lower()
        if name not in names:
            continue
        value = value.strip(b" \t")
        if name in seen or (found is not None and found != value):
            raise Refusal("bad_request", f"{name.decode('ascii')} is repeated or contradicts another field")
        seen.append(name)
        found = value
    return found


def _is_handshake(fields: RequestFields) -> bool:
    """Whether the request opens a WebSocket. Some proxies do not forward Upgrade, a hop-by-hop field, but all forward
    the key; RFC 6455 4.1 requires both."""
    if fields.upgrade is not None and b"websocket" in list_members(fields.upgrade):
        return True
    return any(len(name) == 17 and name.lower() == b"sec-websocket-key" for name, _ in fields.kept)
