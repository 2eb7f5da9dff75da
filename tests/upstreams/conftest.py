"""Fleets of upstreams for the tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.support.fleet import Fleet
from tests.support.small import start
from tests.upstreams import rig

__all__ = ["start"]


@pytest.fixture(scope="module")
def lasting_fleet() -> Iterator[Fleet]:
    started = Fleet("abc")
    yield started
    started.stop()


@pytest.fixture
def fleet(lasting_fleet: Fleet) -> Iterator[Fleet]:
    """Three targets that answer with their names; they are up and well again after each test."""
    for target in lasting_fleet.targets.values():
        target.forget()
    yield lasting_fleet
    for target in lasting_fleet.targets.values():
        target.behaviour = lambda served: None
        target.down()
        target.up()


@pytest.fixture(params=["native", "httpx"])
def either_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds whatever engine speaks to the targets; the fixture of a module whose every test does."""
    monkeypatch.setattr(rig, "ENGINE", request.param)
