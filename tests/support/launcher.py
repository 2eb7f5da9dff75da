"""Starts gateways from a process that has already imported them.

The imports are most of the CPU time of a start, and the suite starts hundreds of gateways. The launcher imports the
gateway once and forks a process for each start, which runs the command line of that start. Tests of the start itself
use an interpreter of their own.
"""

import asyncio
import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final

PROJECT: Final = Path(__file__).resolve().parents[2]
# The entry points of both faces and of the commands, and the modules that they import when they run.
_MODULES: Final = (
    "email_validator",
    "encodings.idna",
    "gateway.accounts.mail.sender",
    "gateway.accounts.mail.smtp",
    "gateway.api.console.endpoints",
    "gateway.app",
    "gateway.cli.check",
    "gateway.cli.db",
    "gateway.cli.demo.command",
    "gateway.cli.program",
    "gateway.cli.serve",
    "gateway.cli.top",
    "gateway.cli.users.command",
    "gateway.proxy.httpx_engine.connection",
    "gateway.server.asgi.websocket",
    "gateway.server.issuers",
    "gateway.storage.migrations",
    "gateway.storage.postgresql",
    "gateway.storage.redis.buckets",
    "gateway.storage.redis.change_feed",
    "gateway.storage.redis.failed_attempts",
    "gateway.storage.sqlite",
    "getpass",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "tests.support.statements",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
)
_SYSTEM_ROOTS: Final = os.environ.get("SSL_CERT_FILE")
_CONFIGURATION: Final = """
server: {{public_url: "https://app.example.com"}}
storage: {{database: "sqlite:///{folder}/gateway.db"}}
accounts: {{pages: {{}}, password: {{bcrypt_rounds: 4}}}}
sessions: {{origins: ["https://www.example.com"]}}
"""
_NUMBER: Final = struct.Struct("i")
_exit_codes: Final[list[int]] = []  # of this process, as soon as its program has ended
_LARGEST: Final = 1 << 20  # bytes of a request to the launcher


