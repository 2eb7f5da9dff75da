"""Forged requests of browsers: every combination of method, page, content type and cookie, at the gate and at
/_gateway/verify, and a sample of them at running gateways: 14,580 in a whole run."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from itertools import product
from typing import Final, NamedTuple

import pytest
import pytest_asyncio

from gateway.analysis.simulate import Subject, parse_request_line, simulate
from gateway.errors import Refusal
from gateway.gate.admission import Admission, Peer, PendingDecision, RequestHead
from gateway.gate.forward_auth import Verdict, Verifier
from gateway.gate.gate import Gate
from gateway.gate.rate_limits import Limits
from gateway.gate.session_cookies import own_cookies
from gateway.identity.access_token import Tokens
from gateway.identity.credentials import Authenticator
from gateway.identity.keys import KeyRing, SigningKey
from gateway.identity.session_cookie import KnownSession, cookie_digest, new_cookie
from gateway.identity.session_verifier import SessionLimits, SessionVerifier
from gateway.identity.user import Authentication
from gateway.policy.loader import compile_policy
from gateway.settings.model import Settings
from gateway.wire.addresses import TrustedProxies
from gateway.wire.fields import FieldRules
from tests.gate.forward_auth.test_verifier import admission_of
from tests.identity.stores import MemoryStore, directory_of, record
from tests.policy.policies import settings_of
from tests.support.browsers import COOKIE, HOST, ORIGIN, OWN_PAGE, SETTINGS, Browser
from tests.support.gateways import Gateways
from tests.support.processes import Face
from tests.support.recording import RecordingUpstream
from tests.support.scale import WHOLE
from tests.support.wording import request

ROUTES: Final[Mapping[str, dict[str, object]]] = {
    "/plain": {},
    "/strict": {"same_origin": True},
    "/optional": {"auth": "optional"},
}
METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PURGE", "TRACE")
LISTED: Final = "https://admin.gateway.test"
# The values of each Origin field.
ORIGINS: Final[Mapping[str, tuple[str, ...]]] = {
    "none": (),
    "null": ("null",),
    "own": (ORIGIN,),
    "own in capitals": (ORIGIN.upper(),),
    "listed": (LISTED,),
    "sibling": ("https://evil.gateway.test",),
    "http": (f"http://{HOST}",),
    "suffix": (f"{ORIGIN}.evil.example",),
    "repeated": (ORIGIN, ORIGIN),
}
SITES: Final[Mapping[str, tuple[str, ...]]] = {
    "none sent": (),
    "same-origin": ("same-origin",),
    "same-site": ("same-site",),
    "cross-site": ("cross-site",),
    "none": ("none",),
    "repeated": ("same-origin", "same-origin"),
}
CONTENT_TYPES: Final = (
    None,
    "application/json",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
)
GOOD, DEAD = new_cookie(), new_cookie()
COOKIES: Final[Mapping[str, tuple[str, ...]]] = {
    "good": (f"{COOKIE}={GOOD}",),
    "good among others": (f"theme=dark; {COOKIE}={GOOD}; a",),
    "dead": (f"{COOKIE}={DEAD}",),
    "none": (),
    "quoted": (f'"{COOKIE}"={GOOD}', f'{COOKIE}="{GOOD}"'),
    "twice": (f"{COOKIE}={GOOD}; {COOKIE}={GOOD}",),
}


class Case(NamedTuple):
    path: str
    method: str
    origin: str
    site: str
    content_type: str | None
    cookie: str

    @property
    def fields(self) -> list[tuple[str, str]]:
        fields = [("Host", HOST)]
        fields += [("Origin", value) for value in ORIGINS[self.origin]]
        fields += [("Sec-Fetch-Site", value) for value in SITES[self.site]]
        fields += [] if self.content_type is None else [("Content-Type", self.content_type)]
        return fields + [("Cookie", value) for value in COOKIES[self.cookie]]


CASES: Final = [Case(*each) for each in product(ROUTES, METHODS, ORIGINS, SITES, CONTENT_TYPES, COOKIES)]


def expected(case: Case) -> str:
    """The outcome by the text of the rules, independent of the code: `user`, `anonymous`, or a code."""
    is_genuine = "repeated" not in (case.origin, case.site) and (
        case.origin in ("own", "own in capitals", "listed")
        or (case.site == "same-origin" and case.origin in ("none", "null"))
    )
    needs_proof = case.method not in ("GET", "HEAD", "OPTIONS") or case.path == "/strict"
    is_cookie = case.cookie in ("good", "good among others", "dead")
    if is_cookie and needs_proof and not is_genuine:
        outcome = "cross_site"
    elif not is_cookie:
        outcome = "token_missing"
    else:
        outcome = "token_invalid" if case.cookie == "dead" else "user"
    return "anonymous" if case.path == "/optional" and outcome != "user" else outcome


class OneSession:
    """A store with one session."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        digest = cookie_digest(GOOD.encode())
        assert digest is not None
        authentication = Authentication(now.timestamp(), "aal1", ("pwd",))
        later = now + timedelta(hours=1)
        self._known = {digest: KnownSession("s1", "u1", 1, authentication, now, later, None, False, False, b"")}

    async def known(self, digests: Sequence[bytes]) -> Mapping[bytes, KnownSession]:
        return {digest: self._known[digest] for digest in digests if digest in self._known}

    async def session(self, session_id: str) -> KnownSession | None:
        return next(iter(self._known.values()))

    async def note_uses(self, uses: Mapping[str, datetime]) -> None:
        pass


