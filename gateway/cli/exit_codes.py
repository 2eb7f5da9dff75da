"""What a command's exit code says."""

from typing import Final

FINE: Final = 0
NO: Final = 1  # it ran, and the answer is no
UNUSABLE: Final = 2  # wrong usage or configuration, or it cannot run here
INTERRUPTED: Final = 130  # what a shell reports for a program that Ctrl-C ended; scripts stop on it
