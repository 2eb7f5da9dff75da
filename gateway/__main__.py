"""The command line: `gateway`, and `python -m gateway`.

Importing a command takes up to a second. Signals and descriptors must be set up before, so this module imports only the
standard library at its top.
"""

import gc
import os
import signal
import sys
from typing import Final

# PID 1 of a container ignores SIGTERM without a handler; elsewhere the default action of SIGHUP ends the process.
_HELD_BACK: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> None:
    """Run the command in the arguments, and exit with its exit code."""
    if sys.argv[1:2] == ["serve"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)  # the server unblocks them after installing its handlers
        # The objects of a start live as long as the process. Searching them for garbage takes a tenth of the start.
        gc.disable()
    open_standard_streams()
    # Imported after the signals are blocked: the import takes longer than starting Python.
    from gateway.cli.program import run

    sys.exit(run(sys.argv[1:]))


def open_standard_streams() -> None:
    """Open the null device for each closed standard stream (`gateway serve >&-`).

    Otherwise the next socket or database file gets the descriptor of that stream, and log lines are written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


if __name__ == "__main__":
    main()
