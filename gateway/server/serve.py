"""`gateway serve`: uvicorn's server with the gateway's protocol class, started and stopped as a service.

uvicorn provides the event loop, the listening sockets and the drain. Its lifespan is not used: a failed start is one
line instead of a traceback, and a drained process ends with an exit code and not with the signal that stopped it.
"""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from types import FrameType
from typing import Any, Final, NamedTuple

import uvicorn
from starlette.types import Receive, Scope, Send

import gateway
from gateway.errors import CannotStart, ConfigurationError
from gateway.observability.events import event
from gateway.observability.log_writer import append_only
from gateway.observability.metrics.shared_memory import SharedMetrics, WorkerSlot
from gateway.policy.loader import Configuration
from gateway.policy.version import policy_version
from gateway.server.certificates import files_of, invalid_dates, server_context
from gateway.server.composition import running
from gateway.server.file_watch import FileWatch, WatchedFile, files_read_at_start
from gateway.server.garbage import Collector
from gateway.server.listener import (
    BACKLOG,
    HANDSHAKE,
    Listeners,
    OperationsListener,
    drain_backlog,
    stop_accepting,
)
from gateway.server.protocol.connection import ClientConnection
from gateway.server.reload import Reloader, merged
from gateway.server.runtime import Runtime
from gateway.server.tls_listener import TlsListener
from gateway.server.workers import SupervisorHooks, in_daemon_thread, supervise
from gateway.settings.model import Settings

Load = Callable[[], Configuration]

log: Final = logging.getLogger("gateway.server")


class ActiveConfiguration:
    """The configuration with which the next worker starts. It equals that of the running workers, so that workers do
    not differ in settings that need a restart."""

    def __init__(self, configuration: Configuration, load: Load | None) -> None:
        self.configuration = configuration
        self._load = load

    def load(self) -> Configuration:
        """Load the file, for use in a thread. Raises ConfigurationError and CannotStart."""
        if self._load is None:
            return self.configuration
        return merged(self.configuration, self._load())[0]

    def accept(self, loaded: "Future[Configuration]") -> bool:
        """Apply the result of `load`. Return False if it failed; the reason is logged here once, and not by every
        worker."""
        try:
            configuration = loaded.result()
        except (ConfigurationError, CannotStart) as error:
            log_rejected(error)
            return False
        except Exception:
            log.exception("loading the new configuration failed: the old one stays")
            return False
        is_new = configuration is not self.configuration
        self.configuration = configuration
        return is_new


def log_rejected(error: ConfigurationError | CannotStart) -> None:
    """Log why a new configuration is rejected."""
    for line in str(error).splitlines():
        event("reload", f"refused, the old configuration stays: {line}")


_STOP: Final = (signal.SIGTERM, signal.SIGINT)
_SIGNALS: Final = (*_STOP, signal.SIGHUP)
_STANDARD_ERROR: Final = 2
# The interval in seconds at which a Python thread gives way to the event loop. The loop waits this long at each step
# while a thread compiles a policy or builds a page. With the default of 5 ms, a gateway under load almost stops.
_SWITCH_INTERVAL: Final = 0.0005
_FILES: Final = 256  # file descriptors besides those of connections: stores, logs, the event loop

Announce = Callable[[str], None]


