"""A reader who follows a page in an empty folder: writes its files, runs its commands, compares their output.

The reader replaces the ports 8000 and 9000 by free ones. Packages come from the environment of the tests instead of an
index: `python3 -m venv` makes a folder, and `pip` and `npm` check or copy installed packages. The launcher runs the
commands of the gateway, and passwords are hashed at the lowest cost.
"""

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.docs.commands import GatewayCommand
from tests.docs.pages import Command, File, Terminal, matches, steps
from tests.support.processes import PROJECT, free_port
from tests.support.waiting import eventually, listens

PORTS: Final = ("8000", "9000")
_SHELL: Final = r"""
set -ae -o pipefail
if [ -e "$READER_STATE" ]; then . "$READER_STATE"; cd "$READER_FOLDER"; fi
python3() {
  if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; echo ':' > "$3/bin/activate"
  else "$READER_PYTHON" "$@"; fi
}
pip() { "$READER_PYTHON" -c "$READER_CHECK" "${@:2}"; }
npm() {
  for name in "${@:2}"; do
    case "$1" in
      install) test -d "$READER_NODE/node_modules/$name"; ln -sfn "$READER_NODE/node_modules" node_modules ;;
      pack) cp "$READER_CACHE/${name/@/-}.tgz" . ;;
    esac
  done
}
"""
# The gateway runs from this folder, under any name of its installation.
_CHECK: Final = """
import importlib.metadata, sys
for name in sys.argv[1:]:
    name == "asgi-gateway" or importlib.metadata.version(name)
"""


_ACCOUNTS: Final = "\naccounts:\n"
_CHEAP: Final = _ACCOUNTS + "  password: {bcrypt_rounds: 4} # gateway: allow few-bcrypt-rounds\n"


class Reader:
    """Follows pages. `node` is a folder with node_modules, and `cache` one with the archives of `npm pack`."""

    def __init__(self, folder: Path, *, node: Path | None = None, cache: Path | None = None) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self._commands = folder / "commands"
        self._stack = ExitStack()
        self.ports = dict(zip(PORTS, (str(free_port()) for _ in PORTS), strict=True))
        self._log = folder / "terminals.log"
        self._terminals: list[subprocess.Popen[bytes]] = []
        binaries = Path(sys.executable).parent
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")} | {
            "PATH": os.pathsep.join([str(self._commands), str(binaries), os.environ["PATH"]]),
            "PYTHONPATH": str(PROJECT),
            "PYTHONWARNINGS": "",
            "READER_PYTHON": sys.executable,
            "READER_CHECK": _CHECK,
            "READER_STATE": str(folder / "state"),
            "READER_NODE": str(node or ""),
            "READER_CACHE": str(cache or ""),
        }

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            self._stack.enter_context(GatewayCommand(self._commands))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._terminals:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._terminals:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
        self._stack.close()

    def follow(self, page: Path) -> None:
        """Do each step of the page."""
        for step in steps(page):
            match step:
                case File():
                    self.write(step)
                case Command():
                    self.run(step, page.name)
                case Terminal():
                    self.start(step)

    def write(self, file: File) -> None:
        path = self.folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._own(file.text.replace(_ACCOUNTS, _CHEAP)), encoding="utf-8")

    def run(self, command: Command, page: str = "") -> str:
        """Run a command to its end, and compare its output with that of the page. The next command finds its variables,
        functions and folder."""
        keep = '\n(export -p; declare -f) > "$READER_STATE"; printf "READER_FOLDER=%q\\n" "$PWD" >> "$READER_STATE"'
        done = subprocess.run(
            ["bash", "-c", _SHELL + self._own(command.text) + keep],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        place = f"{page}:{command.line}: {command.text}"
        assert done.returncode == 0, f"{place}\n{done.stdout}\n{done.stderr}\n{self._logged()}"
        shown = self._own(command.output or "…")
        assert matches(shown, done.stdout), f"{place}\n{done.stdout}\nis not\n{shown}\n{self._logged()}"
        return done.stdout

    def start(self, terminal: Terminal) -> None:
        """Start the command of a terminal, and wait until one more port answers."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                ["bash", "-c", _SHELL + self._own(terminal.text)],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._terminals.append(process)

        def answers() -> bool:
            assert process.poll() is None, f"{terminal.text}\nended with {process.returncode}\n{self._logged()}"
            open_ports = [port for port in self.ports.values() if listens(("127.0.0.1", int(port)))]
            return len(open_ports) == len(self._terminals)

        eventually(answers, timeout=40, every=0.02)

    def _own(self, text: str) -> str:
        """The text with the ports of this reader."""
        return re.sub(r"\b(8000|9000)\b", lambda found: self.ports[found[1]], text)

    def _logged(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""
