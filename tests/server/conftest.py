"""Upstreams for the tests of startup, reload and shutdown."""

from collections.abc import Iterator

import pytest

from tests.support.fleet import Fleet
from tests.support.small import start

__all__ = ["start"]


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    started = Fleet("ab")
    yield started
    started.stop()
