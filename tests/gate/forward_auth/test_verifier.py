"""The verifier alone: it answers every input, and no error allows a request."""

from functools import cache
from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Refusal
from gateway.gate.admission import Admission, Peer, PendingDecision, RequestHead
from gateway.gate.forward_auth import Verdict, Verifier
from gateway.gate.gate import Decision, Gate
from gateway.gate.rate_limits import Limits
from gateway.identity.access_token import Tokens
from gateway.identity.credentials import Authenticator
from gateway.identity.keys import KeyRing, SigningKey
from gateway.policy.builtin_routes import VERIFY as VERIFY_ENDPOINT
from gateway.policy.builtin_routes import own_routes
from gateway.policy.patterns import parse_pattern
from gateway.policy.policy import Policy
from gateway.policy.route import Route
from gateway.settings.model import Settings, TokensSettings
from gateway.wire.addresses import TrustedProxies
from gateway.wire.fields import FieldRules
from gateway.wire.paths import canonical_target
from tests.identity.stores import MemoryStore, directory_of
from tests.support.builds import extends_a_compiled_class

IDENTITY = ("X-User-Id", "X-User-Email", "X-User-Roles")


def admission_of(fields: list[tuple[bytes, bytes]]) -> Admission:
    """The admission of a verify request with these fields, from a trusted proxy."""
    peer = Peer("127.0.0.1", "http", TrustedProxies([ip_network("127.0.0.0/8")]))
    head = RequestHead(b"GET", b"/_gateway/verify", FieldRules(IDENTITY).sort(fields), peer, minor=1, made_id=b"1")
    return Admission(_verify_route(), (), canonical_target(head.target, relaxed=False), None, None, head)


@cache
def _verify_route() -> Route:
    return next(route for route in own_routes(Settings()) if route.endpoint == VERIFY_ENDPOINT)


@extends_a_compiled_class
def test_every_failure_of_a_verdict_is_a_refusal() -> None:
    """The gate turns exceptions into refusals, and so does the code around it."""

    class Broken(Gate):
        def __init__(self) -> None:
            pass

        def admit(self, request: RequestHead) -> Decision | PendingDecision:
            raise RuntimeError("an unexpected error")

    asked = admission_of([(b"Host", b"a"), (b"X-Forwarded-Uri", b"/x")])
    verdict = Verifier(IDENTITY).ask(Broken(), asked)
    assert isinstance(verdict, Verdict)
    assert isinstance(verdict.outcome, Refusal)
    assert verdict.outcome.code == "internal_error"


NAMES = st.sampled_from(
    ["X-Forwarded-Uri", "x-forwarded-uri", "X_Forwarded_Uri", "X-Original-URI", "X-Forwarded-Method",
     "X-Original-Method",
     "X-Forwarded-Host", "X-Forwarded-For", "X-Original-URL", "Upgrade", "Connection", "Sec-WebSocket-Key", "Origin",
     "Access-Control-Request-Method", "Authorization", "X-User-Id", "Cookie"]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from([b"/public/x", b"/public/../admin", b"/admin/x", b"GET", b"OPTIONS", b"websocket", b"*", b"http://a/public/"]),
    st.binary(max_size=12),
)  # fmt: skip


@given(st.lists(st.tuples(NAMES, VALUES), max_size=7))
def test_CVE_2021_32637_only_public_paths_are_allowed_for_any_question(forwarded: list[tuple[str, bytes]]) -> None:
    """No bytes in any field cause an exception, or allow a request that no rule opens."""
    routes = [
        Route(name="open", shape=parse_pattern("/public/**"), methods=None, upstream="web", authentication="none")
    ]
    tokens = Tokens(KeyRing([SigningKey.from_secret("x" * 32, "HS256", "k1")]), TokensSettings())
    gate = Gate(
        policy=Policy(routes),
        credentials=Authenticator(tokens),
        directory=directory_of(MemoryStore()),
        limits=Limits(),
    )
    verdict = Verifier(IDENTITY).ask(gate, admission_of([(b"Host", b"a"), *((n.encode(), v) for n, v in forwarded)]))
    assert isinstance(verdict, Verdict)
    outcome = verdict.outcome
    if isinstance(outcome, Refusal):
        assert outcome.code != "internal_error", forwarded
        return
    assert outcome.status == 200
    (path,) = [value for name, value in outcome.fields if name == b"x-gateway-path"]
    assert path == b"/public" or path.startswith(b"/public/"), forwarded
