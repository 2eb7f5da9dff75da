"""The ASGI scope in which an own endpoint sees an admitted request, whichever face it came through."""

from collections.abc import Callable
from typing import Any

from gateway.admission import Admission
from gateway.errors import Refusal
from gateway.wire.fields import Field
from gateway.wire.paths import decoded_segment


def own_scope(admission: Admission, fields: list[Field], note_refusal: Callable[[Refusal], None]) -> dict[str, Any]:
    """The ASGI scope of a request to an own endpoint: its path is the canonical one that the gate has decided on.

    `note_refusal` tells the face of a refusal by the endpoint, for the logs and the metrics.
    """
    request, target = admission.request, admission.target
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": f"1.{request.minor}",
        "method": request.method.decode("ascii"),
        "scheme": request.peer.scheme,
        "path": _own_path(target.path),
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


def _own_path(path: bytes) -> str:
    """A pattern matches with and without a slash at its end; the application's routes are written without."""
    return decoded_segment(path).decode().rstrip("/") or "/"
