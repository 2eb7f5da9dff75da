"""Parse a request written on a command line or in a test, byte for byte as a client would send it.

Nothing is decoded, cleaned or completed, so the gateway's own checks see the input unchanged.
"""

import os
import re
from typing import Final

from gateway.analysis.simulate import PolicyRequest
from gateway.settings.reader import InvalidValue
from gateway.settings.syntax import method as method_name

_URL: Final = re.compile(rb"(https?|wss?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


def parse_request_line(method: str, url: str, *, websocket: bool = False) -> PolicyRequest:
    """The request for a URL or a path. `ws://` or `websocket` makes it a WebSocket handshake.

    Raises InvalidValue if the text is not a request.
    """
    raw = os.fsencode(url)
    host, target = None, raw
    whole = _URL.fullmatch(raw)
    if whole is not None:
        # RFC 9112 3.2.1: a client sends `/` for a URL without a path.
        host, target = whole[2], whole[3] if whole[3].startswith(b"/") else b"/" + whole[3]
        websocket = websocket or whole[1].lower() in (b"ws", b"wss")
    elif not raw.startswith(b"/") and raw != b"*":
        raise InvalidValue("must begin with '/' or http://", f"/{url.lstrip('/')}")
    if websocket and method != "GET":
        raise InvalidValue("must be a GET: a WebSocket handshake is one (RFC 6455 4.1)")
    return PolicyRequest(method_name(method).encode("ascii"), target, host, websocket=websocket)
