"""Responses of an upstream made by chance: clients get the response that the reference reader predicts, and the next
client gets its own."""

from collections.abc import Iterator

import pytest

from tests.fuzz.campaign import Campaign
from tests.fuzz.response_reference import MAX_HEAD
from tests.fuzz.responses import AnsweringUpstream, ResponseCase, ResponsePlayer
from tests.fuzz.settings import FIRST, SECONDS, SEED
from tests.fuzz.watch import Watch
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
def test_clients_get_what_the_reference_reader_predicts_and_the_next_client_its_own_response(
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
        watch = Watch(gateway)
        Campaign(ResponseCase.make, player.play, watch.look, SEED, SECONDS * ENGINES[engine], FIRST).run()
    finally:
        gateway.kill()
