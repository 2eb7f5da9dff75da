"""Common mistakes in values, and the probable intention. Each function returns "" if it recognises no mistake."""

import re
import unicodedata
from typing import Final

from gateway.settings.yaml import MappingNode, ScalarNode

_UNITS: Final = {
    **dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("d", "day", "days"), "d"),
}
_DURATION: Final = re.compile(r" *([0-9]{0,9}) *([A-Za-z]+) *")
# 100/m, 100/min, 5 req/s, 100 per minute, 10/10s, 5r/s
_RATE: Final = re.compile(
    r" *([0-9]{1,9}) *(?:r|reqs?|requests?)? *(?:/|\bper\b|\ba\b) *([0-9]{0,9}) *([A-Za-z]+) *", re.IGNORECASE
)
_PER_LETTER: Final = re.compile(r" *([0-9]{1,9}) *(?:rp|reqp|p)([smh]) *", re.IGNORECASE)  # 5rps, 100 rpm
_BARE: Final = re.compile(r" *([0-9]{1,9}) *")
_TYPOGRAPHIC: Final = "“”„‟‘’‚‛«»‹›"
_INVISIBLE: Final = frozenset(("Cf", "Zs", "Zl", "Zp"))  # format characters; white space other than a plain space


def duration_meant(text: str) -> str:
    """`10 sec` means `10s`, `minute` means `1m`."""
    found = _DURATION.fullmatch(text)
    unit = None if found is None else _UNITS.get(found[2].lower())
    return "" if found is None or unit is None else f"{found[1] or 1}{unit}"


def rate_meant(text: str) -> str:
    """`100/m` means `{requests: 100, per: 1m}`."""
    found = _RATE.fullmatch(text)
    if found is not None:
        per = duration_meant(found[2] + found[3])
        return f"{{requests: {found[1]}, per: {per}}}" if per else ""
    found = _PER_LETTER.fullmatch(text)
    if found is not None:
        return f"{{requests: {found[1]}, per: 1{found[2].lower()}}}"
    found = _BARE.fullmatch(text)
    return "" if found is None else f"for example {{requests: {found[1]}, per: 1m}}"


def unquoted_capture(node: MappingNode) -> str:
    """The text intended by an unquoted `{id}`, which YAML reads as a mapping with an empty value."""
    entries = list(node.entries())
    if not entries or not all(_is_empty(key, value) for key, value in entries):
        return ""
    return "{" + ", ".join(key.text for key, _ in entries if isinstance(key, ScalarNode)) + "}"


def _is_empty(key: object, value: object) -> bool:
    return isinstance(key, ScalarNode) and isinstance(value, ScalarNode) and value.plain and not value.text


def odd_character(node: ScalarNode) -> str:
    """A message about an invisible character or typographic quotes in a text."""
    if node.text.isascii():
        return ""
    for character in node.text:
        if character != " " and unicodedata.category(character) in _INVISIBLE:
            name = unicodedata.name(character, "without a name")
            return f"has an invisible character, found U+{ord(character):04X} {name} (remove it, or type a plain space)"
    if node.plain and node.text[0] in _TYPOGRAPHIC:
        return f"is in typographic quotes, which YAML takes for a part of the text, found {node.text[0]} (\" or ')"
    return ""


def foreign_letter(text: str) -> str:
    """Name the first character outside of ASCII, because some look like Latin letters."""
    found = next((character for character in text if not character.isascii()), None)
    return "" if found is None else f"it has U+{ord(found):04X} {unicodedata.name(found, 'without a name')}"
