"""A command `gateway` for shells, which the launcher runs instead of an interpreter of its own.

The command is a script that sends its process id over a connection and waits for an exit code. Linux shows the
arguments, the environment, the folder and the descriptors of that process in /proc.
"""

import contextlib
import os
import signal
import socketserver
import stat
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.launcher import Launched, launch

# A redirection of a built-in command changes the descriptors of the process itself, which the launched one gets.
_SCRIPT: Final = """#!/bin/bash
exec {{connection}}<>/dev/tcp/127.0.0.1/{port}
(echo $$ >&"$connection")
read -r -u "$connection" code
exit "$code"
"""


class GatewayCommand:
    """Puts the command into a folder, and runs its programs until the end of the `with` block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._launched: list[Launched] = []
        self._server = _Server(("127.0.0.1", 0), self._answering())

    def __enter__(self) -> Self:
        self.folder.mkdir()
        script = self.folder / "gateway"
        script.write_text(_SCRIPT.format(port=self._server.server_address[1]))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        threading.Thread(target=self._server.serve_forever, args=(0.05,)).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        for process in self._launched:
            # Its thread alone reads its exit code.
            with contextlib.suppress(ProcessLookupError):
                if process.returncode is None:
                    os.kill(process.pid, signal.SIGTERM)
        self._server.server_close()

    def _answering(self) -> type[socketserver.StreamRequestHandler]:
        launched = self._launched

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                process = _launch(Path("/proc", self.rfile.readline().decode().strip()))
                launched.append(process)
                code = process.wait()
                with contextlib.suppress(OSError):  # the shell has ended before its command
                    self.wfile.write(b"%d\n" % (code & 0xFF))

        return Handler


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = False  # the end of the server waits for the threads


def _launch(script: Path) -> Launched:
    """Run the program with the arguments and the surroundings of this process of the script."""
    _, _, *arguments = _strings(script / "cmdline")
    environment = dict(entry.split("=", 1) for entry in _strings(script / "environ"))
    with contextlib.ExitStack() as stack:
        streams = []
        for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_APPEND)):
            streams.append(os.open(script / f"fd/{number}", flags))
            stack.callback(os.close, streams[-1])
        stdin, stdout, stderr = streams
        return launch(
            ["-m", "gateway", *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            cwd=(script / "cwd").readlink(),
        )


def _strings(file: Path) -> list[str]:
    return [os.fsdecode(string) for string in file.read_bytes().split(b"\0")[:-1]]
