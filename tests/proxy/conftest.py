"""The conformance suite runs over both engines and both servers.

Every case runs by `gateway serve` with either engine, and by the ASGI application with the native one. Tests of
behaviour that depends on server and engine together (streaming, aborting or delaying a response) are marked `every_way`
and also run with httpx by the ASGI application.
"""

from typing import NamedTuple

import pytest

from tests.support.processes import Engine, Face


class Way(NamedTuple):
    """A way to run the gateway."""

    face: Face
    engine: Engine

    def __str__(self) -> str:
        return self.face if self.engine == "native" else f"{self.face}+{self.engine}"


WAYS = (Way("serve", "native"), Way("asgi", "native"), Way("serve", "httpx"))
EVERY_WAY = (*WAYS, Way("asgi", "httpx"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "way" in metafunc.fixturenames:
        ways: tuple[Way, ...] = EVERY_WAY if any(metafunc.definition.iter_markers("every_way")) else WAYS
        if "face" not in metafunc.fixturenames:  # the test chooses it
            ways = tuple(way for way in ways if way.face == "serve")
        metafunc.parametrize("way", ways, ids=str, indirect=True, scope="session")


@pytest.fixture(scope="session")
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


@pytest.fixture(scope="session")
def face(way: Way) -> Face:
    return way.face


@pytest.fixture(scope="session")
def engine(way: Way) -> Engine:
    return way.engine
