"""The memory of this process, for the metrics and for the garbage collector."""

import os
import resource
import sys
from pathlib import Path


def resident_memory(statm: Path = Path("/proc/self/statm")) -> int | None:
    """The resident memory in bytes; None if the system does not report it."""
    try:
        pages = int(statm.read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def resident_or_peak() -> int:
    """The resident memory in bytes, or its peak if the system does not report it."""
    now = resident_memory()
    if now is not None:
        return now
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
