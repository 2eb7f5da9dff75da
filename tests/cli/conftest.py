"""Fixtures of the tests of the command line."""

import pytest

from gateway.settings import availability


@pytest.fixture
def missing_behaviour(monkeypatch: pytest.MonkeyPatch) -> None:
    """`server.public_url` is a key whose behaviour is not there yet, whichever really are such keys at the time."""
    monkeypatch.setattr(availability, "_GLOBAL", (("server.public_url", bool, "is not available yet (leave it out)"),))
