"""The gate: every request goes through `admit`, from its raw head to a decision. Start reading here.

    path ─▶ host ─▶ route ─▶ method ─▶ credential ─▶ user ─▶ roles ─▶ sign-in ─▶ limit ─▶ Admission
                      └─▶ a preflight is answered

Both servers, the built-in endpoints and the proxy use `admit`; no later step checks a path, a token or a role again. A
decision is a value: an Admission, a Refusal with its reason, or DirectResponse for a preflight. If the decision needs
I/O (credential, user record or shared count), the result is PendingDecision, and `resolve` completes it.

The gate fails closed: any exception during a decision is a refusal.
"""

import logging
from contextlib import suppress
from typing import Final, Protocol

from gateway.errors import Refusal, StorageUnavailable, without_traceback
from gateway.gate.admission import Admission, DirectResponse, PendingDecision, RequestHead
from gateway.gate.rate_limits import Count, Limits
from gateway.gate.session_cookies import SessionCookies
from gateway.identity.credentials import Authenticator
from gateway.identity.directory import Absent, Directory
from gateway.identity.principal import Principal
from gateway.identity.session_verifier import SessionVerifier
from gateway.identity.user import Claims
from gateway.policy.cors import Preflight, origin_of, preflight_of
from gateway.policy.decide import (
    PreflightAnswer,
    RefusedAtRoute,
    WebSocketHandshake,
    authorize,
    check_kind,
    check_sign_in,
    locate,
)
from gateway.policy.policy import Match, Policy
from gateway.policy.route import Route
from gateway.wire.credential_fields import bearer_credential
from gateway.wire.fields import Field, RequestFields
from gateway.wire.hosts import canonical_host
from gateway.wire.paths import RequestTarget, canonical_target
from gateway.wire.websocket import offered_protocols

Decision = Admission | Refusal | DirectResponse

_new: Final = tuple.__new__

log: Final = logging.getLogger("gateway.gate")


class _NeedsLookup(Exception):
    """The credential must be verified with I/O."""

    def __init__(self, credential: bytes, *, by_cookie: bool) -> None:
        super().__init__()
        self.credential = credential
        self.by_cookie = by_cookie


class Decider(Protocol):
    """Decides on requests: the gate, or a wrapper around it. The methods are described at `Gate`."""

    @property
    def limits(self) -> Limits: ...

    def admit(self, request: RequestHead) -> Decision | PendingDecision: ...

    async def resolve(self, waiting: PendingDecision) -> Decision: ...

    def reevaluate(self, admission: Admission) -> Admission | Refusal | PendingDecision: ...

    def recheck(self, admission: Admission) -> Refusal | PendingDecision | None: ...

    async def resolve_recheck(self, waiting: PendingDecision) -> Refusal | None: ...


