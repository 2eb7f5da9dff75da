"""Change the engine of an upstream in a running gateway: one word in the file, and SIGHUP."""

import signal
from pathlib import Path

import yaml

from tests.support.configurations import with_engine
from tests.support.gateways import Gateways, unhandled
from tests.support.processes import Engine, Gateway
from tests.support.recording import RecordingUpstream
from tests.support.scripts import HeldConnection, response
from tests.support.waiting import eventually
from tests.support.wording import request


def test_a_reload_changes_the_engine_and_running_requests_continue(
    gateways: Gateways, upstream: RecordingUpstream, tmp_path: Path
) -> None:
    held = HeldConnection(before=response(200, ["Content-Length: 6"], None) + b"old", after=b"new")
    upstream.on("/public/held", held)
    gateway = Gateway("serve", gateways.configuration(tmp_path), tmp_path).start()
    try:
        with gateway.caller() as caller:
            for reloads, engine in enumerate(("httpx", "native"), start=1):
                head = caller.send(request("/public/held")).receive_head()
                switch(gateway, engine, reloads)  # type: ignore[arg-type]
                links = len({one.link for one in ask(gateway, upstream, 5)})
                assert links == (5 if engine == "httpx" else 1)
                held.release()
                pieces: list[bytes] = []
                assert caller.receive_body(head, pieces.append)[1]
                assert b"".join(pieces) == b"oldnew"
        assert gateway.stop() == 0
        assert not unhandled(gateway)
    finally:
        gateway.kill()


def switch(gateway: Gateway, engine: Engine, reloads: int) -> None:
    configuration = yaml.safe_load(gateway.config.read_text())
    gateway.config.write_text(yaml.safe_dump(with_engine(configuration, engine), sort_keys=False))
    gateway.signal(signal.SIGHUP)
    eventually(lambda: gateway.log().count("in force") >= reloads)


def ask(gateway: Gateway, upstream: RecordingUpstream, count: int) -> list:  # type: ignore[type-arg]
    before = len(upstream.requests)
    for _ in range(count):
        assert gateway.get("/public/x").status == 200
    return upstream.requests[before:]
