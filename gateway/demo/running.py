"""One demo from its start to its end: everything on loopback and in a temporary folder, which is gone afterwards."""

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from gateway.demo.echo import echo_upstream
from gateway.demo.folder import write_configuration
from gateway.demo.guide import ADMIN_EMAIL, Step, steps
from gateway.errors import CannotStart
from gateway.policy.loading import load_configuration
from gateway.server.run import serve

FIRST_PORT: Final = 8000
_PORTS: Final = range(FIRST_PORT, FIRST_PORT + 100)

Show = Callable[[str, list[Step]], None]


def run_demo(port: int | None, show: Show) -> int:
    """Run until Ctrl-C or SIGTERM; the exit code. `show` is told where the gateway answers and what to try.

    `port` None takes 8000 or the next free one. Raises CannotStart.
    """
    # Until the gateway itself listens for signals, and after, SIGTERM must still end the contexts below.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), TemporaryDirectory(prefix="gateway-demo-") as folder, echo_upstream() as upstream:
        chosen = port if port is not None else _free_port()
        path = write_configuration(Path(folder), port=chosen, upstream=upstream)
        configuration = load_configuration(path, os.environ)
        password = secrets.token_urlsafe(12)
        asyncio.run(_make_admin(configuration.settings, password))
        return serve(configuration, announce=partial(_answering, show, password, path))
    return 0


def _answering(show: Show, password: str, configuration: Path, address: str) -> None:
    # For `serve` SIGHUP means to read the configuration again; a demo whose terminal was closed has to end.
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, signal.raise_signal, signal.SIGTERM)
    show(address, steps(url=address, password=password, configuration=configuration))


def _free_port() -> int:
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise CannotStart(f"the ports {_PORTS[0]} to {_PORTS[-1]} are all taken; name a free one with --port")