def serve(configuration: Configuration, *, announce: Announce, load: Load | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Call `announce` with the address once the gateway answers. `load` reads the
    configuration on SIGHUP, and a WatchedFile when it has changed; None: there is no file.

    Return 0 if all requests were completed, 1 if `server.drain` was too short for that, 2 if a worker could not start.
    Raises CannotStart and ConfigurationError.
    """
    server = configuration.settings.server
    sys.setswitchinterval(_SWITCH_INTERVAL)
    with ExitStack() as stack:
        listeners = Listeners.open(server, stack)
        _allow_files(server.max_connections)
        append_only(_STANDARD_ERROR)  # the access log does the same for standard output
        stack.enter_context(_signals_held_back())
        if _stop_is_pending():
            return 0
        if os.getpid() == 1 and server.workers == 1:
            # The kernel then reaps the orphans of a container. With workers, the supervisor waits for all children.
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        ready = partial(announce, listeners.address(server))
        if load is not None:  # a demo has no version to compare
            ready = partial(_say_policy, policy_version(configuration.settings), ready)
        current = ActiveConfiguration(configuration, load)
        del configuration  # this frame lives as long as the gateway, and a reload must free the first configuration
        if server.workers == 1:
            return _serve_here(current, listeners, load, ready)
        gc.enable()  # the supervisor has no collector of its own
        shared = stack.enter_context(closing(SharedMetrics(server.workers)))
        parent = os.getpid()

        def stopping() -> float:
            stop_accepting(listeners.public)
            listeners.close()  # otherwise clients could still connect to the open socket and wait without an answer
            return current.configuration.settings.server.drain

        return supervise(
            lambda ready, number: _serve_here(
                current, listeners, load, ready, supervised=Supervised(parent, WorkerSlot(shared, number))
            ),
            workers=server.workers,
            hooks=SupervisorHooks(
                ready=ready,
                load=current.load,
                loaded=current.accept,
                stopping=stopping,
                ended=shared.release,
                watch=load.changed if isinstance(load, WatchedFile) else None,
            ),
        )


class Supervised(NamedTuple):
    """The relation of a worker to the others: the process that supervises it, and its slot among the workers."""

    parent: int
    slot: WorkerSlot


def _say_policy(version: str, announce: Callable[[], None]) -> None:
    """Log the policy version once the gateway answers. A gateway that cannot start has no policy in force."""
    event("start", "serving", policy=version, build=gateway.build())
    announce()


def _serve_here(
    current: ActiveConfiguration,
    listeners: Listeners,
    load: Load | None,
    ready: Callable[[], None],
    *,
    supervised: "Supervised | None" = None,
) -> int:
    server = GatewayServer(current, load, ready, supervised=supervised)
    server.operations_listener = listeners.operations
    server.run(sockets=[listeners.public])
    return 0 if server.finished else 1


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Block signals until their handlers are installed. By default they would end the process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop_is_pending() -> bool:
    """Return whether a stop was requested while the file was loaded. Takes the signal, so that it does not end the
    process."""
    is_pending = False
    while signal.sigtimedwait(_STOP, 0) is not None:
        is_pending = True
    return is_pending


def _allow_files(connections: int) -> None:
    """Raise the limit of open files to the system's limit, because shells set a low one and each connection needs a
    file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # some systems allow less than they report
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft != resource.RLIM_INFINITY and soft < connections + _FILES:
        event(
            "limits", f"this process may open {soft} files; server.max_connections is {connections}: raise `ulimit -n`"
        )


async def _unused(scope: Scope, receive: Receive, send: Send) -> None:
    """The application that uvicorn requires. ClientConnection does not call it."""
    raise AssertionError


class GatewayServer(uvicorn.Server):
    """One serving process. `finished` tells whether all requests were completed at the stop.

    `current` holds the configuration to start with, and after each reload the one in force. `supervised` is None
    without a supervising process.
    """

    operations_listener: socket.socket | None = None

    def __init__(
        self,
        current: ActiveConfiguration,
        load: Load | None,
        ready: Callable[[], None],
        *,
        supervised: Supervised | None = None,
    ) -> None:
        self._current = current
        self._load = load
        self._ready = ready
        self._parent = None if supervised is None else supervised.parent
        self._slot = None if supervised is None else supervised.slot
        self._reloader: Reloader | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._is_behind = False  # a reload is pending
        self._stack = AsyncExitStack()
        self._operations: OperationsListener | None = None
        self._tls: TlsListener | None = None
        self._certificates: FileWatch | None = None
        self._read_at_start: FileWatch | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._runtime: Runtime | None = None
        self._stopping = asyncio.Event()
        self.finished = True
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # the gateway logs its own messages
        super().__init__(
            uvicorn.Config(
                _unused,
                http=ClientConnection,
                loop="uvloop",
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                backlog=BACKLOG,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the stores, then the listeners. Raises CannotStart for an unusable certificate."""
        certificates = self._current.configuration.settings.server.tls
        self._watch_certificates(self._current.configuration.settings)
        context = server_context(certificates) if certificates else None
        running_ = running(self._current.configuration, self._slot)
        self._runtime, self._reloader = runtime, _ = await self._stack.enter_async_context(running_)
        self._collector = Collector(self._is_serving, runtime.request_ids.count)
        protocol: Any = partial(ClientConnection, runtime)
        self.config.http_protocol_class = protocol
        runtime.connections = self.server_state.connections
        runtime.ticker.subscribe(self._tick)
        runtime.tls = context
        self._watch_files_read_at_start(self._current.configuration.settings)
        await super().startup([] if context else sockets)
        if context and sockets:
            self._tls = TlsListener(runtime, sockets[0].dup(), self._client_connection)
            self._tls.open()
            self._report_dates()
        if self.operations_listener is not None and runtime.operations is not None:
            self._operations = OperationsListener(runtime.operations, self.config, self.operations_listener)
            await self._operations.open()
        self._collector.collect_and_freeze(runtime.loop.time())
        runtime.ticker.subscribe(self._collector.tick)
        runtime.readiness.phase = "serving"
        self._ready()
        if self._is_behind:
            self._reload_soon()

    async def main_loop(self) -> None:
        """Wait for a stop. uvicorn's loop looks for one ten times a second, and renews a Date field that
        ClientConnection does not use."""
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Complete the running requests, for at most `server.drain`."""
        assert self._runtime is not None
        self._runtime.readiness.phase = "draining"
        if self._reloading is not None:
            self._reloading.cancel()
        drain: Any = self._runtime.server.drain  # uvicorn's type is int, but it accepts a float
        self.config.timeout_graceful_shutdown = drain
        await self._close_listeners(sockets or [])
        await super().shutdown()
        for connection in self._open_connections():
            self.finished = False
            connection.transport.abort()
        if self._operations is not None:
            await self._operations.close()
        await self._stack.aclose()

    async def _close_listeners(self, sockets: list[socket.socket]) -> None:
        """Stop listening, but serve connections that have been accepted."""
        listeners = [listener.dup() for listener in sockets]
        tls = self._tls
        if self._parent is None:  # otherwise other workers may continue, and the parent does this when all of them end
            for listener in listeners:
                stop_accepting(listener)
        for connection in self._open_connections():
            connection.shutdown()  # uvicorn does it after the wait; responses announce the close from now on
        await asyncio.sleep(HANDSHAKE)
        for server in self.servers:
            server.close()
        assert self._runtime is not None
        for listener in listeners:
            for one in drain_backlog(listener):
                if tls is None:
                    await self._runtime.loop.connect_accepted_socket(self._client_connection, one)
                else:
                    tls.start_tls(one)
        if tls is not None:
            await tls.close()

    def _client_connection(self) -> ClientConnection:
        assert self._runtime is not None
        return ClientConnection(self._runtime, self.config, self.server_state, {})

    def _tick(self, now: float) -> None:
        for connection in self._open_connections():
            connection.tick(now)
        if self._parent is not None and os.getppid() != self._parent:
            self._stop()  # without its supervisor, no process would ever stop it
        if self._parent is None and isinstance(self._load, WatchedFile) and self._load.changed():
            self._reload_soon()
        if self._certificates is not None and self._certificates.changed():
            self._renewing = asyncio.get_running_loop().create_task(self._renew_certificates())
        if self._read_at_start is not None:
            self._read_at_start.changed()  # logs missing files; changed ones wait for a reload

    # A watch of the same files stays after a reload, because it knows their earlier state.

    def _watch_certificates(self, settings: Settings) -> None:
        files = files_of(settings.server.tls or ())
        if self._certificates is None or self._certificates.paths != files:
            self._certificates = FileWatch(files, logs=self._is_first)

    def _watch_files_read_at_start(self, settings: Settings) -> None:
        files = files_read_at_start(settings) if self._is_first else []
        if self._read_at_start is None or self._read_at_start.paths != files:
            self._read_at_start = FileWatch(files, is_read=False)

    @property
    def _is_first(self) -> bool:
        """Whether this process is the first of the workers, or the only one."""
        return self._slot is None or self._slot.number == 0

    async def _renew_certificates(self) -> None:
        """Use renewed files for new connections. A certificate and its key are two files: while they do not fit, the
        old ones stay, and the change of the second file comes here again."""
        runtime, certificates = self._runtime, self._current.configuration.settings.server.tls
        if runtime is None or not certificates:
            return
        try:
            runtime.tls = await asyncio.wrap_future(in_daemon_thread(partial(server_context, certificates)))
        except CannotStart as error:
            event("tls", f"the renewed certificates are refused, the old ones stay: {error}")
        else:
            event("tls", "renewed certificates are in force")
            self._report_dates()

    def _report_dates(self) -> None:
        """Log certificates with invalid dates, once for all workers."""
        if self._is_first:
            for each in invalid_dates(self._current.configuration.settings.server.tls or (), datetime.now(UTC)):
                event("tls", str(each))

    def _is_serving(self) -> bool:
        return any(connection.is_serving for connection in self._open_connections())

    def _open_connections(self) -> list[ClientConnection]:
        connections: set[Any] = self.server_state.connections
        return list(connections)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and Ctrl-C. uvicorn would raise them again at the end, and the exit code would be 143 instead
        of 0."""
        loop = asyncio.get_running_loop()
        stop: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)
        if self._parent is not None:
            stop = (signal.SIGTERM, signal.SIGQUIT)
        for number in stop:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # later signals must not change the exit
            for number in (*stop, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _reload_soon(self) -> None:
        """Reload on SIGHUP. Any number of signals during one reload cause one more, which reads the newest file."""
        if self._load is None:
            return
        self._is_behind = True
        is_reloading = self._reloading is not None and not self._reloading.done()
        if self._reloader is not None and not is_reloading and not self.should_exit:
            self._reloading = asyncio.get_running_loop().create_task(self._reload(self._reloader, self._load))

    async def _reload(self, reloader: Reloader, load: Load) -> None:
        while self._is_behind and not self.should_exit:
            self._is_behind = False
            await self._reload_once(reloader, load)

    async def _reload_once(self, reloader: Reloader, load: Load) -> None:
        try:
            kept = await reloader.reload(load)
        except (ConfigurationError, CannotStart) as error:
            log_rejected(error)
        except Exception:
            log.exception("loading the new configuration failed: the old one stays")
        else:
            self._current.configuration = reloader.configuration
            self._watch_certificates(reloader.configuration.settings)
            self._watch_files_read_at_start(reloader.configuration.settings)
            for key in kept:
                event("reload", f"{key} has changed, which takes a restart")
            event("reload", "the new configuration is in force", policy=reloader.policy_version)
        self._collector.note_reload()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop without waiting at the second signal. A worker gets SIGQUIT for that, because it can receive SIGTERM
        from its supervisor and also from a service manager that stops the whole group."""
        self.force_exit = sig == signal.SIGQUIT or (self.should_exit and self._parent is None)
        self._stop()

    def _stop(self) -> None:
        self.should_exit = True
        self._stopping.set()