class Gate:
    """Decides on requests. `limits` are those of the policy's routes, `sessions` verifies their cookies; None without
    sessions."""

    def __init__(
        self,
        *,
        policy: Policy,
        credentials: Authenticator,
        directory: Directory,
        limits: Limits,
        sessions: SessionVerifier | None = None,
    ) -> None:
        self._policy = policy
        self._credentials = credentials
        browsers = policy.browsers
        self._cookies = None if sessions is None or browsers is None else SessionCookies(sessions, browsers)
        self._directory = directory
        self.limits = limits
        self._relaxed = policy.relaxed
        self._browsers = browsers
        self._has_pages = any(route.cors is not None for route in (*policy.own, *policy.routes))

    def admit(self, request: RequestHead) -> Decision | PendingDecision:
        """Decide without I/O. Returns PendingDecision if a store is needed first."""
        route = None
        try:
            target = canonical_target(request.target, relaxed=self._relaxed)
            host = _host(request, target)
            kind: WebSocketHandshake | Preflight | None = None
            if request.websocket:
                kind = WebSocketHandshake(origin_of(request.fields.kept))
            elif self._has_pages and request.method == b"OPTIONS":
                kind = preflight_of(request.fields.kept)
            located = locate(self._policy, host, target, request.method, kind)
            if type(located) is not Match:
                return _without_admission(located, request)
            route, captures = located
            claims = None
            if route.authentication != "none":
                claims = self._claims(request, route)
            elif route.own_page and self._cookies is not None:
                self._cookies.require_own_page(request)
            if claims is None:
                admission = Admission(route, captures, target, None, None, request)
                return admission if route.is_plain else self._count(admission)
            principal = self._directory.cached(claims.subject)
            if principal is None:
                return PendingDecision(route, captures, target, claims, request)
            if claims.roles is not None:
                principal = self._directory.scoped_to(principal, claims)
            if claims.record_version and _is_outdated(claims, principal):
                raise _NeedsLookup(request.fields.session_cookie or b"", by_cookie=True)
            # Equivalent to Admission(…), whose __new__ is a Python function.
            decision = self._judge(_new(Admission, (route, captures, target, _known(principal), claims, request, ())))
            return decision if route.is_plain else self._finish(decision, route, request)
        except Refusal as error:
            refusal = without_traceback(error)
            if route is None:
                if refusal.code == "bad_path":
                    _note_host(request.fields)
                return refusal
            return _refused(self._redirected(refusal, route, target, request), route, request)
        except _NeedsLookup as needed:
            assert route is not None
            credential, by_cookie = needed.credential, needed.by_cookie
            return PendingDecision(route, captures, target, None, request, credential=credential, by_cookie=by_cookie)
        except Exception:
            log.exception("decision failed: refused")
            return Refusal("internal_error")

    async def resolve(self, waiting: PendingDecision) -> Decision:
        """Complete a decision with I/O. Unavailable stores cause 503, never an unverified 200; if only the shared count
        is unavailable, this process counts."""
        try:
            admitted = waiting.admitted
            if admitted is None:
                decision = self._finish(await self._load_principal(waiting), waiting.route, waiting.request)
                if not isinstance(decision, PendingDecision):
                    return decision
                admitted = decision.admitted
            assert admitted is not None
            return await self._count_shared(admitted)
        except Exception:
            log.exception("decision failed: refused")
            return Refusal("internal_error")

    def reevaluate(self, admission: Admission) -> Admission | Refusal | PendingDecision:
        """Decide again on a running WebSocket or event stream, by the policy of this gate: first the route, then the
        caller.

        The credential is no longer stored, so the caller is the admitted one. Rate limits do not count this.
        """
        request = admission.request
        try:
            target = canonical_target(request.target, relaxed=self._relaxed)
            kind = WebSocketHandshake(origin_of(request.fields.kept)) if request.websocket else None
            located = locate(self._policy, request.fields.canonical_host, target, request.method, kind)
        except Refusal as refusal:
            return without_traceback(refusal)
        except Exception:
            log.exception("decision failed: refused")
            return Refusal("internal_error")
        assert not isinstance(located, PreflightAnswer)  # `locate` was given no preflight
        if isinstance(located, RefusedAtRoute):
            located.refusal.route = located.route.name
            return located.refusal
        route, captures = located
        admission = admission._replace(route=route, captures=captures, target=target)
        if admission.claims is None:
            is_refused = route.authentication == "required"
            return Refusal("token_missing", "the route requires a user", route=route.name) if is_refused else admission
        caller = self._caller_now(admission, admission.claims)
        if isinstance(caller, Refusal | PendingDecision):
            return caller
        decision = self._judge(admission._replace(principal=_known(caller)), is_running=True)
        return _no_more(decision) or decision

    def recheck(self, admission: Admission) -> Refusal | PendingDecision | None:
        """Recheck a running WebSocket or event stream. None if the admission still holds."""
        if admission.principal is None or admission.claims is None:
            return None
        caller = self._caller_now(admission, admission.claims)
        if caller is admission.principal:
            return None  # A changed record creates a new principal object.
        if isinstance(caller, Refusal | PendingDecision):
            return caller
        return _no_more(self._judge(admission._replace(principal=_known(caller)), is_running=True))

    def _caller_now(self, admission: Admission, claims: Claims) -> Principal | Absent | Refusal | PendingDecision:
        ended = self._credentials.ended(claims)
        if ended is not None:
            ended.route = admission.route.name
            return ended
        known = self._directory.cached(claims.subject)
        if claims.kind == "session" and self._cookies is not None and not self._cookies.verifier.lasts(claims):
            known = None
        if claims.roles is not None:
            known = self._directory.scoped_to(known, claims)
        if known is None:
            return PendingDecision(admission.route, admission.captures, admission.target, claims, admission.request)
        return known

    async def resolve_recheck(self, waiting: PendingDecision) -> Refusal | None:
        """Complete a recheck with I/O. Returns Refusal `storage_unavailable` if the stores are down."""
        try:
            ended = await self._ended_session(waiting)
            return _no_more(await self._load_principal(waiting, is_running=True)) if ended is None else ended
        except Exception:
            log.exception("decision failed: refused")
            return Refusal("internal_error")

    async def _ended_session(self, waiting: PendingDecision) -> Refusal | None:
        """The refusal of a running stream whose browser session is over or unknown."""
        claims = waiting.claims
        if claims is None or claims.kind != "session" or self._cookies is None:
            return None
        try:
            await self._cookies.verifier.confirm(claims)
        except StorageUnavailable as error:
            return Refusal("storage_unavailable", str(error), route=waiting.route.name)
        except Refusal as refusal:
            refusal.route = waiting.route.name
            return without_traceback(refusal)
        return None

    async def _load_principal(self, waiting: PendingDecision, *, is_running: bool = False) -> Admission | Refusal:
        """Verify the credential, load the user, and check roles."""
        route, captures, target, claims, request, _, credential, by_cookie = waiting
        try:
            if claims is None:
                claims = await self._verified(credential, by_cookie=by_cookie)
            principal: Principal | Absent | None = await self._directory.principal(claims.subject)
            cookie = request.fields.session_cookie
            if claims.record_version and cookie is not None and _is_outdated(claims, principal):
                claims = await self._verified(cookie, by_cookie=True)
        except StorageUnavailable as error:
            return Refusal("storage_unavailable", str(error), route=route.name)
        except Refusal as refusal:  # raised by the credential
            anonymous = route.authentication == "optional"
            if anonymous:
                return Admission(route, captures, target, None, None, request)
            return self._redirected(without_traceback(refusal), route, target, request)
        if claims.roles is not None:
            principal = self._directory.scoped_to(principal, claims)
        admission = Admission(route, captures, target, _known(principal), claims, request)
        return self._judge(admission, is_running=is_running)

    async def _verified(self, credential: bytes, *, by_cookie: bool) -> Claims:
        if by_cookie and self._cookies is not None:
            return await self._cookies.verifier.ask(credential)
        return await self._credentials.ask(credential)

    def _claims(self, request: RequestHead, route: Route) -> Claims | None:
        """The claims of the credential; None for an anonymous client, which only an optional route allows. Raises
        Refusal and _NeedsLookup.

        A program sends a bearer credential deliberately, a browser adds the cookie by itself. Beside a bearer
        credential the cookie is therefore ignored, valid or not.
        """
        fields = request.fields
        try:
            credential = fields.bearer
            if credential is None:
                known = self._credentials.verified.young
                credential = fields.bearer = bearer_credential(fields.authorization, fields.authorizations, known)
            if credential is None and request.websocket:
                credential = _credential_in_protocols(fields)
            if credential is None:
                return self._cookie_claims(request, route)
            claims = self._credentials.known(credential)
        except Refusal:
            if route.authentication == "optional":
                return None
            raise
        if claims is None:
            raise _NeedsLookup(credential, by_cookie=False)
        return claims

    def _cookie_claims(self, request: RequestHead, route: Route) -> Claims:
        """The claims of the session cookie. Raises like `_claims`."""
        cookie = None if self._cookies is None else self._cookies.presented(request, route)
        if cookie is None or self._cookies is None:
            raise Refusal("token_missing", "the route requires a signed-in user")
        claims = self._cookies.verifier.known(cookie)
        if claims is not None:
            return claims
        if not self._cookies.verifier.is_cookie(cookie):
            raise Refusal("token_missing", "the cookie is none of the gateway's")
        raise _NeedsLookup(cookie, by_cookie=True)

    def _judge(self, admission: Admission, *, is_running: bool = False) -> Admission | Refusal:
        """The admission, if the kind of credential, the user, the roles and the sign-in allow it.

        On an optional route a disabled user, and one with another kind of credential, is anonymous. The age of the
        sign-in counts at the beginning: it ends no running stream.
        """
        route, captures, target, principal, claims, request, _ = admission
        assert claims is not None
        refusal = None if route.conditions is None else check_kind(route, claims.kind)
        if refusal is None:
            refusal = self._directory.check(principal, claims)
        if refusal is not None and route.authentication == "optional":
            return Admission(route, captures, target, None, None, request)
        if refusal is None:
            refusal = authorize(route, captures, principal)
        if refusal is None and route.conditions is not None and principal is not None:
            age = None if is_running else self._credentials.age(claims)
            refusal = check_sign_in(route, age=age, verified=principal.email_verified)
        if refusal is None:
            return admission
        refusal.route, refusal.caller, refusal.credential = route.name, principal, claims
        return refusal if is_running else self._redirected(refusal, route, target, request)

    def _redirected(self, refusal: Refusal, route: Route, target: RequestTarget, request: RequestHead) -> Refusal:
        """The refusal, which becomes a redirect to the sign-in page if a browser navigates."""
        if self._browsers is not None:
            self._browsers.redirect(refusal, route, target, request.method, request.fields)
        return refusal

    # ---- routes that are not plain

    def _finish(self, decision: Admission | Refusal, route: Route, request: RequestHead) -> Decision | PendingDecision:
        return _refused(decision, route, request) if isinstance(decision, Refusal) else self._count(decision)

    def _count(self, admission: Admission) -> Decision | PendingDecision:
        """Add CORS fields and count against the rate limit, the last check. PendingDecision for a shared count."""
        route, captures, target, principal, claims, request, fields = admission
        if route.cors is not None:
            fields = _cors_fields(route, request)
            admission = Admission(route, captures, target, principal, claims, request, fields)
        limit = self.limits.of(route)
        if limit is None:
            return admission
        count = limit.count(None if principal is None else principal.id, request)
        if count is None:
            return PendingDecision(route, captures, target, claims, request, admission)
        return _counted(admission, count)

    async def _count_shared(self, admission: Admission) -> Decision:
        limit, principal = self.limits.of(admission.route), admission.principal
        assert limit is not None
        count = await limit.count_shared(None if principal is None else principal.id, admission.request)
        return _counted(admission, count)


