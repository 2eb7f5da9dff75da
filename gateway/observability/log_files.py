"""Log files: standard output or standard error redirected to a regular file.

Append mode allows another program to truncate the file (logrotate's `copytruncate`). Without it, the next record would
go to the old offset after a gap of NUL bytes. A record truncated by a full disk is terminated before the next one, so
that one record is lost instead of two.
"""

import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress


def append_only(descriptor: int) -> None:
    """Set append mode for a regular file. Other workers share the open file and its flags."""
    with suppress(OSError):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_APPEND)


def is_torn(descriptor: int, *, unknown: bool) -> bool:
    """Whether a regular file ends in the middle of a line; `unknown` if the file cannot be read."""
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            return False
        # The descriptor is write-only. Opening the file again requires Linux and read permission.
        reading = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return unknown
    try:
        return os.pread(reading, 1, max(os.fstat(reading).st_size - 1, 0)) != b"\n"
    finally:
        os.close(reading)


def appending(descriptor: int) -> Callable[[bytes], int]:
    """A function that writes a prefix of its argument to a regular file, and returns the number of bytes."""
    append_only(descriptor)
    has_failed = False

    def write(data: bytes) -> int:
        nonlocal has_failed
        try:
            if has_failed and is_torn(descriptor, unknown=True):
                os.write(descriptor, b"\n")
            has_failed = False
            return os.write(descriptor, data)
        except OSError:
            has_failed = True
            raise

    return write
