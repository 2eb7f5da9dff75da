"""`server.operations_port`: a separate listener for exactly the operational endpoints."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from bench.stores.valkey import ValkeyServer
from gateway.app import create_app
from gateway.errors import CODES
from gateway.policy.loader import load_configuration
from tests.support.fleet import OK, Fleet
from tests.support.processes import Gateway, command, free_port, write_configuration
from tests.support.raw import Answer, Caller, ask
from tests.support.small import Start, small, start
from tests.support.waiting import eventually
from tests.support.wording import request

__all__ = ["start"]

EVERYTHING = [{"path": "/**", "upstream": "web"}]
OPERATIONS = ("/_gateway/health", "/_gateway/ready", "/_gateway/metrics")
ALL_RESERVED = (*OPERATIONS, "/_gateway/verify", "/_gateway/openapi.json", "/_gateway/docs")


@pytest.fixture
def fleet():  # type: ignore[no-untyped-def]
    started = Fleet("a")
    yield started
    started.stop()


@pytest.fixture
def gateway(start: Start, fleet: Fleet) -> Gateway:
    return start(
        {"web": fleet.urls}, server={"operations_port": free_port()}, routes=[{"path": "/**", "upstream": "web"}]
    )


def at_operations(gateway: Gateway, path: str) -> Answer:
    assert gateway.operations is not None
    return ask(gateway.operations, request(path))


def test_operations_are_served_there_only(gateway: Gateway) -> None:
    for path in OPERATIONS:
        assert at_operations(gateway, path).status == 200, path
    for path in ALL_RESERVED:
        assert gateway.get(path).refused() == (404, "no_route"), path
    assert f"operations on http://127.0.0.1:{gateway.operations[1]}" in gateway.log()  # type: ignore[index]


def test_nothing_else_is_served_there(gateway: Gateway, fleet: Fleet) -> None:
    served = fleet.targets["a"].requests
    for path in ("/web/x", "/", "/auth/login", "/auth/me", "/.well-known/jwks.json", "/_gateway/x", "/_gateway"):
        assert at_operations(gateway, path).refused() == (404, "no_route"), path
    assert fleet.targets["a"].requests == served
    assert gateway.get("/.well-known/jwks.json").status == 200


def test_connections_to_either_listener_are_counted(gateway: Gateway) -> None:
    gateway.get("/web/x")
    page = at_operations(gateway, "/_gateway/metrics").body.decode()
    assert 'route="/web/**"' in page
    assert 'route="operations.ready"' in page


def test_operations_answer_while_the_public_door_has_as_many_as_it_takes(start: Start, fleet: Fleet) -> None:
    server = {"operations_port": free_port(), "max_connections": 1}
    gateway = start({"web": fleet.urls}, server=server)
    with Caller(gateway.address) as only:
        assert only.send(request("/web/x")).receive().status == 200
        assert gateway.get("/web/x").refused() == (503, "overloaded")
        assert at_operations(gateway, "/_gateway/ready").status == 200


def test_readiness_goes_first_and_operations_go_last(gateway: Gateway, fleet: Fleet) -> None:
    """Load balancers must learn that no more requests are accepted while the last ones finish."""
    held: list[Any] = []
    fleet.behave(held.append)
    idle = Caller(gateway.operations)  # type: ignore[arg-type]
    assert idle.send(request("/_gateway/health")).receive().status == 200
    with Caller(gateway.address, timeout=10) as caller:
        caller.send(request("/web/x"))
        eventually(lambda: held)
        gateway.signal()
        eventually(lambda: at_operations(gateway, "/_gateway/ready").status == 503)
        for _ in range(3):
            assert at_operations(gateway, "/_gateway/ready").json()["status"] == "draining"
            assert at_operations(gateway, "/_gateway/health").status == 200
            assert at_operations(gateway, "/_gateway/metrics").status == 200
        fleet.loop.call_soon_threadsafe(held[0].send, OK)
        assert caller.receive().status == 200
    assert gateway.wait() == 0, "a connection of an operator is no reason to wait"
    idle.close()


def test_every_worker_answers_there(start: Start, fleet: Fleet, lasting_valkey: ValkeyServer) -> None:
    server = {"operations_port": free_port(), "workers": 2}
    gateway = start({"web": fleet.urls}, server=server, storage={"redis": lasting_valkey.url})
    eventually(lambda: b"\ngateway_workers 2.0\n" in at_operations(gateway, "/_gateway/metrics").body)
    for _ in range(20):
        assert at_operations(gateway, "/_gateway/ready").status == 200
    gateway.signal()
    assert gateway.wait() == 0


def test_a_port_in_use_is_reported_by_its_key(start: Start, fleet: Fleet, tmp_path: Path, gateway: Gateway) -> None:
    server = {"operations_port": gateway.operations[1], "port": free_port()}  # type: ignore[index]
    done = command(write_configuration(tmp_path, small(tmp_path, {"web": fleet.urls}, server=server)), "serve")
    assert done.returncode == 2
    assert "server.operations_port" in done.stderr
    assert "Traceback" not in done.stderr


# ---- under another ASGI server


@asynccontextmanager
async def served(folder: Path, port: int | None) -> AsyncIterator[httpx.ASGITransport]:
    configuration = small(folder, {"web": "http://127.0.0.1:9"}, server={"operations_port": port})
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(configuration))
    app = create_app(load_configuration(file))
    async with app.router.lifespan_context(app):
        yield httpx.ASGITransport(app=app, client=("127.0.0.1", 50000))


@pytest.mark.parametrize(
    ("port", "public", "operations"), [(None, {200}, {200}), (9000, {404}, {200})], ids=["without", "with"]
)
async def test_an_asgi_server_serves_them_on_the_socket_of_that_port(
    port: int | None, public: set[int], operations: set[int], tmp_path: Path
) -> None:
    async with served(tmp_path, port) as transport:
        for at, expected in ((8000, public), (9000, operations)):
            async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{at}") as client:
                statuses = {(await client.get(path)).status_code for path in OPERATIONS}
                assert statuses == expected
                # The client chooses the Host, so it must not select the operations listener.
                response = await client.get("/_gateway/health", headers={"host": "127.0.0.1:9000"})
                assert response.status_code in expected
    await asyncio.sleep(0)
    assert CODES["no_route"][0] == 404
