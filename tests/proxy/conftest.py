"""The conformance suite runs over both engines and both faces.

Every case runs by `gateway serve` with either engine, and over the ASGI face with the native one. What depends on the
face and the engine together (how a response is handed on, broken off, held back) is marked `every_way` and runs with
httpx over the ASGI face as well.
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
