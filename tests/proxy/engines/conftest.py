"""Upstreams for the tests of the engines."""

from collections.abc import Iterator

import pytest

from tests.support.fleet import Fleet
from tests.support.upstreams import FullBacklog, Refusing


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    started = Fleet("ab")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def full_backlog() -> Iterator[FullBacklog]:
    started = FullBacklog()
    yield started
    started.close()


@pytest.fixture(scope="module")
def refusing() -> Iterator[Refusing]:
    started = Refusing()
    yield started
    started.close()
