"""Verification of presented API keys: the number of database queries, and the caching of results."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.errors import Refusal, StorageUnavailable
from gateway.identity import secret_lookups
from gateway.identity.access_token import Tokens
from gateway.identity.api_key_verifier import ApiKeyVerifier
from gateway.identity.api_keys import KnownKey, key_digest, new_key
from gateway.identity.credentials import Authenticator
from gateway.identity.keys import KeyRing, SigningKey
from gateway.identity.user import Claims
from gateway.settings.model import TokensSettings
from tests.support.databases import Clock
from tests.support.waiting import until

ROLES = frozenset(("user",))
TTL = 60.0


class Store:
    """A store of keys that counts queries, and can be slow, unavailable or broken."""

    def __init__(self) -> None:
        self.keys: dict[bytes, KnownKey] = {}
        self.asked: list[tuple[bytes, ...]] = []
        self.uses: list[Mapping[str, datetime]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    def add(self, *, expires_at: datetime | None = None, has_ended: bool = False) -> bytes:
        """Add a key and return its text."""
        text = new_key().encode()
        digest = key_digest(text)
        assert digest is not None
        self.keys[digest] = KnownKey(f"id{len(self.keys)}", "ann", ROLES, expires_at, has_ended)
        return text

    async def known(self, digests: Sequence[bytes]) -> Mapping[bytes, KnownKey]:
        self.asked.append(tuple(digests))
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return {digest: self.keys[digest] for digest in digests if digest in self.keys}

    async def note_uses(self, uses: Mapping[str, datetime]) -> None:
        self.uses.append(uses)
        if self.error is not None:
            raise self.error


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> Tokens:
    keys = KeyRing([SigningKey(ec.generate_private_key(ec.SECP256R1()), "ES256", "k1")])
    return Tokens(keys, TokensSettings(), clock=clock)


@pytest.fixture
async def source(store: Store, tokens: Tokens) -> AsyncIterator[ApiKeyVerifier]:
    made = ApiKeyVerifier(store, tokens, ttl=TTL, note_after=0.01)
    yield made
    store.open.set()
    await made.close()


@pytest.fixture
def credentials(tokens: Tokens, source: ApiKeyVerifier) -> Authenticator:
    return Authenticator(tokens, api_keys=source)


async def refused(credentials: Authenticator, presented: bytes) -> str:
    """The error code for a refused credential, from the cache or from `ask`."""
    with pytest.raises(Refusal) as refusal:
        if credentials.known(presented) is None:
            await credentials.ask(presented)
    assert (refusal.value.status, refusal.value.presented) == (401, True)
    assert refusal.value.detail == "Invalid or expired token"
    assert presented.decode("latin-1") not in repr(refusal.value.args)
    return refusal.value.code


# ---- claims


async def test_a_key_is_asked_for_once_and_then_known(credentials: Authenticator, store: Store, clock: Clock) -> None:
    key = store.add()
    assert credentials.known(key) is None
    claims = await credentials.ask(key)
    assert claims == Claims("ann", "id0", math.inf, 0.0, "id0", "", ROLES, kind="api_key")
    for _ in range(3):
        assert credentials.known(key) is claims
    assert len(store.asked) == 1
    assert credentials.ended(claims) is None


async def test_a_key_is_forgotten_after_the_time_of_user_records(
    credentials: Authenticator, store: Store, clock: Clock
) -> None:
    key = store.add()
    await credentials.ask(key)
    clock.now += TTL - 0.1
    assert credentials.known(key) is not None
    clock.now += 0.1
    assert credentials.known(key) is None
    await credentials.ask(key)
    assert credentials.known(key) is not None
    assert len(store.asked) == 2


async def test_a_key_ends_to_the_moment(credentials: Authenticator, store: Store, clock: Clock) -> None:
    key = store.add(expires_at=datetime.fromtimestamp(clock.now + 10, UTC))
    claims = await credentials.ask(key)
    clock.now += 9.9
    assert credentials.known(key) is claims
    clock.now += 0.1
    assert credentials.known(key) is None
    assert await refused(credentials, key) == "token_expired"
    clock.now += 10
    ended = credentials.ended(claims)
    assert ended is not None and ended.code == "token_expired"


async def test_a_text_that_is_no_key_is_refused_without_the_reason(credentials: Authenticator, store: Store) -> None:
    deleted, unknown = store.add(has_ended=True), new_key().encode()
    assert await refused(credentials, deleted) == "token_revoked"
    assert await refused(credentials, unknown) == "token_invalid"
    for _ in range(3):
        assert await refused(credentials, unknown) == "token_invalid"
    assert len(store.asked) == 5, "nothing is remembered of what is no key: one may be made any moment"


@pytest.mark.parametrize("malformed", [b"gwk_", b"gwk_" + b"A" * 38, b"gwk_x.y.z", b"gwk_" + b"x" * 8000])
async def test_a_text_that_cannot_be_a_key_is_refused_without_a_query(
    credentials: Authenticator, store: Store, malformed: bytes
) -> None:
    assert await refused(credentials, malformed) == "token_invalid"
    with pytest.raises(Refusal, match="token_invalid"):
        await credentials.ask(malformed)
    assert store.asked == []


@pytest.mark.parametrize("other", [b"GWK_", b"gwr_", b"gwk", b"xgwk_"])
async def test_a_text_without_the_prefix_of_keys_is_no_key(
    credentials: Authenticator, store: Store, other: bytes
) -> None:
    assert await refused(credentials, other + store.add()[4:]) == "token_invalid"
    assert store.asked == []


async def test_keys_and_tokens_do_not_get_in_each_other_s_way(
    credentials: Authenticator, store: Store, tokens: Tokens
) -> None:
    key = store.add()
    token = tokens.issue(user_id="bob", session_id="s1", roles=()).token.encode()
    await credentials.ask(key)
    for _ in range(2):
        of_key, of_token = credentials.known(key), credentials.known(token)
        assert of_key is not None and of_key.subject == "ann"
        assert of_token is not None and (of_token.subject, of_token.roles) == ("bob", None)


async def test_a_rotation_of_signing_keys_costs_a_key_one_question(
    credentials: Authenticator, store: Store, tokens: Tokens
) -> None:
    key = store.add()
    claims = await credentials.ask(key)
    other = KeyRing([SigningKey(ec.generate_private_key(ec.SECP256R1()), "ES256", "k2")])
    tokens.renew(other, TokensSettings())
    assert credentials.ended(claims) is None
    assert credentials.known(key) is None
    assert await credentials.ask(key) == claims


# ---- queries


async def test_a_crowd_with_one_key_asks_once_and_strangers_are_asked_about_together(
    credentials: Authenticator, store: Store
) -> None:
    key, others = store.add(), [new_key().encode() for _ in range(300)]
    store.open.clear()
    first = asyncio.create_task(credentials.ask(key))
    await asyncio.sleep(0)
    crowd = [asyncio.create_task(credentials.ask(one)) for one in (*others, *[key] * 50)]
    await asyncio.sleep(0.01)
    assert len(store.asked) == 1, "one question at a time"
    store.open.set()
    outcomes = await asyncio.gather(first, *crowd, return_exceptions=True)
    assert sum(isinstance(outcome, Claims) for outcome in outcomes) == 51
    assert sum(isinstance(outcome, Refusal) for outcome in outcomes) == 300
    assert [len(digests) for digests in store.asked] == [1, 128, 128, 45]


async def test_a_cancelled_caller_takes_the_result_from_no_other(credentials: Authenticator, store: Store) -> None:
    key = store.add()
    store.open.clear()
    leaving, staying = (asyncio.create_task(credentials.ask(key)) for _ in range(2))
    await until(lambda: store.asked)
    leaving.cancel()
    await asyncio.sleep(0)
    store.open.set()
    assert (await staying).subject == "ann"
    assert len(store.asked) == 1


async def test_a_store_that_is_down_fails_all_waiting_callers(credentials: Authenticator, store: Store) -> None:
    key, other = store.add(), new_key().encode()
    store.error = StorageUnavailable("database", "gone")
    outcomes = await asyncio.gather(*(credentials.ask(one) for one in (key, key, other)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 3
    store.error = None
    assert (await credentials.ask(key)).subject == "ann"


async def test_an_unexpected_error_of_the_store_leaves_no_caller_waiting(
    credentials: Authenticator, store: Store
) -> None:
    key = store.add()
    store.error = ZeroDivisionError()
    with pytest.raises(StorageUnavailable):
        await asyncio.wait_for(credentials.ask(key), 1)
    store.error = None
    assert (await credentials.ask(key)).subject == "ann"


async def test_more_than_can_be_asked_for_is_an_outage_and_no_wait(
    credentials: Authenticator, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(secret_lookups, "MAX_ASKED", 10)
    store.open.clear()
    known = store.add()
    asked = [asyncio.create_task(credentials.ask(new_key().encode())) for _ in range(300)]
    await until(lambda: sum(task.done() for task in asked) >= 290)
    assert sum(task.done() for task in asked) == 290
    waiting = [asyncio.create_task(credentials.ask(new_key().encode())) for _ in range(10)]
    await asyncio.sleep(0.01)
    with pytest.raises(StorageUnavailable):
        await asyncio.wait_for(credentials.ask(known), 5.0)
    assert "the database is unavailable (too many API keys are being looked up)" in caplog.text
    store.open.set()
    await asyncio.gather(*asked, *waiting, return_exceptions=True)
    assert (await credentials.ask(known)).subject == "ann"


# ---- uses


async def test_a_use_is_noted_when_a_key_is_asked_for_and_not_for_each_request(
    credentials: Authenticator, store: Store, clock: Clock
) -> None:
    key, other = store.add(), store.add()
    for one in (key, other, key):
        await credentials.ask(one)
    for _ in range(100):
        credentials.known(key)
    await until(lambda: store.uses)
    assert store.uses == [{"id0": clock.instant, "id1": clock.instant}]


async def test_a_use_that_cannot_be_recorded_harms_no_request(
    credentials: Authenticator, store: Store, source: ApiKeyVerifier, clock: Clock
) -> None:
    key = store.add()
    await credentials.ask(key)
    store.error = StorageUnavailable("database", "gone")
    await asyncio.sleep(0.05)
    store.error = None
    clock.now += TTL
    await credentials.ask(key)
    await source.close()
    assert [set(uses) for uses in store.uses] == [{"id0"}, {"id0"}], "the last of them when the gateway ends"


async def test_recorded_uses_are_bounded(
    credentials: Authenticator, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_lookups, "MAX_NOTED", 3)
    await asyncio.gather(*(credentials.ask(store.add()) for _ in range(10)))
    await until(lambda: store.uses)
    assert [len(uses) for uses in store.uses] == [3]