class Deciders(NamedTuple):
    gate: Gate
    verifier: Verifier
    rules: FieldRules
    peer: Peer


def configured() -> Settings:
    sessions = SETTINGS["sessions"] | {"origins": [LISTED]}
    # A route without `methods` does not serve TRACE.
    routes = [{"path": path, "methods": [*METHODS], **rule} for path, rule in ROUTES.items()]
    return settings_of(routes, server=SETTINGS["server"], sessions=sessions)


@pytest_asyncio.fixture
async def deciders() -> AsyncIterator[Deciders]:
    settings = configured()
    policy = compile_policy(settings)
    tokens = Tokens(KeyRing([SigningKey.from_secret("x" * 32, "HS256", "k1")]), settings.tokens)
    sessions = SessionVerifier(OneSession(), tokens, SessionLimits(3600.0, 60.0, 1000))
    directory = directory_of(MemoryStore(record()))
    gate = Gate(
        policy=policy, credentials=Authenticator(tokens), directory=directory, limits=Limits(()), sessions=sessions
    )
    await sessions.ask(GOOD.encode())
    await directory.principal("u1")
    proxies = TrustedProxies([ip_network("127.0.0.0/8")])
    rules = FieldRules((), own_cookies(settings))
    yield Deciders(gate, Verifier(()), rules, Peer("127.0.0.1", "http", proxies))
    await sessions.close()


def named(outcome: object) -> str:
    if isinstance(outcome, Admission):
        return "anonymous" if outcome.principal is None else "user"
    return outcome.code if isinstance(outcome, Refusal) else repr(outcome)


async def test_of_all_forged_requests_none_passes_and_all_genuine_ones_do(deciders: Deciders) -> None:
    assert len(CASES) > 14_000
    gate, rules, peer = deciders.gate, deciders.rules, deciders.peer
    wrong = []
    for case in CASES:
        fields = rules.sort([(name.encode(), value.encode()) for name, value in case.fields])
        head = RequestHead(case.method.encode(), case.path.encode(), fields, peer, minor=1, made_id=b"1")
        decision = gate.admit(head)
        if isinstance(decision, PendingDecision):
            decision = await gate.resolve(decision)
        if named(decision) != expected(case):
            wrong.append((case, named(decision), expected(case)))
    assert wrong == []


async def test_forward_authorization_decides_alike(deciders: Deciders) -> None:
    gate, verifier = deciders.gate, deciders.verifier
    for case in CASES[::31]:
        about = [("X-Forwarded-Method", case.method), ("X-Forwarded-Uri", case.path)]
        question = admission_of([])
        question.request.fields = deciders.rules.sort(
            [(name.encode(), value.encode()) for name, value in (*about, *case.fields)]
        )
        verdict = verifier.ask(gate, question)
        if isinstance(verdict, PendingDecision):
            verdict = await verifier.resolve(gate, question, verdict)
        assert isinstance(verdict, Verdict)
        outcome = verdict.outcome
        found = outcome.code if isinstance(outcome, Refusal) else named(verdict.admission)
        assert found == expected(case), case
        if not isinstance(outcome, Refusal):
            cookies = [value for name, value in outcome.fields if name == b"x-gateway-cookie"]
            assert cookies == [b"theme=dark; a" if "others" in case.cookie else _left(case)], case


