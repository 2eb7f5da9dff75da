"""Generated streams of requests: the gateway forwards or refuses each as the strict reference reader predicts."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fuzz.campaign import Campaign
from tests.fuzz.health import HealthCheck
from tests.fuzz.reference import MAX_BODY, MAX_HEADER, SMALL_BODY
from tests.fuzz.requests import NumberingUpstream, RequestCase, RequestPlayer, StockPlayer
from tests.fuzz.settings import FIRST, SECONDS, SEED
from tests.support.processes import Face, Gateway
from tests.support.small import small

pytestmark = [
    pytest.mark.skipif(SECONDS == 0, reason="FUZZ_SECONDS=0"),
    pytest.mark.timeout(SECONDS + 180),
    pytest.mark.flaky(reruns=0),
]

ROUTES: list[dict[str, Any]] = [
    {"path": "/small/**", "auth": "none", "upstream": "public", "max_body": SMALL_BODY},
    {"path": "/kept/{name}/x", "auth": "none", "upstream": "public", "encoded_slash": "keep"},
    {"path": "/get/x", "auth": "none", "upstream": "public", "methods": ["GET"]},
    {"path": "/admin/**", "roles": ["admin"], "upstream": "public"},
]


@pytest.fixture(scope="module")
def numbering() -> Iterator[NumberingUpstream]:
    upstream = NumberingUpstream()
    yield upstream
    upstream.stop()


@pytest.fixture
def start(
    numbering: NumberingUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Face], Gateway]]:
    folder = tmp_path_factory.mktemp("fuzzed")
    server = {"max_header_size": MAX_HEADER, "max_body": MAX_BODY}
    upstream = {"targets": [numbering.url], "preserve_host": True}
    configuration = small(folder, {"public": upstream}, routes=ROUTES, server=server)
    started: list[Gateway] = []

    def start(face: Face) -> Gateway:
        started.append(Gateway(face, configuration, folder))
        return started[0].start()

    yield start
    for gateway in started:
        gateway.kill()


def test_requests_have_the_outcome_that_the_reference_reader_predicts(
    start: Callable[[Face], Gateway], numbering: NumberingUpstream
) -> None:
    gateway = start("serve")
    player = RequestPlayer(gateway, numbering)
    Campaign(RequestCase.make, player.play, HealthCheck(gateway).check, SEED, SECONDS * 0.7, FIRST).run()


def test_under_a_stock_server_no_body_becomes_a_request_and_nothing_fails(
    start: Callable[[Face], Gateway], numbering: NumberingUpstream
) -> None:
    gateway = start("asgi")
    player = StockPlayer(gateway, numbering)
    Campaign(RequestCase.make, player.play, HealthCheck(gateway).check, SEED, SECONDS * 0.3, FIRST).run()
