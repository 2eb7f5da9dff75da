"""E. Caches never grant access, and never mix data of different clients."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.configurations import changed
from tests.support.expectations import passes, refuses
from tests.support.gateways import Gateways
from tests.support.processes import Account, Face, Gateway
from tests.support.recording import RecordingUpstream
from tests.support.scripts import answer
from tests.support.token_factory import TokenFactory
from tests.support.waiting import eventually, promised, within
from tests.support.wording import bearer, request


def test_CVE_2021_32701_a_cached_token_is_judged_again_on_every_route(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, admin: Account
) -> None:
    for _ in range(3):
        passes(gateway, upstream, request("/api/x", fields=[user.line]))
        refuses(gateway, upstream, request("/admin/x", fields=[user.line]), 403, "forbidden")
        passes(gateway, upstream, request("/admin/x", fields=[admin.line]))
        refuses(gateway, upstream, request(f"/mine/{user.id}", fields=[admin.line]), 403, "forbidden")


def test_CVE_2021_32701_on_one_connection_too(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, admin: Account
) -> None:
    """Connections have no identity: each request is authenticated by itself."""
    turns = [(admin.line, 200), (user.line, 403), (None, 401), (admin.line, 200), (None, 401), (user.line, 403)]
    with gateway.caller() as caller:
        for line, status in turns * 3:
            caller.send(request("/admin/x", fields=[line] if line else []))
            assert caller.receive().status == status
    assert {value for received in upstream.requests for value in received.values("x-user-id")} == {admin.id.encode()}


@pytest.mark.parametrize("pair", [("a:b", "a"), ("a", "a:b"), ("1:2", "1"), ("user:1", "user"), ("a\x1fb", "a")])
def test_CVE_2026_33729_keys_of_the_cache_do_not_collide(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, token_factory: TokenFactory, pair: tuple[str, str]
) -> None:
    """Different sessions and subjects with equal concatenations stay distinct."""
    subject, session = pair
    passes(gateway, upstream, request("/api/x", fields=[user.line]))
    for sub, sid in ((f"{user.id}:{subject}", session), (user.id[:-1], user.id[-1] + session), (subject, session)):
        forged = bearer(token_factory.good(user.token, sub=sub, sid=sid))
        data = request("/api/x", fields=[forged])
        refuses(gateway, upstream, data, 401, {"user_inactive", "token_invalid"})


def test_CVE_2026_59427_no_response_is_kept_for_another_caller(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, admin: Account
) -> None:
    for number, line in enumerate((user.line, admin.line, user.line)):
        body = b"for caller %d" % number
        upstream.on("/api/cacheable", answer(200, ["Cache-Control: public, max-age=600", 'ETag: "a"'], body))
        got = gateway.ask(request("/api/cacheable", fields=[line]))
        assert got.body == body
        assert got.value("cache-control") == b"public, max-age=600"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/admin/x", 401), ("/nowhere", 404), ("/auth/me", 401), ("/methods/x", 405), ("/public/%00", 400),
     ("/_gateway/health", 200), ("/_gateway/ready", 200)],
)  # fmt: skip
def test_oauth2_proxy_662_our_own_answers_are_never_stored(gateway: Gateway, path: str, status: int) -> None:
    method = "DELETE" if status == 405 else "GET"
    got = gateway.ask(request(path, method=method))
    assert got.status == status
    assert got.values("cache-control") == [b"no-store"]


def test_oauth2_proxy_662_nor_are_the_accounts_answers(gateway: Gateway, user: Account) -> None:
    login = {"email": user.email, "password": user.password}
    for got in (
        gateway.get("/auth/me", user.line),
        gateway.get("/admin/x", user.line),
        gateway.post("/auth/login", login),
        gateway.post("/auth/login", login | {"password": "wrong password"}),
        gateway.post("/auth/register", login),
        gateway.post("/auth/register", {"email": "x"}),
    ):
        assert got.values("cache-control") == [b"no-store"], got


@pytest.fixture
def replaceable(gateways: Gateways, face: Face, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway of this test that can be restarted."""
    configuration = changed(gateways.configuration(tmp_path), cache={"user_ttl": "500ms"})
    gateway = Gateway(face, configuration, tmp_path).start()
    yield gateway
    gateway.kill()


def test_Kratos_4471_ended_sessions_stay_ended_after_a_restart(
    replaceable: Gateway, upstream: RecordingUpstream
) -> None:
    """A password change ends other sessions: their tokens are refused at once, and by the next process too."""
    gateway = replaceable
    old = gateway.newcomer()
    current = gateway.login(old.email)
    for account in (old, current):
        passes(gateway, upstream, request("/api/x", fields=[account.line]))
    change = {"current_password": old.password, "new_password": "another good password"}
    assert gateway.post("/auth/password", change, current.line).status == 204
    refuses(gateway, upstream, request("/api/x", fields=[old.line]), 401, "token_revoked")
    passes(gateway, upstream, request("/api/x", fields=[current.line]))
    gateway.stop()
    gateway.start()
    refuses(gateway, upstream, request("/api/x", fields=[old.line]), 401, "token_revoked")
    passes(gateway, upstream, request("/api/x", fields=[current.line]))


def test_a_disabled_user_of_a_lone_gateway_is_out_within_the_ttl(
    replaceable: Gateway, upstream: RecordingUpstream
) -> None:
    """Without Redis a command cannot notify the process, but the cache's TTL still applies."""
    gateway = replaceable
    account = gateway.newcomer()
    passes(gateway, upstream, request("/api/x", fields=[account.line]))
    gateway.command("users", "disable", account.email)
    done = time.monotonic()
    while gateway.ask(request("/api/x", fields=[account.line])).status == 200:
        assert time.monotonic() - done < promised(0.6), "still served after cache.user_ttl"
        time.sleep(0.02)
    refuses(gateway, upstream, request("/api/x", fields=[account.line]), 401, "user_inactive")
    gateway.command("users", "enable", account.email)
    with within(promised(0.7)):
        eventually(lambda: gateway.ask(request("/api/x", fields=[account.line])).status == 200)


def test_a_missing_user_is_cached_for_at_most_the_ttl_and_nothing_grows(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, token_factory: TokenFactory
) -> None:
    """Clients cannot fill the memory with nonexistent users, even with valid tokens."""
    before = gateway.memory()
    with gateway.caller() as caller:
        for number in range(300):
            forged = bearer(token_factory.good(user.token, sub=f"nobody-{number}"))
            caller.send(request("/api/x", fields=[forged]))
            got = caller.receive()
            assert got.refused() == (401, "user_inactive")
    assert gateway.memory() - before < 8 * 1024 * 1024
    assert upstream.requests == []