def test_the_policy_tools_decide_alike() -> None:
    policy = compile_policy(configured())
    for case in CASES[::3]:
        if "repeated" in (case.origin, case.site) or case.cookie not in ("good", "none"):
            continue  # A policy test names one origin, and a cookie that is good.
        asked = parse_request_line(case.method, f"https://{HOST}{case.path}")
        for origin in ORIGINS[case.origin]:
            asked = asked._replace(origin=origin.encode())
        for site in SITES[case.site]:
            asked = asked._replace(fetch_site=site.encode())
        caller = Subject("u1", frozenset({"user"}), kind="session") if case.cookie == "good" else None
        result = simulate(policy, asked, caller)
        found = result.refusal.code if result.refusal else "user" if result.caller else "anonymous"
        assert found == expected(case), case


def _left(case: Case) -> bytes:
    """The Cookie field without own cookies: names in quotes are other names."""
    return f'"{COOKIE}"={GOOD}'.encode() if case.cookie == "quoted" else b""


@pytest.fixture(scope="module", params=["serve", "asgi"])
def browser(request: pytest.FixtureRequest, gateways: Gateways) -> Browser:
    face: Face = request.param
    sessions = SETTINGS["sessions"] | {"origins": [LISTED]}
    server = SETTINGS["server"] | {"trusted_proxies": ["127.0.0.1/32"]}
    routes = [{"path": path, "upstream": "web", "methods": [*METHODS], **rule} for path, rule in ROUTES.items()]
    gateway = gateways.gateway("forged", face, routes=routes, server=server, sessions=sessions)
    signed_in = Browser(gateway)
    signed_in.sign_in("user@example.com")
    return signed_in


def sample() -> Iterator[Case]:
    """Cases of all routes, methods, origins and sites. uvicorn refuses the method PURGE itself."""
    for number, case in enumerate(CASES[:: 3 if WHOLE else 149]):
        if case.method != "PURGE" and (WHOLE or number % 3 != 2):
            yield case


def lines_of(case: Case, cookie: str) -> list[str]:
    """The field lines of a case, except Host, with the cookie of a running gateway."""
    return [f"{name}: {value}".replace(GOOD, cookie) for name, value in case.fields[1:]]


def test_running_gateways_decide_alike(browser: Browser, upstream: RecordingUpstream) -> None:
    assert browser.cookie is not None
    for case in sample():
        upstream.requests.clear()
        lines = lines_of(case, browser.cookie)
        body = None if case.content_type is None or case.method in ("GET", "HEAD", "TRACE") else b"x"
        answer = browser.gateway.ask(
            request(case.path, method=case.method, fields=lines, body=body, host=HOST), method=case.method
        )
        if expected(case) in ("user", "anonymous"):
            assert answer.status == 200, (case, answer.status)
            (received,) = upstream.requests
            assert bool(received.values("x-user-id")) == (expected(case) == "user"), case
            assert browser.cookie.encode() not in b"".join(received.values("cookie")) or case.cookie == "quoted", case
        elif case.method == "HEAD":
            assert answer.status in (401, 403), case
        else:
            assert answer.refused()[1] == expected(case), case
            assert upstream.requests == [], case


def test_the_endpoint_for_other_proxies_decides_alike(browser: Browser) -> None:
    assert browser.cookie is not None
    for case in sample():
        about = [f"X-Forwarded-Method: {case.method}", f"X-Forwarded-Uri: {case.path}"]
        answer = browser.gateway.get("/_gateway/verify", *about, *lines_of(case, browser.cookie))
        if expected(case) in ("user", "anonymous"):
            assert (answer.status, any(answer.values("x-user-id"))) == (200, expected(case) == "user"), case
            assert browser.cookie.encode() not in (answer.value("x-gateway-cookie") or b"") or case.cookie == "quoted"
        else:
            assert answer.refused()[1] == expected(case), case


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "x-method-override", "X-Http-Method"])
def test_a_safe_request_that_overrides_its_method_comes_from_an_own_page(browser: Browser, name: str) -> None:
    """An upstream with `method_override` would delete, and pages of origins in `cors` can send the field."""
    override = f"{name}: DELETE"
    assert browser.get("/plain", override, "Origin: https://evil.example").refused() == (403, "cross_site")
    assert browser.get("/plain", override, OWN_PAGE).status == 200
    assert browser.get("/plain", "Max-Forwards: 3", "Origin: https://evil.example").status == 200
