"""Redis and PostgreSQL fail, hang and return: outages grant no access, and delay no request that can be served."""

import time
from collections.abc import Callable

import pytest

from tests.journeys.conftest import USER_TTL
from tests.journeys.deployments import Replicated, degraded
from tests.support.processes import PASSWORD, Account, Gateway
from tests.support.raw import Answer
from tests.support.recording import RecordingUpstream
from tests.support.token_factory import TokenFactory
from tests.support.waiting import eventually, promised, within
from tests.support.wording import bearer

UNAVAILABLE = (503, "storage_unavailable")
INACTIVE = (401, "user_inactive")
SERVED = (200, None)


@pytest.fixture
def both(replicas: Replicated, upstream: RecordingUpstream) -> tuple[Gateway, ...]:
    replicas.mend()
    return replicas.deployment.all


def promptly(work: Callable[[], Answer]) -> tuple[int, str | None]:
    """No response waits a second for a store, in any state."""
    with within(promised(1.0)):
        return work().refused()


def called(gateway: Gateway, account: Account) -> tuple[int, str | None]:
    return promptly(lambda: gateway.get("/api/x", account.line))


def fails_with(gateway: Gateway, status: int) -> bool:
    return gateway.get("/_gateway/ready?strict").status == status


# ---- Redis


def stop_redis(replicas: Replicated, how: str) -> Callable[[], None]:
    """Stop Redis; returns a function that restores it."""
    if how == "killed":
        replicas.valkey.kill()

        def restart() -> None:
            replicas.valkey.start()

        return restart
    replicas.valkey.pause()
    return replicas.valkey.resume


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_without_redis_every_user_is_served_within_the_limits(
    replicas: Replicated, both: tuple[Gateway, ...], how: str
) -> None:
    known, doomed = both[0].newcomer(), both[1].newcomer()
    for gateway in both:
        assert [called(gateway, known), called(gateway, doomed)] == [SERVED, SERVED]
    restore = stop_redis(replicas, how)
    try:
        for _ in range(20):
            for gateway in both:
                assert called(gateway, known) == SERVED
        newcomer = both[0].newcomer()
        assert called(both[1], newcomer) == SERVED
        replicas.deployment.command("users", "disable", doomed.email)
        for gateway in both:
            # No replica can be notified now, so the copies must have been dropped.
            assert called(gateway, doomed) == INACTIVE
            assert called(gateway, known) == SERVED
            eventually(lambda gateway=gateway: degraded(gateway) == ["redis"])  # type: ignore[misc]
    finally:
        restore()
    returned = time.monotonic()
    replicas.mend()
    assert time.monotonic() - returned < promised(5.0)
    for gateway in both:
        assert called(gateway, doomed) == INACTIVE
        assert called(gateway, known) == SERVED
    disabled = replicas.deployment.command("users", "disable", known.email)
    for gateway in both:
        while (seen := called(gateway, known)) == SERVED and time.monotonic() - disabled < promised(1.0):
            time.sleep(0.01)
        assert seen == INACTIVE


def test_a_restart_of_redis_loses_no_revocation(replicas: Replicated, both: tuple[Gateway, ...]) -> None:
    """Redis returns empty, as a cache can; ended sessions stay ended."""
    old = both[0].newcomer()
    current = both[1].login(old.email)
    change = {"current_password": PASSWORD, "new_password": "another good password"}
    assert both[0].post("/auth/password", change, current.line).status == 204
    replicas.valkey.restart()
    for gateway in both:
        assert called(gateway, old) == (401, "token_revoked")
        assert called(gateway, current) == SERVED
    replicas.mend()
    for gateway in both:
        assert called(gateway, old) == (401, "token_revoked")
        assert called(gateway, current) == SERVED


def test_a_message_lost_in_an_outage_keeps_no_session_alive(replicas: Replicated, both: tuple[Gateway, ...]) -> None:
    """The change is made while Redis hangs, so its announcement is lost. Redis returns with the old copy."""
    account = both[0].newcomer()
    for gateway in both:
        assert called(gateway, account) == SERVED
    replicas.valkey.pause()
    try:
        replicas.deployment.command("users", "disable", account.email)
    finally:
        replicas.valkey.resume()
    resumed = time.monotonic()
    while time.monotonic() - resumed < 1.0:
        for gateway in both:
            assert called(gateway, account) == INACTIVE
        time.sleep(0.02)
    replicas.mend()
    for gateway in both:
        assert called(gateway, account) == INACTIVE


REFUSALS = {
    "NOREPLICAS": ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    "READONLY": ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    "maxmemory": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    "'eval' command": ("ACL SETUSER default -eval", "ACL SETUSER default +eval"),
}
SAID = {"READONLY": "read only replica"}


