"""Forward authorization: the decision without the proxying, for a proxy that stands in front (`/_gateway/verify`).

The proxy in front asks about a request before it sends it on by itself. What it asks about is put together again as the
request head that the gate would have been given, and the same gate decides: there is no second matcher.

    X-Forwarded-Method, X-Forwarded-Uri, X-Forwarded-Host      Traefik, Caddy, Envoy
    X-Original-Method, X-Original-URI                          nginx

They are believed from `server.trusted_proxies` only (CVE-2026-40575: whoever could set one chose the path that was
judged). Each may stand once, and where both dialects are spoken they must say the same: a caller's own field that
slipped through a proxy is then an error and never an answer.

200 means: may be sent on. Then every identity header is in the answer, without a value where nobody is signed in:
proxies that copy what they find leave a caller's forged field standing where there is nothing to copy
(GHSA-7r4p-vjf4-gxv4, CVE-2026-31908). Anything else goes back to the caller as it is.
"""

import logging
from typing import Final, NamedTuple

from gateway.admission import Admission, Answered, RequestHead, Waiting
from gateway.errors import Refusal, without_traceback
from gateway.gate import Decision, Gate
from gateway.identity.assertions import Assertions
from gateway.identity.principals import identity_value
from gateway.operations.decision_log import DecisionLog
from gateway.policy.methods import TRACE
from gateway.policy.route import Route
from gateway.proxy.forward import upstream_path
from gateway.responses import NO_STORE
from gateway.wire.fields import Field, RequestFields, list_members

_METHODS: Final = frozenset((b"x-forwarded-method", b"x-original-method"))
_TARGETS: Final = frozenset((b"x-forwarded-uri", b"x-original-uri"))
_REMEMBERED: Final = 4096  # principals and routes whose fields are kept ready
_LONGEST_REMEMBERED: Final = 2048  # bytes of the identity headers of a principal

# What the gateway's own parser knows, so that a method is refused here as it would be there (RFC 9110 15.6.2).
_KNOWN_METHODS: Final = frozenset(
    b"DELETE GET HEAD POST PUT OPTIONS TRACE COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK BIND REBIND UNBIND "
    b"ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PATCH PURGE MKCALENDAR LINK UNLINK "
    b"SOURCE QUERY".split()
)

log: Final = logging.getLogger("gateway.verify")


class Verdict(NamedTuple):
    """The answer to a question, and the admission under which it is logged: that of the question, on behalf of whoever
    the request is from."""

    admission: Admission
    outcome: Answered | Refusal


