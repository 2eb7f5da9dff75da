"""What a person writes down for a request -> the request, byte for byte as it would be sent."""

import os
import re
from typing import Final

import click

from gateway.policy.verdict import Asked
from gateway.settings.grammar import method as method_name
from gateway.settings.reader import Unacceptable

_URL: Final = re.compile(rb"(https?|wss?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


def asked(
    method: str, url: str, *, origin: str | None = None, websocket: bool = False, preflight: bool = False
) -> Asked:
    """The request for a URL, or for a path alone. Nothing of it is decoded, cleaned or completed, so that what the
    gateway would refuse is refused. Raises click.UsageError for what is no request at all."""
    raw = os.fsencode(url)
    host, target, scheme = None, raw, b""
    whole = _URL.fullmatch(raw)
    if whole is not None:
        scheme, host, target = whole[1].lower(), whole[2], whole[3]
        # RFC 9112 3.2.1: where a URL has no path, `/` is sent.
        target = target if target.startswith(b"/") else b"/" + target
    elif not raw.startswith(b"/") and raw != b"*":
        raise click.UsageError(f"a URL begins with '/' or http://, found {url!r}.")
    is_websocket = websocket or scheme in (b"ws", b"wss")
    if is_websocket and method != "GET":
        raise click.UsageError(f"a WebSocket handshake is a GET (RFC 6455 4.1), found {method}.")
    if preflight and origin is None:
        raise click.UsageError("--preflight needs --origin: only a page asks beforehand.")
    return Asked(
        checked_method(method), target, host, None if origin is None else os.fsencode(origin), is_websocket, preflight
    )


def checked_method(method: str) -> bytes:
    """A method as it stands on the wire. Raises click.UsageError."""
    try:
        return method_name(method).encode("ascii")
    except Unacceptable as error:
        raise click.UsageError(f"{method!r}: {error.message} ({error.right}).") from None
