"""`gateway serve`: uvicorn's server around our protocol class, started and stopped as the contract says.

uvicorn gives the loop, the listening and the drain. Its lifespan is not used: what cannot start must say so in one line
instead of a traceback, and a drained process ends with an exit code, not with the signal that asked for it.
"""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import Any, Final

import uvicorn

from gateway.app import create_app, running
from gateway.errors import CannotStart, ConfigurationError
from gateway.operations.events import event
from gateway.policy.loading import Configuration
from gateway.reloading import Reloader
from gateway.runtime import Runtime
from gateway.server.protocol import GatewayProtocol
from gateway.server.supervisor import supervise

_BACKLOG: Final = 2048
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

Announce = Callable[[str], None]
Load = Callable[[], Configuration]


def serve(configuration: Configuration, *, announce: Announce, load: Load | None = None) -> int:
    """Serve until SIGTERM or SIGINT; `announce` is told the address once it answers. `load` reads the configuration
    anew on SIGHUP; None: there is no file that could have changed.

    The exit code: 0 when everything that ran was finished, 1 when `server.drain` was too short for it. Raises
    CannotStart and ConfigurationError.
    """
    server = configuration.settings.server
    listener = _listen(server.host, server.port)
    address = _address(listener, server.host)
    with listener:
        if server.workers == 1:
            return _serve_here(configuration, listener, load, partial(announce, address))
        current = Current(configuration, load)
        return supervise(
            lambda ready: _serve_here(current.configuration, listener, load, ready),
            workers=server.workers,
            ready=partial(announce, address),
            changed=current.renew,
        )


class Current:
    """The configuration that the next worker starts with."""

    def __init__(self, configuration: Configuration, load: Load | None) -> None:
        self.configuration = configuration
        self._load = load

    def renew(self) -> bool:
        """Load it anew; whether that is any good. What is wrong is said here, once, and not by every worker."""
        if self._load is None:
            return False
        try:
            self.configuration = self._load()
        except (ConfigurationError, CannotStart) as error:
            _say_refused(error)
            return False
        return True


def _serve_here(
    configuration: Configuration, listener: socket.socket, load: Load | None, ready: Callable[[], None]
) -> int:
    server = GatewayServer(configuration, load, ready)
    server.run(sockets=[listener])
    return 0 if server.finished else 1


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CannotStart(
            f"cannot listen on {host} port {port}: {error.strerror or error} "
            "(choose another with --host and --port, or with server.host and server.port)"
        ) from None
    listener.setblocking(False)
    return listener


def _address(listener: socket.socket, host: str) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


class GatewayServer(uvicorn.Server):
    """One process that serves. `finished`: whether everything that ran was finished when it stopped."""

    def __init__(self, configuration: Configuration, load: Load | None, ready: Callable[[], None]) -> None:
        self._app = create_app(configuration)
        self._configuration = configuration
        self._load = load
        self._ready = ready
        self._reloader: Reloader | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._stack = AsyncExitStack()
        self._runtime: Runtime | None = None
        self.finished = True
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what is to be said, we say
        super().__init__(
            uvicorn.Config(
                self._app,
                loop="uvloop",
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=max(1, round(configuration.settings.server.drain)),
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the stores, then the doors."""
        running_ = running(self._configuration, self._app)
        self._runtime, self._reloader = runtime, _ = await self._stack.enter_async_context(running_)
        protocol: Any = partial(GatewayProtocol, runtime)
        self.config.http_protocol_class = protocol
        runtime.connections = self.server_state.connections
        runtime.ticker.listen(self._tick)
        await super().startup(sockets)
        _settle_memory()
        runtime.readiness.phase = "serving"
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what runs, for as long as `server.drain` allows."""
        assert self._runtime is not None
        self._runtime.readiness.phase = "draining"
        await super().shutdown(sockets)
        for connection in self._open_connections():
            self.finished = False
            connection.transport.abort()
        await self._stack.aclose()

    def _tick(self, now: float) -> None:
        for connection in self._open_connections():
            connection.tick(now)

    def _open_connections(self) -> list[GatewayProtocol]:
        connections: set[Any] = self.server_state.connections
        return list(connections)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C ask to stop. uvicorn would raise them again at the end, and 0 would become 143."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        try:
            yield
        finally:
            for number in (*_SIGNALS, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _reload_soon(self) -> None:
        """SIGHUP. One that comes while the last is being obeyed is obeyed after it."""
        self._reloading = asyncio.get_running_loop().create_task(self._reload(self._reloading))

    async def _reload(self, before: "asyncio.Task[None] | None") -> None:
        if before is not None:
            await asyncio.wait([before])
        if self._load is None or self._reloader is None:
            return
        try:
            kept = await self._reloader.reload(self._load)
        except (ConfigurationError, CannotStart) as error:
            _say_refused(error)
        else:
            event("reload", "the new configuration is in force")
            for key in kept:
                event("reload", f"{key} has changed, which takes a restart")
        _settle_memory()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The second time nothing is waited for any more."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


def _say_refused(error: ConfigurationError | CannotStart) -> None:
    for line in str(error).splitlines():
        event("reload", f"refused, the old configuration stays: {line}")


def _settle_memory() -> None:
    """What is alive now stays: it need not be looked through again. And with fewer, larger collections the records of
    100,000 cached users do not cost a pause at every 700th object."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
