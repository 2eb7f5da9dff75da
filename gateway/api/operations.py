"""What is asked about the gateway itself: does it live, may it get requests, what has it counted."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.errors import Refusal
from gateway.observability.metrics.exposition import CONTENT_TYPE
from gateway.observability.metrics.metrics import Metrics
from gateway.settings.model import ObservabilitySettings
from gateway.wire.fields import is_forwarding

Phase = Literal["starting", "serving", "draining"]
Endpoint = Callable[[Request], Awaitable[Response]]

# Not `query_params`, which decodes all of a query: 11 ms for 30,000 percent signs.
_asks_strictly: Final = re.compile(rb"(?:^|&)strict(?:[=&]|$)").search


def _none() -> tuple[str, ...]:
    return ()


@dataclass(slots=True)
class Readiness:
    """Whether this process may get requests. `degraded` answers the names of the stores that are out just now."""

    degraded: Callable[[], tuple[str, ...]] = _none
    phase: Phase = "starting"


def operation_endpoints(
    *, state: Readiness, policy: Callable[[], str], metrics: Metrics, settings: ObservabilitySettings
) -> dict[str, Endpoint]:
    """The handlers by the names of their endpoints. `policy` answers the version of the one in force."""

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
    """503 takes this replica out of rotation. A store that is out does not: it is shared, so it would take all of
    them out, cached users would be refused, and public routes with them. `?strict` is for those who want that."""
    degraded = state.degraded()
    status: str = state.phase
    if state.phase == "serving":
        status = "degraded" if strict and degraded else "ready"
    body = {"status": status, "degraded": list(degraded), "policy": policy}
    return JSONResponse(body, status_code=200 if status == "ready" else 503)


def _admit_operator(request: Request, settings: ObservabilitySettings) -> None:
    """Raise Refusal unless the caller's address is one of `observability.operations_allow`."""
    peer = request.client.host if request.client is not None else ""
    client = str(request.scope.get("gateway.client", peer))
    if client == peer and any(name == b"via" or is_forwarding(name) for name, _ in request.scope["headers"]):
        # A proxy that nobody told us to trust stands on an allowed address, mostly this very machine, and speaks for
        # somebody else. Its address must not open to the whole world what is meant for it alone (CVE-2022-24797).
        raise Refusal("forbidden", f"{peer} forwards for somebody else and is no trusted proxy")
    if not _is_allowed(client, settings):
        raise Refusal("forbidden", f"{client or 'a caller without an address'} is not in operations_allow")


def _is_allowed(client: str, settings: ObservabilitySettings) -> bool:
    try:
        address = ip_address(client)
    except ValueError:
        return False  # no address (a Unix socket), or none that can be judged
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # a socket for both families reports IPv4 peers so
    return any(address in network for network in settings.operations_allow)
