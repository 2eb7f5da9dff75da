"""Subjects of an external issuer on two replicas: accepted by its tokens, blocked by the gateway, also during
outages."""

import time
from itertools import count
from typing import Any

import pytest

from tests.journeys.conftest import USER_TTL
from tests.journeys.deployments import Deployment, Replicated
from tests.journeys.test_lasting import PLACES, WITHIN, LongConnections, scripted
from tests.support.issuers import Issuer
from tests.support.processes import Account, Gateway
from tests.support.recording import RecordingUpstream
from tests.support.waiting import eventually, promised

__all__ = ["scripted"]

_numbers = count(1)


@pytest.fixture
def deployment(replicas: Replicated) -> Deployment:
    replicas.mend()
    return replicas.deployment


def subject_of(idp: Issuer, **claims: Any) -> Account:
    """A new subject with a token of the issuer."""
    sub = f"subject-{next(_numbers)}"
    return Account(f"idp|{sub}", f"{sub}@idp.example", idp.token(sub, **claims))


def outcome(gateway: Gateway, account: Account) -> tuple[int, str | None]:
    answer = gateway.get("/api/x", account.line)
    return answer.status, answer.code


IN, OUT = (200, None), (401, "user_inactive")


def test_a_block_holds_on_every_replica_within_100_ms_and_ends_as_fast(deployment: Deployment, idp: Issuer) -> None:
    account, bystander = subject_of(idp), subject_of(idp)
    for word, before, after in (("block", IN, OUT), ("unblock", OUT, IN), ("block", IN, OUT)):
        for gateway in deployment.all:
            assert outcome(gateway, account) == before
        since = deployment.command("users", word, account.id)
        for gateway in deployment.all:
            eventually(lambda gateway, after: outcome(gateway, account) == after, gateway, after)
            assert time.monotonic() - since < deployment.propagation + promised(0.5)  # plus the time of the request
            assert outcome(gateway, bystander) == IN


def test_another_token_of_a_blocked_subject_is_refused(deployment: Deployment, idp: Issuer) -> None:
    account = subject_of(idp)
    deployment.command("users", "block", account.id)
    other = Account(account.id, "", idp.token(account.id.removeprefix("idp|"), roles=["idp-admins"]))
    for gateway in deployment.all:
        eventually(lambda gateway: outcome(gateway, other) == OUT, gateway, timeout=promised(1.0))


def test_streams_end_within_a_second_of_a_block(
    deployment: Deployment, idp: Issuer, scripted: RecordingUpstream
) -> None:
    account, bystander = subject_of(idp), subject_of(idp)
    with (
        LongConnections(deployment, account, PLACES["user"]) as lasting,
        LongConnections(deployment, bystander, PLACES["user"]) as others,
    ):
        since = deployment.command("users", "block", account.id)
        lasting.over(since, deployment.propagation + WITHIN, 1008, "user_inactive")
        others.check()


def test_streams_end_with_their_token(deployment: Deployment, idp: Issuer, scripted: RecordingUpstream) -> None:
    leeway, expires = 5, int(time.time()) - 2
    account = subject_of(idp, exp=expires)
    with LongConnections(deployment, account, PLACES["user"]) as lasting:
        lasting.over(time.monotonic() + expires + leeway - time.time(), WITHIN, 1008, "token_expired")
        assert time.time() >= expires + leeway, "not a moment too early"


def test_an_issuer_that_is_down_refuses_no_cached_token_and_admits_no_new_one(
    deployment: Deployment, idp: Issuer
) -> None:
    known, blocked = subject_of(idp), subject_of(idp)
    assert all(outcome(gateway, known) == IN for gateway in deployment.all)
    idp.stop()
    try:
        deployment.command("users", "block", blocked.id)
        for gateway in deployment.all:
            assert outcome(gateway, known) == IN and outcome(gateway, subject_of(idp)) == IN
            eventually(lambda gateway: outcome(gateway, blocked) == OUT, gateway, timeout=promised(1.0))
    finally:
        idp.start()


def test_stores_that_are_down_admit_no_blocked_subject(
    replicas: Replicated, deployment: Deployment, idp: Issuer
) -> None:
    """Redis down: the database is read. Both down: cached subjects continue until `cache.user_ttl`, all others get
    503."""
    blocked, known = subject_of(idp), subject_of(idp)
    deployment.command("users", "block", blocked.id)
    eventually(lambda: all(outcome(gateway, blocked) == OUT for gateway in deployment.all), timeout=promised(1.0))
    replicas.valkey.kill()
    try:
        for gateway in deployment.all:
            eventually(lambda gateway: outcome(gateway, known) == IN, gateway, timeout=2.0)
            assert outcome(gateway, blocked) == OUT
        replicas.postgres.stop()
        deadline = time.monotonic() + USER_TTL + 1.0
        while time.monotonic() < deadline:
            for gateway in deployment.all:
                assert outcome(gateway, blocked)[0] in (401, 503) and outcome(gateway, subject_of(idp))[0] == 503
            time.sleep(0.1)
        assert all(outcome(gateway, known) == (503, "storage_unavailable") for gateway in deployment.all)
    finally:
        replicas.postgres.start()
        replicas.valkey.start()
    replicas.mend()
    for gateway in deployment.all:
        assert outcome(gateway, known) == IN and outcome(gateway, blocked) == OUT
