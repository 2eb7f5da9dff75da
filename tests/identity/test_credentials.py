"""Kinds of credentials: distinguished without cryptography, each verified only by its own verifier."""

import time
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Refusal, StorageUnavailable
from gateway.gate.admission import Admission, Peer, PendingDecision, RequestHead
from gateway.gate.gate import Gate
from gateway.gate.rate_limits import Limits
from gateway.identity.access_token import Tokens
from gateway.identity.credentials import Authenticator
from gateway.identity.jws import invalid
from gateway.identity.keys import KeyRing
from gateway.identity.signing_keys import ephemeral_key
from gateway.identity.user import Claims
from gateway.policy.loader import load_configuration
from gateway.settings.model import TokensSettings
from gateway.wire.addresses import TrustedProxies
from gateway.wire.fields import FieldRules
from tests.identity.stores import MemoryStore, directory_of, record, settle
from tests.support.token_factory import token

KEY = b"gwk_" + b"k" * 43
LATER = time.time() + 86_400
OF_KEY = Claims("u1", "key-1", LATER, 0.0, "", "", frozenset(["user"]))
OF_ISSUER = Claims("idp|bob", "", LATER, 0.0, "", "https://idp/", frozenset(["user"]), "bob@idp")


def issued_by(issuer: Any, text: str = "x") -> bytes:
    return token({"alg": "ES256", "kid": text}, {"iss": issuer}, lambda _: b"signature").encode()


class Known:
    """A verifier that has `knows` in its cache and accepts `finds` with I/O. All other credentials are invalid."""

    def __init__(self, knows: dict[bytes, Claims] | None = None, finds: dict[bytes, Claims] | None = None) -> None:
        self.knows = knows or {}
        self.finds = finds or {}
        self.seen: list[bytes] = []
        self.out = False

    def remembered(self, credential: bytes) -> Claims | None:
        return self.knows.get(credential)

    def ended(self, claims: Claims) -> Refusal | None:
        return None

    def known(self, credential: bytes) -> Claims | None:
        self.seen.append(credential)
        if credential in self.knows:
            return self.knows[credential]
        if credential in self.finds:
            return None
        raise invalid("not known here")

    async def ask(self, credential: bytes) -> Claims:
        await settle()
        if self.out:
            raise StorageUnavailable("database", "out of order")
        found = self.finds.get(credential)
        if found is None:
            raise invalid("not found here")
        self.knows[credential] = found
        return found


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens(KeyRing([ephemeral_key()]), TokensSettings())


def own(tokens: Tokens) -> bytes:
    return tokens.issue(user_id="u1", session_id="s1", roles=()).token.encode()


# ---- distinguishing


def test_each_credential_is_asked_of_its_own_kind_alone(tokens: Tokens) -> None:
    idp, other, keys = Known({issued_by("https://idp/"): OF_ISSUER}), Known(), Known({KEY: OF_KEY})
    credentials = Authenticator(tokens, issuers={"https://idp/": idp, "https://other/": other}, api_keys=keys)
    assert credentials.known(KEY) == OF_KEY
    assert credentials.known(issued_by("https://idp/")) == OF_ISSUER
    for _ in range(2):
        found = credentials.known(own(tokens))
        assert found is not None and found.subject == "u1"
    with pytest.raises(Refusal, match="token_invalid"):
        credentials.known(issued_by("https://idp/", "another"))
    assert keys.seen == [KEY] and idp.seen == [issued_by("https://idp/", "another")] and not other.seen


@pytest.mark.parametrize(
    "issuer",
    ["gateway", "https://idp", "https://idp//", "https://IDP/", "", None, 1, ["https://idp/"], {"https://idp/": 1}],
)
def test_a_token_without_a_known_issuer_is_verified_with_own_keys(tokens: Tokens, issuer: Any) -> None:
    idp = Known()
    credentials = Authenticator(tokens, issuers={"https://idp/": idp})
    with pytest.raises(Refusal, match="token_invalid"):
        credentials.known(issued_by(issuer))
    assert not idp.seen


@pytest.mark.parametrize(
    "credential",
    [b"", b"x", b"a.b", b"a.b.c.d", b"e30.e30", b".." + b"a" * 9000, b"e30.W10.x", b"e30.bnVsbA.x", KEY, b"GWK_" + KEY],
)
def test_a_text_that_is_no_credential_is_refused_as_a_bad_token(tokens: Tokens, credential: bytes) -> None:
    with pytest.raises(Refusal, match="token_invalid"):
        Authenticator(tokens, issuers={"https://idp/": Known()}).known(credential)
    with pytest.raises(Refusal, match="token_invalid"):
        Authenticator(tokens).known(credential)


async def test_an_uncached_credential_is_looked_up(tokens: Tokens) -> None:
    keys = Known(finds={KEY: OF_KEY})
    credentials = Authenticator(tokens, api_keys=keys)
    assert credentials.known(KEY) is None
    assert await credentials.ask(KEY) == OF_KEY
    assert credentials.known(KEY) == OF_KEY
    with pytest.raises(Refusal, match="token_invalid"):
        await credentials.ask(own(tokens)[:-3] + b"AAA")


# ---- at the gate


