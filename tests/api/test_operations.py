"""Health, readiness and metrics over ASGI, for all kinds of client addresses."""

from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import gateway
from gateway.api.operations import Readiness, operation_endpoints
from gateway.errors import Refusal
from gateway.observability.metrics.metrics import Metrics
from gateway.observability.observer import Observer
from gateway.samples import Sample
from gateway.settings.model import ObservabilitySettings, Settings
from tests.observability.requests import complete

POLICY = "0123456789ab"


class Served:
    """The three endpoints in an application, mounted like in the gateway."""

    def __init__(self, **observability: Any) -> None:
        settings = Settings(observability=ObservabilitySettings(access_log="off", **observability))
        self.observer = Observer(settings.observability, ["orders"])
        self.degraded: tuple[str, ...] = ()
        self.state = Readiness(degraded=lambda: self.degraded, phase="serving")
        self.connections = 3
        metrics = Metrics(self.observer)
        metrics.add(lambda: [Sample("gateway_connections", (), self.connections)])
        endpoints = operation_endpoints(
            state=self.state, policy=lambda: POLICY, metrics=metrics, settings=settings.observability
        )
        assert endpoints.keys() == {"operations.health", "operations.ready", "operations.metrics"}
        self._app = Starlette(
            routes=[Route(f"/_gateway/{name.removeprefix('operations.')}", each) for name, each in endpoints.items()]
        )
        self.decided_client: str | None = None
        self.peer: tuple[str, int] | None = ("127.0.0.1", 50000)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["client"] = self.peer
        if self.decided_client is not None:
            scope["gateway.client"] = self.decided_client
        await self._app(scope, receive, send)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=self)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.get(f"/_gateway/{path}", headers=named)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    yield Served()


@pytest.mark.parametrize("phase", ["starting", "serving", "draining"])
async def test_health_is_200_while_the_process_lives(phase: Any, served: Served) -> None:
    served.state.phase = phase
    served.degraded = ("database", "redis")
    answer = await served.get("health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("query", ["", "?strict", "?strict=1", "?other=1"])
@pytest.mark.parametrize(
    ("phase", "degraded", "status", "strict_status", "word", "strict_word"),
    [
        ("starting", (), 503, 503, "starting", "starting"),
        ("starting", ("redis",), 503, 503, "starting", "starting"),
        ("serving", (), 200, 200, "ready", "ready"),
        ("serving", ("redis",), 200, 503, "ready", "degraded"),
        ("serving", ("database", "redis"), 200, 503, "ready", "degraded"),
        ("draining", (), 503, 503, "draining", "draining"),
        ("draining", ("database",), 503, 503, "draining", "draining"),
    ],
)
async def test_readiness_depends_on_the_phase_and_only_when_asked_strictly_on_the_stores(
    query: str,
    phase: Any,
    degraded: tuple[str, ...],
    status: int,
    strict_status: int,
    word: str,
    strict_word: str,
    served: Served,
) -> None:
    served.state.phase, served.degraded = phase, degraded
    answer = await served.get(f"ready{query}")
    strict = "strict" in query
    assert answer.status_code == (strict_status if strict else status)
    assert answer.json() == {
        "status": strict_word if strict else word,
        "degraded": list(degraded),
        "policy": "0123456789ab",
        "build": gateway.build(),
    }


def test_a_process_is_starting_and_ready_until_its_state_changes() -> None:
    state = Readiness()
    assert (state.phase, state.degraded()) == ("starting", ())


async def test_prometheus_can_read_the_metrics_page(served: Served) -> None:
    complete(served.observer)
    answer = await served.get("metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert families["gateway_requests"].samples[0].value == 1
    assert families["gateway_connections"].samples[0].value == 3


async def test_gauges_are_read_again_for_each_page(served: Served) -> None:
    for number in (4, 5):
        served.connections = number
        assert f"\ngateway_connections {number}\n" in (await served.get("metrics")).text


ALLOWED = (ip_network("10.1.0.0/16"), ip_network("fd00::/8"), ip_network("127.0.0.0/8"))


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        ("10.1.2.3", True),
        ("127.0.0.1", True),
        ("::ffff:10.1.2.3", True),
        ("fd00::1", True),
        ("fd00::1%eth0", True),
        ("10.2.0.1", False),
        ("::ffff:10.2.0.1", False),
        ("::1", False),
        ("192.0.2.1", False),
        ("", False),
        ("testclient", False),
        ("10.1.2.3, 10.1.2.4", False),
        (None, False),
    ],
)
async def test_the_metrics_page_is_for_operators_addresses_only(peer: str | None, allowed: bool) -> None:
    served = Served(operations_allow=ALLOWED)
    served.peer = None if peer is None else (peer, 50000)
    if allowed:
        assert (await served.get("metrics")).status_code == 200
    else:
        with pytest.raises(Refusal) as refused:
            await served.get("metrics")
        assert refused.value.code == "forbidden"


async def test_without_listed_networks_no_client_is_an_operator() -> None:
    with pytest.raises(Refusal, match="forbidden"):
        await Served(operations_allow=()).get("metrics")


@pytest.mark.parametrize(
    ("peer", "client", "allowed"),
    [
        ("10.1.0.1", "192.0.2.1", False),
        ("192.0.2.1", "10.1.0.1", True),
        ("10.1.0.1", "", False),
        ("10.1.0.1", "10.1.0.2", True),
    ],
)
async def test_behind_a_trusted_proxy_the_address_it_vouches_for_counts(peer: str, client: str, allowed: bool) -> None:
    served = Served(operations_allow=ALLOWED)
    served.peer, served.decided_client = (peer, 50000), client
    if allowed:
        assert (await served.get("metrics", X_Forwarded_For=client)).status_code == 200
    else:
        with pytest.raises(Refusal, match="forbidden"):
            await served.get("metrics", X_Forwarded_For=client)


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Real-IP",
        "Via",
        "True-Client-IP",
        "X!Client!IP",
        "X-Forwarded",
    ],
)
@pytest.mark.parametrize("decided", [True, False])
async def test_an_untrusted_proxy_on_an_allowed_address_does_not_open_the_page_to_its_clients(
    header: str, decided: bool, served: Served
) -> None:
    if decided:
        served.decided_client = "127.0.0.1"
    with pytest.raises(Refusal) as refused:
        await served.get("metrics", **{header: "127.0.0.1"})
    assert refused.value.code == "forbidden"
    assert "trusted proxy" in refused.value.reason


async def test_without_metrics_there_is_no_page_not_even_for_strangers() -> None:
    served = Served(metrics=False)
    for peer in ("127.0.0.1", "192.0.2.1"):
        served.peer = (peer, 50000)
        with pytest.raises(Refusal) as refused:
            await served.get("metrics")
        assert refused.value.code == "no_route"
