"""Restarts of a real uvicorn behind the gateway: failures end with the restart."""

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.load import Load
from tests.support.processes import Gateway, free_port
from tests.support.raw import ask
from tests.support.small import Start, metric
from tests.support.waiting import eventually
from tests.support.wording import request

_APP = """
import sys, uvicorn

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})

uvicorn.run(app, port=int(sys.argv[1]), lifespan="off", log_level="error")
"""


class Uvicorn:
    """A uvicorn process on its own port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", _APP, str(self.port)])

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def answers(self) -> bool:
        try:
            return ask(("127.0.0.1", self.port), request("/")).status == 200
        except (OSError, AssertionError):
            return False


@contextmanager
def uvicorns(count: int) -> Iterator[list[Uvicorn]]:
    servers = [Uvicorn() for _ in range(count)]
    try:
        for server in servers:
            server.start()
        for server in servers:
            eventually(server.answers, timeout=20)
        yield servers
    finally:
        for server in servers:
            server.stop()


def no_target_is_ejected(gateway: Gateway) -> bool:
    return metric(gateway, "gateway_upstream_target_ejected") == 0


def restart(servers: list[Uvicorn]) -> None:
    for server in servers:
        server.stop()
    time.sleep(0.3)
    for server in servers:
        server.start()
    for server in servers:
        eventually(server.answers, timeout=20)


CHECKED = {"path": "/", "interval": "100ms", "timeout": "1s", "fall": 1000, "rise": 1}


@pytest.mark.parametrize(("targets", "health"), [(1, None), (2, CHECKED)], ids=["one target", "two with checks"])
async def test_an_outage_ends_with_the_restart_that_caused_it(
    start: Start, targets: int, health: dict[str, Any] | None
) -> None:
    with uvicorns(targets) as servers:
        upstream = {"targets": [server.url for server in servers], "eject": {"for": "60s"}, "health": health}
        gateway = start({"web": upstream})
        async with Load(gateway.address, lambda number: request("/web/x"), callers=8, pause=0.01) as load:
            await load.more(200)
            assert load.statuses == {200: len(load.answers)}
            await asyncio.to_thread(restart, servers)
            if health is not None:
                await asyncio.to_thread(lambda: eventually(lambda: no_target_is_ejected(gateway), timeout=5))
            before = len(load.answers)
            await load.more(400)
            late = Counter(answer.status for answer in load.answers[before + 8 :])
            assert set(late) == {200}, "an ejection of a minute"


async def test_a_target_that_restarts_beside_another_costs_no_request(start: Start) -> None:
    """Each request is an upload without a retry: only connecting can be retried."""
    with uvicorns(2) as servers:
        gateway = start({"web": [server.url for server in servers]})
        post = request("/web/x", method="POST", body=b"body")
        async with Load(gateway.address, lambda number: post, callers=8, pause=0.01) as load:
            await load.more(200)
            await asyncio.to_thread(servers[0].stop)
            await load.more(200)
            await asyncio.to_thread(restart, servers[:1])
            await load.more(200)
        failed = len(load.answers) - load.statuses[200]
        assert failed <= 8, "those that were under way when it stopped"