def _counted(admission: Admission, count: Count) -> Decision:
    route, captures, target, principal, claims, request, fields = admission
    fields += count.fields
    if count.retry_after is None:
        return Admission(route, captures, target, principal, claims, request, fields)
    refusal = Refusal("rate_limited", retry_after=count.retry_after, route=route.name, headers=fields)
    refusal.caller, refusal.credential = principal, claims
    return refusal


def _without_admission(located: PreflightAnswer | RefusedAtRoute, request: RequestHead) -> DirectResponse | Refusal:
    """A decision that needs no credential: browsers send none with a preflight. Rate limits do not count it."""
    if isinstance(located, PreflightAnswer):
        return DirectResponse(located.route, 204, located.fields)
    return _refused(located.refusal, located.route, request)


def _refused(refusal: Refusal, route: Route, request: RequestHead) -> Refusal:
    """A refusal on a route, with CORS fields, so that allowed pages can read it."""
    refusal.route = route.name
    refusal.headers = _cors_fields(route, request)
    return refusal


def _cors_fields(route: Route, request: RequestHead) -> tuple[Field, ...]:
    return () if route.cors is None else route.cors.fields(origin_of(request.fields.kept), request.method)


def _is_outdated(claims: Claims, principal: Principal | Absent | None) -> bool:
    """Whether the user's record is newer than the copy of the session cookie. A renewal makes a new version."""
    return isinstance(principal, Principal) and claims.record_version < principal.version


