"""Durations and sizes with units: `250ms 10s 15m 1h 14d`, `64KiB 10MiB`."""

import re
from typing import Final

LONGEST: Final = 3650 * 86_400.0  # seconds: ten years; dates computed from longer durations overflow
LARGEST: Final = 1 << 50  # bytes: 1 PiB

_MILLISECONDS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_BYTES: Final = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
# The number of digits is bounded, because int() is slow for thousands of them and then raises.
_DURATION: Final = re.compile(r"([0-9]{1,15})(ms|s|m|h|d)")
_SIZE: Final = re.compile(r"([0-9]{1,16})(B|KiB|MiB|GiB|TiB)?")


def parse_duration(text: str) -> float | None:
    """Seconds, or None for an invalid duration. At most ten years."""
    found = _DURATION.fullmatch(text)
    if found is None:
        return None
    seconds = int(found[1]) * _MILLISECONDS[found[2]] / 1000
    return seconds if seconds <= LONGEST else None


def format_duration(seconds: float) -> str:
    """The shortest form of a duration, exact to the millisecond: 900.0 is `15m`, 1.5 is `1500ms`."""
    milliseconds = round(seconds * 1000)
    if milliseconds == 0:
        return "0s"
    unit = next(name for name, size in _MILLISECONDS.items() if milliseconds % size == 0)
    return f"{milliseconds // _MILLISECONDS[unit]}{unit}"


def parse_size(text: str) -> int | None:
    """Bytes, or None for an invalid size. A number without a unit counts bytes. At most 1 PiB."""
    found = _SIZE.fullmatch(text)
    if found is None:
        return None
    size = int(found[1]) * _BYTES[found[2] or "B"]
    return size if size <= LARGEST else None


def format_size(size: int) -> str:
    """The shortest form of a size: 65536 is `64KiB`, 1000 is `1000B`. 0, which means no limit, stays `0`."""
    if size == 0:
        return "0"
    unit = next(name for name, factor in _BYTES.items() if size % factor == 0)
    return f"{size // _BYTES[unit]}{unit}"
