"""The conformance suite runs over both engines and both servers.

Every case runs by `gateway serve` with either engine, and by the ASGI application with the native one. Tests of
behaviour that depends on server and engine together (streaming, aborting or delaying a response) are marked
`every_variant` and also run with httpx by the ASGI application.
"""

from typing import NamedTuple

import pytest

from tests.support.processes import Engine, Face


class Variant(NamedTuple):
    """A server and an engine."""

    face: Face
    engine: Engine

    def __str__(self) -> str:
        return self.face if self.engine == "native" else f"{self.face}+{self.engine}"


VARIANTS = (Variant("serve", "native"), Variant("asgi", "native"), Variant("serve", "httpx"))
EVERY_VARIANT = (*VARIANTS, Variant("asgi", "httpx"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "variant" in metafunc.fixturenames:
        variants: tuple[Variant, ...] = (
            EVERY_VARIANT if any(metafunc.definition.iter_markers("every_variant")) else VARIANTS
        )
        if "face" not in metafunc.fixturenames:  # the test chooses it
            variants = tuple(variant for variant in variants if variant.face == "serve")
        metafunc.parametrize("variant", variants, ids=str, indirect=True, scope="session")


@pytest.fixture(scope="session")
def variant(request: pytest.FixtureRequest) -> Variant:
    chosen: Variant = request.param
    return chosen


@pytest.fixture(scope="session")
def face(variant: Variant) -> Face:
    return variant.face


@pytest.fixture(scope="session")
def engine(variant: Variant) -> Engine:
    return variant.engine