def _known(principal: Principal | Absent | None) -> Principal | None:
    return principal if isinstance(principal, Principal) else None


def _no_more(decision: Admission | Refusal) -> Refusal | None:
    """The refusal that ends a stream. A caller that became anonymous on an optional route is refused too."""
    if isinstance(decision, Refusal):
        return decision
    return Refusal("user_inactive", presented=True) if decision.principal is None else None


def _credential_in_protocols(fields: RequestFields) -> bytes | None:
    """The credential of a browser's WebSocket handshake: browsers cannot set Authorization and offer `bearer, TOKEN` as
    subprotocols."""
    tokens = offered_protocols(fields.kept).tokens
    return bearer_credential(b"Bearer " + tokens[-1], len(tokens)) if tokens else None


def _host(request: RequestHead, target: RequestTarget) -> bytes | None:
    """The canonical host of the request; None for HTTP/1.0 without a Host field.

    RFC 9112 3.2: HTTP/1.1 requires exactly one Host, otherwise 400. An absolute-form target must name the same host:
    the upstream could use one and the policy the other.
    """
    fields = request.fields
    if fields.canonical_host is not None and target.authority is None:
        return fields.canonical_host
    if fields.host is None:
        if request.minor == 0 and target.authority is None:
            return None
        raise Refusal("bad_host", "no Host")
    if fields.hosts != 1:
        raise Refusal("bad_host", "several Host fields")
    host = canonical_host(fields.host)
    if target.authority is not None and not _same_authority(target.authority, fields.host, request.peer.scheme):
        raise Refusal("bad_host", "the authority of the target differs from Host")
    fields.canonical_host = host
    return host


def _note_host(fields: RequestFields) -> None:
    """Determine the host of a request with a bad path for its log line, as an earlier request with the same header
    block would have done."""
    if fields.canonical_host is None and fields.host is not None and fields.hosts == 1:
        with suppress(Refusal):
            fields.canonical_host = canonical_host(fields.host)


def _same_authority(one: bytes, other: bytes, scheme: str) -> bool:
    default = b":443" if scheme in ("https", "wss") else b":80"
    return canonical_host(one) == canonical_host(other) and _port(one, default) == _port(other, default)


def _port(authority: bytes, default: bytes) -> bytes:
    port = authority[authority.rfind(b"]") + 1 :].rpartition(b":")[2] if b":" in authority.rpartition(b"]")[2] else b""
    return b":" + port if port else default
