"""Sound tokens that are refused for their times alone: the log says by how much the clocks differ, once a minute."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateways import Gateways
from tests.support.issuers import Issuer
from tests.support.processes import Account, Gateway
from tests.support.waiting import eventually

TWICE = 2


NAMES = ("future-iat", "future-nbf", "expired", "remembered", "both", "silent")


@pytest.fixture(scope="module")
def issuers() -> Iterator[dict[str, Issuer]]:
    """One issuer for each test, because each has its own line in the log."""
    started = {name: Issuer().start() for name in NAMES}
    yield started
    for issuer in started.values():
        issuer.stop()


@pytest.fixture(scope="module")
def gateway(
    gateways: Gateways, issuers: dict[str, Issuer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway that has the keys of its issuers, with a leeway of 5 s."""
    folder = tmp_path_factory.mktemp("skew")
    configuration = gateways.configuration(folder)
    external = [issuer.settings(name) for name, issuer in issuers.items()]
    configuration["tokens"] = {**configuration.get("tokens", {}), "external": external, "leeway": "5s"}
    gateway = Gateway("serve", configuration, folder).start()
    for issuer in issuers.values():
        eventually(lambda issuer=issuer: presented(gateway, issuer.token()) == 200)  # type: ignore[misc]
    yield gateway
    gateway.kill()


def presented(gateway: Gateway, token: str) -> int:
    return gateway.get("/api/x", f"Authorization: Bearer {token}").status


def hints(gateway: Gateway, issuer: str) -> list[str]:
    return [line for line in gateway.log().splitlines() if f"a token of {issuer} is refused" in line]


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_from_the_future_is_logged_with_the_skew_of_its_issuer(
    gateway: Gateway, issuers: dict[str, Issuer], claim: str
) -> None:
    name = f"future-{claim}"
    for _ in range(TWICE):
        now = int(time.time())
        claims: dict[str, Any] = {claim: now + 42, "exp": now + 600}
        assert presented(gateway, issuers[name].token(**claims)) == 401
    (hint,) = hints(gateway, name)
    assert any(f"lies {seconds}." in hint for seconds in (40, 41, 42)) and "5 s" in hint and "NTP" in hint, hint


def test_a_token_that_has_just_expired_is_logged_with_its_age(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    for _ in range(TWICE):
        assert presented(gateway, issuers["expired"].token(exp=int(time.time()) - 8)) == 401
    (hint,) = hints(gateway, "expired")
    assert any(f"expired {seconds}." in hint for seconds in (8, 9, 10)) and "5 s" in hint and "NTP" in hint, hint


def test_a_token_that_was_valid_here_before_is_logged_as_such(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    token = issuers["remembered"].token(exp=int(time.time()) - 3)  # within the leeway for a moment
    assert presented(gateway, token) == 200
    eventually(lambda: presented(gateway, token) == 401)
    assert len(hints(gateway, "remembered")) == 1


def test_both_directions_and_all_issuers_have_lines_of_their_own(
    gateway: Gateway, gateways: Gateways, issuers: dict[str, Issuer]
) -> None:
    own, now = gateway.newcomer(), int(time.time())
    external = issuers["both"]
    tokens = [external.token(iat=now + 60), external.token(exp=now - 8), *own_tokens(gateways, own, now)]
    for token in tokens * TWICE:
        assert presented(gateway, token) == 401
    assert len(hints(gateway, "both")) == 2
    assert len(hints(gateway, "gateway")) == 2


def own_tokens(gateways: Gateways, account: Account, now: int) -> list[str]:
    """Tokens with times that another replica would give them if its clock were wrong."""
    ahead = gateways.token_factory.good(account.token, iat=now + 60, nbf=now + 60, exp=now + 900)
    behind = gateways.token_factory.good(account.token, iat=now - 900, nbf=now - 900, exp=now - 8)
    return [ahead, behind]


def test_a_token_without_clock_skew_leaves_no_line(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    issuer, now = issuers["silent"], int(time.time())
    forger = Issuer(rsa_key=1)
    forger.url = issuer.url
    for token in (
        issuer.token(exp=now - 3600),  # its client was late
        forger.token(iat=now + 60),  # any client can make these
        forger.token(exp=now - 8),
        issuer.token(iat=now + 60, aud="another"),
    ):
        assert presented(gateway, token) == 401
    assert not hints(gateway, "silent")