class Verifier:
    """Answers questions. `names` are those of the headers that only the gateway may set, `assertions` the proofs of who
    calls, where upstreams are sent one. `decision_log` is told of refusals that are not the gate's."""

    def __init__(
        self, names: tuple[str, ...], assertions: Assertions | None = None, decision_log: DecisionLog | None = None
    ) -> None:
        self._assertions = assertions
        self._decision_log = decision_log
        self._names = tuple(name.encode("ascii") for name in names)
        self._nobody = self._completed(())
        self._identities: dict[bytes, tuple[Field, ...]] = {}
        self._routes: dict[Route, Field] = {}

    def ask(self, gate: Gate, admission: Admission) -> Verdict | Waiting:
        """Decide on the request that a question is about; Waiting where the gate must wait for a store. `admission` is
        that of the question itself."""
        try:
            decision = gate.admit(asked_about(admission.request))
        except Refusal as refusal:
            decision = self._noted(without_traceback(refusal), admission)
        except Exception:
            log.exception("verifying failed: refused")
            decision = self._noted(Refusal("internal_error"), admission)
        return decision if isinstance(decision, Waiting) else self.verdict(admission, decision)

    async def conclude(self, gate: Gate, admission: Admission, waiting: Waiting) -> Verdict:
        """The same, with the stores asked."""
        return self.verdict(admission, await gate.conclude(waiting))

    def verdict(self, question: Admission, decision: Decision) -> Verdict:
        """What the proxy in front is told of a decision."""
        if not isinstance(decision, Admission):
            return Verdict(question, decision)
        try:
            outcome: Answered | Refusal = self._allowed(question.route, decision)
        except Exception:
            log.exception("verifying failed: refused")
            outcome = Refusal("internal_error")
        answered = question._replace(principal=decision.principal)
        return Verdict(answered, self._noted(outcome, answered) if isinstance(outcome, Refusal) else outcome)

    def _noted(self, refusal: Refusal, question: Admission) -> Refusal:
        if self._decision_log is not None:
            self._decision_log.endpoint_refused(refusal, question)
        return refusal

    def _allowed(self, verify: Route, admission: Admission) -> Answered | Refusal:
        route = admission.route
        if route.upstream is None:
            # Broad patterns never see the gateway's own paths; with a 200 the proxy in front would send them to an
            # upstream, passwords and all.
            return Refusal("no_route", f"{route.name} is the gateway's own: it is to be sent there, not asked about")
        name = self._routes.get(route) or self._learn_route(route)
        path = (b"x-gateway-path", upstream_path(admission))
        identity = self._identity(admission, route.upstream)
        request_id = (b"x-request-id", admission.request.request_id)
        fields = (NO_STORE, request_id, name, path, *identity, *admission.response_fields)
        return Answered(verify, 200, fields)

    def _identity(self, admission: Admission, upstream: str) -> tuple[Field, ...]:
        principal = admission.principal
        if principal is None:
            return self._nobody
        lines = principal.header_lines
        # RFC 9110 9.3.8: the answer to a TRACE shows it to the caller, so it carries no proof of who calls.
        if self._assertions is not None and admission.request.method != TRACE:
            lines += self._assertions.for_upstream(upstream)(principal)
        known = self._identities.get(lines)
        if known is None:
            pairs = (line.partition(b": ") for line in lines.split(b"\r\n") if line)
            known = self._completed(tuple((name, value) for name, _, value in pairs))
            if len(lines) <= _LONGEST_REMEMBERED:
                if len(self._identities) >= _REMEMBERED:
                    self._identities.clear()
                self._identities[lines] = known
        return known

    def _completed(self, said: tuple[Field, ...]) -> tuple[Field, ...]:
        """The identity headers, and those of which there is nothing to say without a value. Envoy is told to remove
        these, by the one field that it has for it; others overwrite or drop them."""
        named = {name for name, _ in said}
        unsaid = [name for name in self._names if name not in named]
        if not unsaid:
            return said
        return (*said, *((name, b"") for name in unsaid), (b"x-envoy-auth-headers-to-remove", b",".join(unsaid)))

    def _learn_route(self, route: Route) -> Field:
        if len(self._routes) >= _REMEMBERED:
            self._routes.clear()
        field = self._routes[route] = (b"x-gateway-route", identity_value(route.name))
        return field


def asked_about(question: RequestHead) -> RequestHead:
    """The head of the request that a question is about. Raises Refusal `forbidden` where it comes from a stranger or
    names no URI, `bad_request` where fields stand twice or contradict each other, `method_not_implemented`."""
    if not question.peer.trusted:
        raise Refusal("forbidden", "a peer that is no trusted proxy", detail="Only trusted proxies may ask")
    target = _said(question.fields, _TARGETS)
    if not target:
        raise Refusal(
            "forbidden", "no X-Forwarded-Uri or X-Original-URI", detail="The request asked about is not named"
        )
    method = _said(question.fields, _METHODS) or question.method
    if method not in _KNOWN_METHODS:
        raise Refusal("method_not_implemented", "a method that no request has")
    fields = RequestFields()
    vars(fields).update(vars(question.fields))
    if fields.forwarded_host is not None:
        fields.host, fields.hosts, fields.canonical_host = fields.forwarded_host, 1, None
    request = RequestHead(method, target, fields, question.peer, minor=question.minor, made_id=question.request_id)
    request.websocket = method == b"GET" and (question.websocket or _is_handshake(fields))
    return request


def _said(fields: RequestFields, names: frozenset[bytes]) -> bytes | None:
    """What the fields of these names say, None where there are none. Raises Refusal `bad_request`."""
    said: bytes | None = None
    seen = []
    for _, (name, value) in fields.forwarding:
        name = name.lower()
        if name not in names:
            continue
        value = value.strip(b" \t")
        if name in seen or (said is not None and said != value):
            raise Refusal("bad_request", f"{name.decode('ascii')} stands twice, or contradicts another field")
        seen.append(name)
        said = value
    return said


def _is_handshake(fields: RequestFields) -> bool:
    """Whether it opens a WebSocket. Upgrade belongs to the connection and does not reach us through every proxy, the
    key does: RFC 6455 4.1 asks for both."""
    if fields.upgrade is not None and b"websocket" in list_members(fields.upgrade):
        return True
    return any(len(name) == 17 and name.lower() == b"sec-websocket-key" for name, _ in fields.kept)
