"""The gate. Start reading here: this is the way of every request, from its raw head to a decision.

    path ─▶ host ─▶ route ─▶ method ─▶ credential ─▶ user ─▶ roles ─▶ Admission

Both faces of the gateway, its own endpoints and the proxy go through `admit`; nothing behind it looks at a path, a
token or a role again. A decision is a value: an Admission, or the Refusal that says why not. Where the user record is
not at hand the answer is Waiting, and `conclude` goes the rest of the way once a store has answered.

Closed unless argued: whatever goes wrong on the way to a decision is a refusal.
"""

import logging
from typing import Final

from gateway.admission import Admission, RequestHead, Waiting
from gateway.errors import Refusal, StorageUnavailable
from gateway.identity.directory import Absent, Directory
from gateway.identity.principals import Principal
from gateway.identity.records import Claims
from gateway.identity.tokens import Tokens
from gateway.policy.decide import authorize
from gateway.policy.matcher import Policy
from gateway.wire.bearer import bearer_credential
from gateway.wire.fields import RequestFields
from gateway.wire.hosts import canonical_host
from gateway.wire.paths import Target, canonical_target
from gateway.wire.websocket import credential_in_protocols, offered_protocols

Decision = Admission | Refusal

log: Final = logging.getLogger("gateway.gate")


class Gate:
    """Decides on requests. `relaxed` is `server.paths: relaxed`."""

    def __init__(self, *, policy: Policy, tokens: Tokens, directory: Directory, relaxed: bool) -> None:
        self._policy = policy
        self._tokens = tokens
        self._directory = directory
        self._relaxed = relaxed

    def admit(self, request: RequestHead) -> Decision | Waiting:
        """Decide without waiting for anything; Waiting where a store must be asked first."""
        route = None
        try:
            target = canonical_target(request.target, relaxed=self._relaxed)
            host = _host(request, target)
            route, captures = self._policy.match(host, target, request.method)
            if request.websocket and not route.websocket:
                raise Refusal("websocket_not_allowed")
            if route.authentication == "none":
                return Admission(route, captures, target, None, None, request)
            claims = self._claims(request, optional=route.authentication == "optional")
            if claims is None:
                return Admission(route, captures, target, None, None, request)
            waiting = Waiting(route, captures, target, claims, request)
            principal = self._directory.cached(claims.subject)
            return waiting if principal is None else self._judge(waiting, principal)
        except Refusal as refusal:
            refusal.route = None if route is None else route.name
            return refusal
        except Exception:
            log.exception("deciding failed: refused")
            return Refusal("internal_error")

    async def conclude(self, waiting: Waiting) -> Decision:
        """Ask the stores for the user and decide. Stores that are out: 503, never a 200 on a guess."""
        try:
            return self._judge(waiting, await self._directory.principal(waiting.claims.subject))
        except StorageUnavailable as error:
            return Refusal("storage_unavailable", str(error), route=waiting.route.name)
        except Exception:
            log.exception("deciding failed: refused")
            return Refusal("internal_error")

    def reconsider(self, admission: Admission) -> Refusal | Waiting | None:
        """Whether an admission still holds, for what lasts longer than a request: None where it does."""
        route, captures, target, principal, claims, request = admission
        if principal is None or claims is None:
            return None
        if self._tokens.is_over(claims):
            return Refusal("token_expired", presented=True, route=route.name)
        waiting = Waiting(route, captures, target, claims, request)
        known = self._directory.cached(claims.subject)
        return waiting if known is None else _no_more(self._judge(waiting, known))

    async def reconclude(self, waiting: Waiting) -> Refusal | None:
        """The same, with the stores asked: Refusal `storage_unavailable` where they do not know."""
        return _no_more(await self.conclude(waiting))

    def _claims(self, request: RequestHead, *, optional: bool) -> Claims | None:
        """The claims of the caller's credential; None is an anonymous caller, which only `optional` lets through."""
        fields = request.fields
        try:
            credential = bearer_credential(fields.authorization, fields.authorizations)
            if credential is None and request.websocket:
                credential = _credential_in_protocols(fields)
            if credential is None:
                raise Refusal("token_missing")
            return self._tokens.verify(credential)
        except Refusal:
            if optional:
                return None
            raise

    def _judge(self, waiting: Waiting, principal: Principal | Absent | None) -> Decision:
        """User, then roles. On an optional route a user who may not sign in is anonymous."""
        route, captures, target, claims, request = waiting
        refusal = self._directory.check(principal, claims)
        if refusal is not None:
            if route.authentication == "optional":
                return Admission(route, captures, target, None, None, request)
            refusal.route = route.name
            return refusal
        assert isinstance(principal, Principal)
        refusal = authorize(route, captures, principal)
        if refusal is not None:
            return refusal
        return Admission(route, captures, target, principal, claims, request)


def _no_more(decision: Decision) -> Refusal | None:
    """The refusal that ends what was admitted; on an optional route, having become a stranger is one."""
    if isinstance(decision, Refusal):
        return decision
    return Refusal("user_inactive", presented=True) if decision.principal is None else None


def _credential_in_protocols(fields: RequestFields) -> bytes | None:
    """A browser cannot set Authorization on a WebSocket handshake: it offers `bearer, TOKEN` as subprotocols."""
    token = credential_in_protocols(offered_protocols(fields.kept))
    return None if token is None else bearer_credential(b"Bearer " + token, 1)


def _host(request: RequestHead, target: Target) -> bytes | None:
    """The canonical host the request is for; None for an HTTP/1.0 request that names none.

    RFC 9112 3.2: exactly one Host in HTTP/1.1, else 400. An absolute-form target must name the same host: the upstream
    might believe the one and the policy the other.
    """
    fields = request.fields
    if fields.host is None:
        if request.minor == 0 and target.authority is None:
            return None
        raise Refusal("bad_host", "no Host")
    if fields.hosts != 1:
        raise Refusal("bad_host", "several Host fields")
    host = canonical_host(fields.host)
    if target.authority is not None and not _same_authority(target.authority, fields.host, request.peer.scheme):
        raise Refusal("bad_host", "the target names another authority than Host")
    return host


def _same_authority(one: bytes, other: bytes, scheme: str) -> bool:
    default = b":443" if scheme in ("https", "wss") else b":80"
    return canonical_host(one) == canonical_host(other) and _port(one, default) == _port(other, default)


def _port(authority: bytes, default: bytes) -> bytes:
    port = authority[authority.rfind(b"]") + 1 :].rpartition(b":")[2] if b":" in authority.rpartition(b"]")[2] else b""
    return b":" + port if port else default
