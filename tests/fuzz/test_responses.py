"""Generated responses of an upstream: the client gets the response that the reference reader predicts, and the next
client gets its own."""

from collections.abc import Iterator

import pytest

from tests.fuzz.campaign import Campaign
from tests.fuzz.health import HealthCheck
from tests.fuzz.response_reference import MAX_HEAD
from tests.fuzz.responses import AnsweringUpstream, ResponseCase, ResponsePlayer
from tests.fuzz.settings import FIRST, SECONDS, SEED
from tests.support.processes import Engine, Gateway
from tests.support.small import small

pytestmark = [
    pytest.mark.skipif(SECONDS == 0, reason="FUZZ_SECONDS=0"),
    pytest.mark.timeout(SECONDS + 180),
    pytest.mark.flaky(reruns=0),
]
ENGINES: dict[Engine, float] = {"native": 0.7, "httpx": 0.3}  # shares of the time


@pytest.fixture(scope="module")
def answering() -> Iterator[AnsweringUpstream]:
    upstream = AnsweringUpstream()
    yield upstream
    upstream.stop()


@pytest.mark.parametrize("engine", ENGINES)
def test_clients_get_the_predicted_response_and_the_next_client_gets_its_own(
    answering: AnsweringUpstream, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzzed")
    web = {
        "targets": [answering.url],
        "engine": engine,
        "max_head_size": MAX_HEAD,
        "response_timeout": "2s",
        "idle_timeout": "2s",
        "keep_alive": "60s",
        "eject": None,
    }
    gateway = Gateway("serve", small(folder, {"web": web}), folder, engine).start()
    try:
        player = ResponsePlayer(gateway, answering, engine)
        health = HealthCheck(gateway)
        Campaign(ResponseCase.make, player.play, health.check, SEED, SECONDS * ENGINES[engine], FIRST).run()
    finally:
        gateway.kill()
