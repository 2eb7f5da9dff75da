"""The command line: `gateway`, and `python -m gateway`.

The imports of a command take up to a second. Signals and descriptors are set up before that second begins, so this
module imports the standard library alone at its top.
"""

import os
import signal
import sys
from typing import Final

# As PID 1 of a container, a process without a handler loses SIGTERM; elsewhere SIGHUP ends it.
_HELD_BACK: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> None:
    """Run the command that the arguments name, and end the process with its exit code."""
    if sys.argv[1:2] == ["serve"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)  # the server unblocks them once it obeys them
    open_standard_streams()
    from gateway.cli.program import run  # after the signals are blocked: importing takes longer than starting Python

    sys.exit(run(sys.argv[1:]))


def open_standard_streams() -> None:
    """Open the null device in place of each closed standard stream (`gateway serve >&-`).

    Otherwise the next socket or database file gets the number of that stream, and log lines go into it.
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
