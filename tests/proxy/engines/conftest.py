"""Upstreams for the tests of the engines."""

from collections.abc import Iterator

import pytest

from tests.support.fleet import Fleet
from tests.support.upstreams import Deaf, Refusing


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    started = Fleet("ab")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def deaf() -> Iterator[Deaf]:
    started = Deaf()
    yield started
    started.close()


@pytest.fixture(scope="module")
def refusing() -> Iterator[Refusing]:
    started = Refusing()
    yield started
    started.close()
