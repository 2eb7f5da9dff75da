"""Exit codes of the commands."""

from typing import Final

FINE: Final = 0
NO: Final = 1  # the check ran and failed
UNUSABLE: Final = 2  # wrong usage or configuration, or the command cannot run here
INTERRUPTED: Final = 130  # as shells report for Ctrl-C (128 + SIGINT), so that scripts stop
