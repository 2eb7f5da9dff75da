"""A request as a person writes it down -> the request, byte for byte as it would be sent.

Nothing is decoded, cleaned or completed on the way, so that what the gateway would refuse is refused.
"""

import os
import re
from typing import Final

from gateway.policy.verdict import Asked
from gateway.settings.grammar import method as method_name
from gateway.settings.reader import Unacceptable

_URL: Final = re.compile(rb"(https?|wss?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


def written_request(method: str, url: str, *, websocket: bool = False) -> Asked:
    """The request for a URL, or for a path alone; `ws://` makes it a handshake, as `websocket` does. Raises
    Unacceptable for what is no request at all."""
    raw = os.fsencode(url)
    host, target = None, raw
    whole = _URL.fullmatch(raw)
    if whole is not None:
        # RFC 9112 3.2.1: where a URL has no path, `/` is sent.
        host, target = whole[2], whole[3] if whole[3].startswith(b"/") else b"/" + whole[3]
        websocket = websocket or whole[1].lower() in (b"ws", b"wss")
    elif not raw.startswith(b"/") and raw != b"*":
        raise Unacceptable("must begin with '/' or http://", f"/{url.lstrip('/')}")
    if websocket and method != "GET":
        raise Unacceptable("must be a GET: a WebSocket handshake is one (RFC 6455 4.1)")
    return Asked(method_name(method).encode("ascii"), target, host, websocket=websocket)
