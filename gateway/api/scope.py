"""The ASGI scope of admitted requests to built-in endpoints, common to both servers."""

from collections.abc import Callable
from typing import Any

from gateway.errors import Refusal
from gateway.gate.admission import Admission
from gateway.wire.fields import Field
from gateway.wire.paths import decoded_segment


def api_scope(admission: Admission, fields: list[Field], note_refusal: Callable[[Refusal], None]) -> dict[str, Any]:
    """The ASGI scope of a request to a built-in endpoint, with the canonical path that the gate has matched.

    `note_refusal` reports a refusal by the endpoint to the server, for logs and metrics.
    """
    request, target = admission.request, admission.target
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": f"1.{request.minor}",
        "method": request.method.decode("ascii"),
        "scheme": request.peer.scheme,
        "path": _api_path(target.path),
        "raw_path": target.path,
        "query_string": target.query or b"",
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in fields],
        "client": (request.peer.address, 0) if request.peer.address else None,
        "server": None,
        "state": {},
        "gateway.admission": admission,
        "gateway.client": request.client,
        "gateway.note_refusal": note_refusal,
    }


def _api_path(path: bytes) -> str:
    """The path without a trailing slash: patterns match both forms, Starlette routes only one."""
    return decoded_segment(path).decode().rstrip("/") or "/"