class Harness:
    """A gate with users in memory, API keys, and one issuer."""

    def __init__(self, tokens: Tokens, folder: Path) -> None:
        path = folder / "gateway.yaml"
        path.write_text(
            "upstreams: {web: http://127.0.0.1:9}\nroutes:\n"
            "  - {path: /api/**, upstream: web}\n"
            "  - {path: /admin/**, roles: [admin], upstream: web}\n"
            "  - {path: /optional/**, auth: optional, upstream: web}\n"
        )
        configuration = load_configuration(path)
        self.store = MemoryStore(record("u1", roles=frozenset(["user", "admin"])), record("idp|bob"))
        self.directory = directory_of(self.store)
        self.keys = Known(finds={KEY: OF_KEY})
        self.idp = Known({issued_by("https://idp/"): OF_ISSUER})
        self.gate = Gate(
            policy=configuration.policy,
            credentials=Authenticator(tokens, issuers={"https://idp/": self.idp}, api_keys=self.keys),
            directory=self.directory,
            limits=Limits(configuration.policy.routes, shared=None),
        )

    def head(self, path: str, credential: bytes) -> RequestHead:
        fields = FieldRules().sort([(b"Host", b"a"), (b"Authorization", b"Bearer " + credential)])
        peer = Peer("127.0.0.1", "http", TrustedProxies(()))
        return RequestHead(b"GET", path.encode(), fields, peer, minor=1, made_id=b"r1")

    async def decide(self, path: str, credential: bytes = KEY) -> Any:
        decision = self.gate.admit(self.head(path, credential))
        return await self.gate.resolve(decision) if isinstance(decision, PendingDecision) else decision


@pytest.fixture
def harness(tokens: Tokens, tmp_path: Path) -> Harness:
    return Harness(tokens, tmp_path)


async def test_concurrent_lookups_of_a_credential_are_one(harness: Harness) -> None:
    waiting = harness.gate.admit(harness.head("/api/x", KEY))
    assert isinstance(waiting, PendingDecision) and waiting.credential == KEY and waiting.claims is None
    admission = await harness.gate.resolve(waiting)
    assert isinstance(admission, Admission) and admission.principal is not None
    assert (admission.principal.id, admission.principal.roles) == ("u1", frozenset({"user"}))
    again = harness.gate.admit(harness.head("/api/x", KEY))
    assert isinstance(again, Admission) and again.principal is admission.principal


async def test_a_key_of_an_administrator_has_the_role_only_if_it_lists_it(harness: Harness) -> None:
    for _ in range(2):  # first verified, then cached
        refusal = await harness.decide("/admin/x")
        assert isinstance(refusal, Refusal) and refusal.code == "forbidden" and refusal.route


async def test_the_roles_of_an_issuers_token_are_its_own(harness: Harness) -> None:
    admission = await harness.decide("/api/x", issued_by("https://idp/"))
    assert (admission.principal.id, admission.principal.email) == ("idp|bob", "bob@idp")
    assert (await harness.decide("/admin/x", issued_by("https://idp/"))).code == "forbidden"


@pytest.mark.parametrize("known", [True, False])
async def test_a_bad_credential_is_refused_or_anonymous(harness: Harness, known: bool) -> None:
    if known:
        harness.keys.finds.clear()
    else:
        harness.keys.finds[KEY] = None  # type: ignore[assignment]
    refusal = await harness.decide("/api/x")
    assert isinstance(refusal, Refusal) and (refusal.code, refusal.presented) == ("token_invalid", True)
    admission = await harness.decide("/optional/x")
    assert isinstance(admission, Admission) and admission.principal is None and admission.claims is None


@pytest.mark.parametrize("path", ["/api/x", "/optional/x"])
async def test_a_store_that_is_down_admits_no_one(harness: Harness, path: str) -> None:
    harness.keys.out = True
    assert (await harness.decide(path)).code == "storage_unavailable"


async def test_a_failure_on_the_way_is_a_refusal(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: bytes) -> Claims:
        raise KeyError("broken")

    monkeypatch.setattr(harness.keys, "ask", broken)
    for path in ("/api/x", "/optional/x"):
        assert (await harness.decide(path)).code == "internal_error"


async def test_a_lasting_admission_ends_with_its_key(harness: Harness) -> None:
    admission = await harness.decide("/api/x")
    assert harness.gate.recheck(admission) is None
    changed = harness.store.change("u1", ended_sessions=frozenset(["key-1"]))
    harness.directory.forget("u1", changed.version)
    waiting = harness.gate.recheck(admission)
    assert isinstance(waiting, PendingDecision)
    refusal = await harness.gate.resolve_recheck(waiting)
    assert refusal is not None and refusal.code == "token_revoked"
    verdict = harness.gate.recheck(admission)
    assert isinstance(verdict, Refusal) and verdict.code == "token_revoked"


async def test_a_lasting_admission_of_a_narrowed_principal_outlives_other_changes(harness: Harness) -> None:
    admission = await harness.decide("/api/x")
    harness.directory.forget("u1", harness.store.change("u1", email="new@example.com").version)
    waiting = harness.gate.recheck(admission)
    assert isinstance(waiting, PendingDecision) and await harness.gate.resolve_recheck(waiting) is None
    assert harness.gate.recheck(admission) is None


async def test_a_lasting_admission_ends_when_its_issuers_subject_is_blocked(harness: Harness) -> None:
    admission = await harness.decide("/api/x", issued_by("https://idp/"))
    harness.directory.forget("idp|bob", harness.store.change("idp|bob", is_active=False).version)
    waiting = harness.gate.recheck(admission)
    assert isinstance(waiting, PendingDecision)
    refusal = await harness.gate.resolve_recheck(waiting)
    assert refusal is not None and refusal.code == "user_inactive"
