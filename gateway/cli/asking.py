"""Build a request from command-line arguments."""

import os

import click

from gateway.analysis.request_line import written_request
from gateway.analysis.simulate import Asked
from gateway.settings.reader import Unacceptable


def asked(
    method: str, url: str, *, origin: str | None = None, websocket: bool = False, preflight: bool = False
) -> Asked:
    """The request for METHOD and URL. Raises click.UsageError."""
    try:
        request = written_request(method, url, websocket=websocket)
    except Unacceptable as error:
        right = f" ({error.right})" if error.right else ""
        raise click.UsageError(f"{method} {url}: {error.message}{right}.") from None
    if preflight and origin is None:
        raise click.UsageError("--preflight needs --origin: browsers send preflights for pages only.")
    return request._replace(origin=None if origin is None else os.fsencode(origin), preflight=preflight)
