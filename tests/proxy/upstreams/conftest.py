"""Fleets of upstreams for the tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.proxy.upstreams import harness
from tests.support.fleet import Fleet
from tests.support.small import start

__all__ = ["start"]


@pytest.fixture(scope="module")
def lasting_fleet() -> Iterator[Fleet]:
    started = Fleet("abc")
    yield started
    started.stop()


@pytest.fixture
def fleet(lasting_fleet: Fleet) -> Iterator[Fleet]:
    """Three targets that answer with their names. They are running normally after each test."""
    for target in lasting_fleet.targets.values():
        target.forget()
    yield lasting_fleet
    for target in lasting_fleet.targets.values():
        target.behaviour = lambda served: None
        target.down()
        target.up()


@pytest.fixture(params=["native", "httpx"])
def either_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test with both engines; a module whose tests all use it declares it once."""
    monkeypatch.setattr(harness, "ENGINE", request.param)
