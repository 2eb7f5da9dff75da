"""Every journey runs on both deployments; those with outages on replicas whose stores they can stop."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.deployments import Deployment, Replicated, replicated
from tests.support.browsers import SETTINGS
from tests.support.gateways import Gateways
from tests.support.issuers import Issuer
from tests.support.processes import Face

USER_TTL = 2.5  # In seconds: `cache.user_ttl` of the replicas.
FAILURES = 8  # `accounts.lockout.failures` of the replicas.


@pytest.fixture(scope="session")
def idp() -> Iterator[Issuer]:
    """An external issuer, whose tokens the replicas accept."""
    issuer = Issuer().start()
    yield issuer
    issuer.stop()


@pytest.fixture(scope="session")
def replicas(gateways: Gateways, idp: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    """Two replicas over PostgreSQL and Valkey, for all tests of a session. A test that stops a store restores it."""
    folder: Path = tmp_path_factory.mktemp("replicas")
    tokens = {"external": [idp.settings()]}
    accounts = {"lockout": {"failures": FAILURES, "per_address_failures": 1_000_000}}
    cache = {"user_ttl": f"{USER_TTL * 1000:.0f}ms"}
    with replicated(gateways, folder, cache=cache, accounts=accounts, tokens=tokens, **SETTINGS) as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite, serve", "sqlite, asgi", "replicas"])
def deployment(request: pytest.FixtureRequest, gateways: Gateways) -> Deployment:
    """One process over SQLite without Redis, with either server; or the two replicas."""
    if request.param == "replicas":
        running: Replicated = request.getfixturevalue("replicas")
        return running.deployment
    face: Face = "serve" if request.param == "sqlite, serve" else "asgi"
    gateway = gateways.gateway(
        "brief", face, cache={"user_ttl": "500ms"}, server=SETTINGS["server"], sessions=SETTINGS["sessions"]
    )
    return Deployment(gateway, gateway, propagation=0.7)
