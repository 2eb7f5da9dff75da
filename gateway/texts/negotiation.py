"""The language of a response, from the preferences of the client (RFC 9110 12.5.4)."""

from collections.abc import Iterator, Sequence
from typing import Final

_MAX_HEADER: Final = 1000  # In characters. Browsers send about 50.
_MAX_RANGES: Final = 30


def preferred_language(languages: Sequence[str], header: str) -> str:
    """The language that the field Accept-Language prefers, by the lookup of RFC 4647 3.4; otherwise the first."""
    by_tag = {language.lower(): language for language in languages}
    for tag in _ranges(header[:_MAX_HEADER]):
        while tag:
            if tag in by_tag:
                return by_tag[tag]
            tag = tag.rpartition("-")[0]
    return languages[0]


def _ranges(header: str) -> Iterator[str]:
    """The ranges of the field by falling weight, without those of weight 0. Malformed ones are skipped."""
    weighted = []
    for number, item in enumerate(header.split(",")[:_MAX_RANGES]):
        tag, _, parameter = item.partition(";")
        weight = _weight(parameter.strip())
        if weight > 0:
            weighted.append((-weight, number, tag.strip().lower()))
    for _, _, tag in sorted(weighted):
        yield tag


def _weight(parameter: str) -> float:
    """A weight from 0 to 1; 1 without a parameter, 0 for a malformed one."""
    if not parameter:
        return 1.0
    name, _, value = parameter.partition("=")
    digits = value.replace(".", "", 1)
    if name.strip().lower() != "q" or len(value) > len("0.000") or not (digits.isascii() and digits.isdecimal()):
        return 0.0
    return min(float(value), 1.0)