class Launched:
    """A process that the launcher has started, with the methods of `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], connection: socket.socket) -> None:
        self.args = [sys.executable, *arguments]
        self.returncode: int | None = None
        self._connection = connection  # to the parent of the process
        self.pid = _received(connection)

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while the process runs."""
        return self._exit_code(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._exit_code(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _exit_code(self, timeout: float | None) -> int | None:
        if self.returncode is None and self._has_ended(timeout):
            self.returncode = os.waitstatus_to_exitcode(_received(self._connection))
            self._connection.close()
        return self.returncode

    def _has_ended(self, timeout: float | None) -> bool:
        poll = select.poll()  # `select.select` takes no descriptor above 1023, and some tests open more
        poll.register(self._connection, select.POLLIN)
        return bool(poll.poll(None if timeout is None else 1000 * timeout))


def launch(
    arguments: Sequence[str], *, stdin: int, stdout: int, stderr: int, env: Mapping[str, str], cwd: Path = PROJECT
) -> Launched:
    """Run `python -m MODULE …` or `python -c CODE …` with these descriptors."""
    ours, theirs = socket.socketpair()
    with theirs:
        request = json.dumps([list(arguments), _with_few_roots(env), str(cwd)]).encode()
        socket.send_fds(_launcher(), [request], [stdin, stdout, stderr, theirs.fileno()])
    return Launched(arguments, ours)


def _with_few_roots(env: Mapping[str, str]) -> dict[str, str]:
    """The variables with one root certificate, unless the test names others. Those of the system take 40 ms to read."""
    own = env.get("SSL_CERT_FILE") != _SYSTEM_ROOTS
    return dict(env) if own else {**env, "SSL_CERT_FILE": _root()}


@cache
def _root() -> str:
    """The name of a file with a root certificate."""
    from trustme import CA  # imported here, because the launcher itself does not need it

    descriptor, path = tempfile.mkstemp(suffix=".pem")
    with open(descriptor, "wb") as file:
        file.write(CA().cert_pem.bytes())
    atexit.register(os.unlink, path)
    return path


def run(
    arguments: Sequence[str],
    *,
    input: str = "",
    env: Mapping[str, str] = os.environ,
    cwd: Path = PROJECT,
    timeout: float = 30,
) -> "subprocess.CompletedProcess[str]":
    """Run such a command to its end, like `subprocess.run`."""
    with tempfile.TemporaryFile("w+") as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(input)
        stdin.seek(0)
        process = launch(
            arguments, stdin=stdin.fileno(), stdout=stdout.fileno(), stderr=stderr.fileno(), env=env, cwd=cwd
        )
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, code, _text(stdout), _text(stderr))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@cache
def _launcher() -> socket.socket:
    """The connection to the launcher, which starts at the first use and ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=PROJECT,
            start_new_session=True,  # Ctrl-C in the terminal ends the tests, which then stop their gateways
        )

    def stop() -> None:
        ours.close()
        process.wait(10)

    atexit.register(stop)
    return ours


def _received(connection: socket.socket) -> int:
    data = connection.recv(_NUMBER.size, socket.MSG_WAITALL)
    if len(data) < _NUMBER.size:
        raise RuntimeError("the launcher has ended")
    number: int = _NUMBER.unpack(data)[0]
    return number


# ---- in the launcher


def _serve(connection: socket.socket) -> list[str] | None:
    """Fork two processes for each request: one that runs the program, and its parent, which reports the exit code.

    Return twice, like a fork: in a forked process its arguments, and None at the end of the launcher.
    """
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, _LARGEST, 4)
        if not data:
            return None
        if os.fork() == 0:
            connection.close()
            return _run(*json.loads(data), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        _reap_finished()


def _run(arguments: list[str], env: dict[str, str], cwd: str, *descriptors: int) -> list[str]:
    *streams, report = descriptors
    pid = os.fork()
    if pid:
        _report_exit(pid, report)
    os.close(report)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # depends on the environment
    os.chdir(cwd)
    return arguments


def _report_exit(pid: int, report: int) -> None:
    """Send the process id and, at its end, the status of the process. Does not return.

    The process is killed if the tests end without stopping it.
    """
    try:
        os.closerange(0, report)
        os.write(report, _NUMBER.pack(pid))
        if hasattr(os, "pidfd_open") and report in select.select([os.pidfd_open(pid), report], [], [])[0]:
            os.kill(pid, signal.SIGKILL)
        os.write(report, _NUMBER.pack(os.waitpid(pid, 0)[1]))
    finally:
        os._exit(0)


def _reap_finished() -> None:
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                return
        except ChildProcessError:
            return


def _interpret(arguments: Sequence[str]) -> None:
    """Do as the interpreter with these arguments."""
    try:
        _execute(*arguments)
    except SystemExit as end:
        _leave_with(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
        raise
    except Exception:
        _leave_with(1)
        raise
    _leave_with(0)


def _leave_with(code: int) -> None:
    """End the process with this code as soon as the exit handlers have run."""
    _exit_codes.append(code)


def _leave() -> None:
    """Leave the memory of the process to the system. To free every object of the launcher, as the interpreter does,
    takes longer than most commands run, because the system copies each page first."""
    if _exit_codes:
        gc.collect()  # unawaited coroutines and the like write their warnings
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):  # the interpreter reports it
            return
        os._exit(_exit_codes[0] & 0xFF)


def _execute(option: str, program: str, *others: str) -> None:
    sys.argv = [option, *others]
    if option == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        namespace: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(program, "<string>", "exec"), namespace)


async def _start_once() -> None:
    """Run the startup of a gateway and the requests of one account, which import and compile most of the things that a
    later gateway needs."""
    from gateway.app import create_app
    from gateway.policy.loader import load_configuration

    with tempfile.TemporaryDirectory() as folder, _quiet():
        file = Path(folder, "gateway.yaml")
        file.write_text(_CONFIGURATION.format(folder=folder))
        app = create_app(load_configuration(file, {}))
        async with app.router.lifespan_context(app):
            await _use_account(app)


async def _use_account(app: Any) -> None:
    """Register, sign in, refresh and sign out. The forked gateways share the compiled SQL statements."""
    from httpx import ASGITransport, AsyncClient

    account = {"email": "user@example.com", "password": "correct horse battery"}
    async with AsyncClient(transport=ASGITransport(app), base_url="https://app.example.com") as client:
        await client.post("/auth/register", json=account)
        tokens = (await client.post("/auth/login", json=account)).json()
        bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
        await client.get("/auth/me", headers=bearer)
        await client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
        await client.post("/auth/logout", headers=bearer)


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard standard error."""
    error = os.dup(2)
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(error, 2)
        os.close(error)


if __name__ == "__main__":
    atexit.register(_leave)  # before all others, because it runs last
    for module in _MODULES:
        import_module(module)
    asyncio.run(_start_once())
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy the pages of every object of the launcher
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        arguments = _serve(connection)
    if arguments is not None:
        _interpret(arguments)
