"""The metrics page read again: text in, samples out. For those who look at a gateway from outside."""

import re
from collections.abc import Mapping
from typing import Final

Labels = frozenset[tuple[str, str]]
Samples = Mapping[tuple[str, Labels], float]

_LINE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)(?: \d+)?")
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?')
_ESCAPE: Final = re.compile(r"\\(.)")


def samples_of(page: str) -> Samples:
    """The samples of a page in Prometheus' text format 0.0.4. Raises ValueError where it is none."""
    found: dict[tuple[str, Labels], float] = {}
    for line in page.splitlines():
        if line and not line.startswith("#"):
            match = _LINE.fullmatch(line)
            if match is None:
                raise ValueError(f"not a line of metrics: {line[:80]!r}")
            name, labels, value = match.groups()
            found[name, _labels(labels or "")] = float(value)
    return found


def _labels(text: str) -> Labels:
    return frozenset((name, _ESCAPE.sub(_unescaped, value)) for name, value in _LABEL.findall(text))


def _unescaped(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]
