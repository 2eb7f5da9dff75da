"""Built-in endpoints for operations: health, readiness and metrics."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import gateway
from gateway.errors import Refusal
from gateway.observability.metrics.exposition import CONTENT_TYPE
from gateway.observability.metrics.metrics import Metrics
from gateway.settings.model import ObservabilitySettings
from gateway.wire.fields import is_forwarding

Phase = Literal["starting", "serving", "draining"]
Endpoint = Callable[[Request], Awaitable[Response]]

# `query_params` would decode the whole query: 11 ms for 30,000 percent signs.
_asks_strictly: Final = re.compile(rb"(?:^|&)strict(?:[=&]|$)").search


def _none() -> tuple[str, ...]:
    return ()


@dataclass(slots=True)
class Readiness:
    """The readiness of this process. `degraded` returns the names of the unavailable stores."""

    degraded: Callable[[], tuple[str, ...]] = _none
    phase: Phase = "starting"


def operation_endpoints(
    *, state: Readiness, policy: Callable[[], str], metrics: Metrics, settings: ObservabilitySettings
) -> dict[str, Endpoint]:
    """The handlers by endpoint name. `policy` returns the version of the policy in force."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        return _ready(state, policy(), strict=_asks_strictly(request.scope["query_string"]) is not None)

    async def page(request: Request) -> Response:
        if not settings.metrics:
            raise Refusal("no_route", "metrics are switched off")
        _admit_operator(request, settings)
        return Response(await metrics.page(), media_type=CONTENT_TYPE)

    return {"operations.health": health, "operations.ready": ready, "operations.metrics": page}


def _ready(state: Readiness, policy: str, *, strict: bool) -> Response:
    """503 removes this replica from load balancing. An unavailable store does not, because replicas share it: all would
    be removed, and cached users and public routes would fail too. `?strict` makes it count."""
    degraded = state.degraded()
    status: str = state.phase
    if state.phase == "serving":
        status = "degraded" if strict and degraded else "ready"
    body = {"status": status, "degraded": list(degraded), "policy": policy, "build": gateway.build()}
    return JSONResponse(body, status_code=200 if status == "ready" else 503)


def _admit_operator(request: Request, settings: ObservabilitySettings) -> None:
    """Raise Refusal unless the caller's address is in `observability.operations_allow`."""
    peer = request.client.host if request.client is not None else ""
    client = str(request.scope.get("gateway.client", peer))
    if client == peer and any(name == b"via" or is_forwarding(name) for name, _ in request.scope["headers"]):
        # The request comes through an untrusted proxy on an allowed address, usually this machine. Its address must not
        # grant access to its clients (CVE-2022-24797).
        raise Refusal("forbidden", f"{peer} forwards for another client and is no trusted proxy")
    if not _is_allowed(client, settings):
        raise Refusal("forbidden", f"{client or 'a caller without an address'} is not in operations_allow")


def _is_allowed(client: str, settings: ObservabilitySettings) -> bool:
    try:
        address = ip_address(client)
    except ValueError:
        return False  # no address (a Unix socket), or an invalid one
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # how a dual-stack socket reports IPv4 peers
    return any(address in network for network in settings.operations_allow)