@pytest.mark.parametrize("how", REFUSALS)
def test_a_redis_that_refuses_writes_keeps_no_disabled_user_in(
    replicas: Replicated, both: tuple[Gateway, ...], how: str
) -> None:
    known, doomed = both[0].newcomer(), both[1].newcomer()
    for gateway in both:
        assert [called(gateway, known), called(gateway, doomed)] == [SERVED, SERVED]
    begin, end = REFUSALS[how]

    def said_down(gateway: Gateway) -> int:
        reason = SAID.get(how, how)
        return sum("is down: " in line and reason in line for line in gateway.log().splitlines())

    before = [said_down(gateway) for gateway in both]  # other files use these gateways too
    with replicas.valkey.client() as client:
        client.execute_command(*begin.split())
        try:
            for gateway, earlier in zip(both, before, strict=True):
                eventually(lambda gateway=gateway: degraded(gateway) == ["redis"], timeout=promised(2.0))  # type: ignore[misc]
                assert fails_with(gateway, 503)
                assert said_down(gateway) == earlier + 1
            replicas.deployment.command("users", "disable", doomed.email)
            for _ in range(20):
                for gateway in both:
                    assert [called(gateway, known), called(gateway, doomed)] == [SERVED, INACTIVE]
            assert both[0].login(known.email).id == known.id
        finally:
            client.execute_command(*end.split())
    returned = time.monotonic()
    replicas.mend()
    assert time.monotonic() - returned < promised(5.0)
    for gateway in both:
        assert [called(gateway, known), called(gateway, doomed)] == [SERVED, INACTIVE]
    disabled = replicas.deployment.command("users", "disable", known.email)
    for gateway in both:
        while (seen := called(gateway, known)) == SERVED and time.monotonic() - disabled < promised(1.0):
            time.sleep(0.01)
        assert seen == INACTIVE


# ---- PostgreSQL


def stop_database(replicas: Replicated, how: str) -> Callable[[], None]:
    """Stop the database; returns a function that restores it."""
    if how == "paused":
        replicas.postgres.pause()
        return replicas.postgres.resume
    getattr(replicas.postgres, {"stopped": "stop", "killed": "kill"}[how])()

    def restart() -> None:
        replicas.postgres.start()

    return restart


@pytest.mark.parametrize("how", ["stopped", "killed", "paused"])
def test_without_the_database_cached_users_go_on_until_their_time_is_up(
    replicas: Replicated, both: tuple[Gateway, ...], token_factory: TokenFactory, upstream: RecordingUpstream, how: str
) -> None:
    account = both[0].newcomer()
    unknown = bearer(token_factory.good(account.token, sub=f"unknown-{how}"))
    known = time.monotonic()
    eventually(lambda: called(both[0], account) == SERVED and called(both[1], account) == SERVED)
    restore = stop_database(replicas, how)
    stopped = time.monotonic()
    try:
        seen = [called(gateway, account) for gateway in both]
        assert seen == [SERVED, SERVED] or time.monotonic() > known + USER_TTL
        _while_it_is_down(both, account, unknown, stopped)
    finally:
        restore()
    returned = time.monotonic()
    replicas.mend()
    assert time.monotonic() - returned < promised(5.0)
    for gateway in both:
        assert called(gateway, account) == SERVED
        assert gateway.login(account.email).id == account.id


def _while_it_is_down(both: tuple[Gateway, ...], account: Account, unknown: bytes, stopped: float) -> None:
    login = {"email": account.email, "password": PASSWORD}
    for gateway in both:
        assert promptly(lambda gateway=gateway: gateway.get("/api/x", unknown)) == UNAVAILABLE  # type: ignore[misc]
        assert promptly(lambda gateway=gateway: gateway.get("/public/x")) == SERVED  # type: ignore[misc]
        assert promptly(lambda gateway=gateway: gateway.get("/api/x")) == (401, "token_missing")  # type: ignore[misc]
        assert promptly(lambda gateway=gateway: gateway.post("/auth/login", login)) == UNAVAILABLE  # type: ignore[misc]
        eventually(lambda gateway=gateway: degraded(gateway) == ["database"])  # type: ignore[misc]
        eventually(lambda gateway=gateway: fails_with(gateway, 503))  # type: ignore[misc]
    until = stopped + USER_TTL + 0.3
    for gateway in both:
        while (seen := called(gateway, account)) == SERVED:
            assert time.monotonic() < until, "still served after the time to live"
            time.sleep(0.02)
        assert seen == UNAVAILABLE
        assert time.monotonic() - stopped > 0.1
    for gateway in both:
        for _ in range(5):
            assert called(gateway, account) == UNAVAILABLE


def test_without_both_stores_cached_users_are_not_believed(replicas: Replicated, both: tuple[Gateway, ...]) -> None:
    """Redis is down, so changes would not arrive; the database is down, so no record can be read. All requests are
    refused."""
    account = both[0].newcomer()
    for gateway in both:
        assert called(gateway, account) == SERVED
    replicas.valkey.kill()
    replicas.postgres.kill()
    try:
        for gateway in both:
            eventually(lambda gateway=gateway: called(gateway, account) == UNAVAILABLE)  # type: ignore[misc]
            for _ in range(5):
                assert called(gateway, account) == UNAVAILABLE
            assert promptly(lambda gateway=gateway: gateway.get("/public/x")) == SERVED  # type: ignore[misc]
            assert sorted(degraded(gateway)) == ["database", "redis"]
    finally:
        replicas.postgres.start()
        replicas.valkey.start()
    replicas.mend()
    for gateway in both:
        assert called(gateway, account) == SERVED
